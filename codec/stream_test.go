package codec_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/motto123/minigate/codec"
)

// collect feeds the stream in pieces, and returns copies of the packets and the
// first error. It holds the Decoder to its bounds on the way.
func collect(t *testing.T, d *codec.Decoder, pieces ...[]byte) ([]codec.Packet, error) {
	t.Helper()
	var packets []codec.Packet
	fed := 0
	for _, piece := range pieces {
		err := d.Feed(piece, func(p codec.Packet) error {
			p.Body = bytes.Clone(p.Body)
			packets = append(packets, p)
			return nil
		})
		fed += len(piece)
		if d.Capacity() > max(2*fed, codec.HeaderSize) || d.Capacity() > codec.HeaderSize+codec.MaxBody {
			t.Fatalf("holds %d bytes after %d", d.Capacity(), fed)
		}
		if err != nil {
			return packets, err
		}
		if d.Buffered() == 0 && d.Capacity() != 0 {
			t.Fatalf("holds %d bytes between packets", d.Capacity())
		}
	}
	return packets, nil
}

// decodeAll is what Feed is held against: packets one after the other, and how
// many bytes of one that is not complete follow.
func decodeAll(b []byte) (packets []codec.Packet, left int, err error) {
	for len(b) > 0 {
		p, n, err := codec.DecodePacket(b)
		if errors.Is(err, codec.ErrShort) {
			return packets, len(b), nil
		}
		if err != nil {
			return packets, 0, err
		}
		packets, b = append(packets, p), b[n:]
	}
	return packets, 0, nil
}

func samePackets(a, b []codec.Packet) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Type != b[i].Type || a[i].Sub != b[i].Sub || !bytes.Equal(a[i].Body, b[i].Body) {
			return false
		}
	}
	return true
}

// vectorStream is every packet of the vectors, one after the other.
func vectorStream(t testing.TB) []byte {
	t.Helper()
	v := readVectors(t)
	var b []byte
	for _, p := range v.Packets {
		b = append(b, unhex(t, p.PacketHex)...)
	}
	for _, m := range v.Messages {
		b = append(b, unhex(t, m.PacketHex)...)
	}
	return b
}

func TestFeedEveryCut(t *testing.T) {
	stream := vectorStream(t)
	want, left, err := decodeAll(stream)
	if err != nil || left != 0 || len(want) != 11 {
		t.Fatalf("%d packets, %d bytes left, %v", len(want), left, err)
	}
	for i := 0; i <= len(stream); i++ {
		for j := i; j <= len(stream); j++ {
			var d codec.Decoder
			got, err := collect(t, &d, stream[:i], stream[i:j], stream[j:])
			if err != nil || !samePackets(got, want) || d.Buffered() != 0 {
				t.Fatalf("cut at %d and %d: %d packets, %d bytes left, %v", i, j, len(got), d.Buffered(), err)
			}
		}
	}
}

func TestFeedByteByByte(t *testing.T) {
	body := make([]byte, codec.MaxBody)
	for i := range body {
		body[i] = byte(i * 7)
	}
	stream, err := codec.AppendPacket(vectorStream(t), codec.Data, 0, body)
	if err != nil {
		t.Fatal(err)
	}
	want, _, _ := decodeAll(stream)
	pieces := make([][]byte, len(stream))
	for i := range stream {
		pieces[i] = stream[i : i+1]
	}
	var d codec.Decoder
	got, err := collect(t, &d, pieces...)
	if err != nil || !samePackets(got, want) {
		t.Fatalf("%d packets, %v; want %d", len(got), err, len(want))
	}
}

func TestFeedAliasesWholePackets(t *testing.T) {
	whole := []byte{4, 0, 0, 2, 0, 'a', 'b'}
	stream := append(append(bytes.Clone(whole), whole...), whole[:6]...)
	var d codec.Decoder
	seen := 0
	err := d.Feed(stream, func(p codec.Packet) error {
		if &p.Body[0] != &stream[seen*len(whole)+5] {
			t.Errorf("body of packet %d is a copy", seen)
		}
		seen++
		return nil
	})
	if err != nil || seen != 2 || d.Buffered() != 6 {
		t.Fatalf("%d packets, %d bytes left, %v", seen, d.Buffered(), err)
	}
}

func TestFeedReservesNothing(t *testing.T) {
	var d codec.Decoder
	if _, err := collect(t, &d, []byte{4, 1, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if d.Capacity() > 64 {
		t.Fatalf("a header that announces 65536 bytes made it hold %d", d.Capacity())
	}
}

func TestFeedStaysFailed(t *testing.T) {
	good := []byte{3, 0, 0, 0, 0}
	for _, c := range []struct {
		name string
		bad  []byte
		want error
	}{
		{"type", []byte{9}, codec.ErrPacketType},
		{"length", []byte{4, 1, 0, 1}, codec.ErrPacketLength},
		{"length and more", append([]byte{4, 255, 0, 0, 0}, make([]byte, 500)...), codec.ErrPacketLength},
	} {
		t.Run(c.name, func(t *testing.T) {
			for cut := range c.bad {
				var d codec.Decoder
				got, err := collect(t, &d, append(bytes.Clone(good), c.bad[:cut]...), c.bad[cut:])
				if !errors.Is(err, c.want) || len(got) != 1 {
					t.Fatalf("cut at %d: %d packets, %v; want 1, %v", cut, len(got), err, c.want)
				}
				for range 3 {
					if got, err := collect(t, &d, good); !errors.Is(err, c.want) || len(got) != 0 {
						t.Fatalf("cut at %d, fed again: %d packets, %v", cut, len(got), err)
					}
				}
				if d.Buffered() > codec.HeaderSize {
					t.Fatalf("holds %d bytes after it failed", d.Buffered())
				}
			}
		})
	}
}

func TestFeedStopsWhereTheCallerDoes(t *testing.T) {
	stop := errors.New("stop")
	stream := bytes.Repeat([]byte{3, 0, 0, 0, 0}, 3)
	for _, first := range []int{0, 2} { // with a whole first packet, and with one in two pieces
		var d codec.Decoder
		if _, err := collect(t, &d, stream[:first]); err != nil {
			t.Fatal(err)
		}
		calls := 0
		err := d.Feed(stream[first:], func(codec.Packet) error { calls++; return stop })
		if !errors.Is(err, stop) || calls != 1 {
			t.Fatalf("%d calls, %v; want 1, %v", calls, err, stop)
		}
	}
}

func FuzzFeed(f *testing.F) {
	stream := vectorStream(f)
	f.Add(stream, []byte{1, 4, 5, 30})
	f.Add(stream, []byte{})
	f.Add([]byte{4, 0, 0, 1, 0x80, 'a', 4, 0, 0, 1, 1, 'b', 9}, []byte{2})
	f.Add([]byte{3, 0, 0, 0, 0, 4, 1, 0, 1}, []byte{8})
	f.Add([]byte("0"), []byte{1})
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		want, left, wantErr := decodeAll(stream)
		var pieces [][]byte
		rest := stream
		for _, cut := range cuts { // each cut is the length of a piece
			n := min(int(cut), len(rest))
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		var d codec.Decoder
		got, err := collect(t, &d, append(pieces, rest)...)
		if !errors.Is(err, wantErr) || (err != nil) != (wantErr != nil) || !samePackets(got, want) {
			t.Fatalf("%d packets, %v; in one piece %d, %v", len(got), err, len(want), wantErr)
		}
		if err == nil && d.Buffered() != left {
			t.Fatalf("%d bytes left; in one piece %d", d.Buffered(), left)
		}
		var again []byte
		for _, p := range got {
			var err error
			if again, err = codec.AppendPacket(again, p.Type, p.Sub, p.Body); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(stream, again) {
			t.Fatal("the packets do not encode to the bytes that they were read from")
		}
	})
}
