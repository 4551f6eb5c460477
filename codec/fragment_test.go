package codec_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/motto123/minigate/codec"
)

// numbered is n bytes of which no two stretches near each other are alike.
func numbered(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

func data(sub uint8, body string) codec.Packet {
	return codec.Packet{Type: codec.Data, Sub: sub, Body: []byte(body)}
}

func TestFragmentsRoundTrip(t *testing.T) {
	for _, size := range []int{
		0, 1, codec.MaxBody - 1, codec.MaxBody, codec.MaxBody + 1, 2 * codec.MaxBody, 2*codec.MaxBody + 1,
		1 << 20, codec.MaxMessage - 1, codec.MaxMessage,
	} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			message := numbered(size)
			b, err := codec.AppendFragments([]byte("before"), message)
			if err != nil || !bytes.HasPrefix(b, []byte("before")) {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
			packets, left, err := decodeAll(b[len("before"):])
			if err != nil || left != 0 || len(packets) != max(1, (size+codec.MaxBody-1)/codec.MaxBody) {
				t.Fatalf("%d packets, %d bytes left, %v", len(packets), left, err)
			}
			var a codec.Assembler
			for i, p := range packets {
				last := i == len(packets)-1
				if want := uint8(i); !last && p.Sub != 0x80|want || last && p.Sub != want {
					t.Fatalf("packet %d of %d has sub %#x", i, len(packets), p.Sub)
				}
				got, done, err := a.Add(p, codec.MaxMessage)
				if err != nil || done != last {
					t.Fatalf("packet %d of %d: done %v, %v", i, len(packets), done, err)
				}
				if a.Capacity() > 2*(i+1)*codec.MaxBody {
					t.Fatalf("holds %d bytes after %d packets", a.Capacity(), i+1)
				}
				if done && !bytes.Equal(got, message) {
					t.Fatal("another message came back")
				}
			}
			if !a.Idle() {
				t.Fatal("holds something between messages")
			}
		})
	}
}

// The bytes of a fragmented message, spelt out.
func TestFragmentBytes(t *testing.T) {
	message := numbered(2*codec.MaxBody + 3)
	got, err := codec.AppendFragments(nil, message)
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	want = append(append(want, 4, 1, 0, 0, 0x80), message[:65536]...)
	want = append(append(want, 4, 1, 0, 0, 0x81), message[65536:131072]...)
	want = append(append(want, 4, 0, 0, 3, 0x02), message[131072:]...)
	if !bytes.Equal(got, want) {
		t.Fatal("other bytes")
	}
}

func TestFragmentsTooLarge(t *testing.T) {
	b, err := codec.AppendFragments([]byte("before"), make([]byte, codec.MaxMessage+1))
	if !errors.Is(err, codec.ErrMessageSize) || string(b) != "before" {
		t.Errorf("AppendFragments: %d bytes, %v", len(b), err)
	}
	b = codec.BeginPacket([]byte("before"), codec.Data, 0)
	b = append(b, make([]byte, codec.MaxMessage+1)...)
	b, err = codec.EndFragments(b, len("before"))
	if !errors.Is(err, codec.ErrMessageSize) || string(b) != "before" {
		t.Errorf("EndFragments: %d bytes, %v", len(b), err)
	}
}

func TestAssemblerRefuses(t *testing.T) {
	const limit = 6
	for _, c := range []struct {
		name string
		in   []codec.Packet
		want error
	}{
		{"first is 1, last", []codec.Packet{data(1, "a")}, codec.ErrFragmentFirst},
		{"first is 1, more", []codec.Packet{data(0x81, "a")}, codec.ErrFragmentFirst},
		{"gap", []codec.Packet{data(0x80, "a"), data(2, "b")}, codec.ErrFragmentGap},
		{"gap later", []codec.Packet{data(0x80, "a"), data(0x81, "b"), data(0x83, "c")}, codec.ErrFragmentGap},
		{"repeat", []codec.Packet{data(0x80, "a"), data(0x81, "b"), data(1, "b")}, codec.ErrFragmentRepeat},
		{"first again", []codec.Packet{data(0x80, "a"), data(0x80, "a")}, codec.ErrFragmentRepeat},
		{"whole between", []codec.Packet{data(0x80, "a"), data(0, "b")}, codec.ErrFragmentInterrupted},
		{"whole over the limit", []codec.Packet{data(0, "1234567")}, codec.ErrMessageSize},
		{"first over the limit", []codec.Packet{data(0x80, "1234567")}, codec.ErrMessageSize},
		{"total over the limit", []codec.Packet{data(0x80, "1234"), data(1, "567")}, codec.ErrMessageSize},
	} {
		t.Run(c.name, func(t *testing.T) {
			var a codec.Assembler
			for i, p := range c.in {
				m, done, err := a.Add(p, limit)
				if i < len(c.in)-1 {
					if err != nil || done {
						t.Fatalf("packet %d: %q, %v, %v", i, m, done, err)
					}
					continue
				}
				if !errors.Is(err, c.want) || done || m != nil {
					t.Fatalf("last packet: %q, %v, %v; want %v", m, done, err, c.want)
				}
			}
			if !a.Idle() {
				t.Fatal("holds something after an error")
			}
		})
	}
}

func TestAssemblerCount(t *testing.T) {
	var a codec.Assembler
	for i := range codec.MaxFragments - 1 {
		if _, done, err := a.Add(data(0x80|uint8(i), "x"), 1000); done || err != nil {
			t.Fatalf("fragment %d: %v, %v", i, done, err)
		}
	}
	full := a // refusing changes nothing in the message that both share
	if _, _, err := full.Add(data(0xff, "x"), 1000); !errors.Is(err, codec.ErrFragmentCount) {
		t.Fatalf("128th fragment that announces more: %v", err)
	}
	m, done, err := a.Add(data(0x7f, "x"), 1000)
	if err != nil || !done || len(m) != codec.MaxFragments {
		t.Fatalf("128th fragment that is the last: %d bytes, %v, %v", len(m), done, err)
	}
}

func TestAssemblerLimit(t *testing.T) {
	var a codec.Assembler
	if _, _, err := a.Add(data(0x80, "1234"), 6); err != nil {
		t.Fatal(err)
	}
	if a.Buffered() != 4 {
		t.Fatalf("holds %d bytes, want 4", a.Buffered())
	}
	if _, _, err := a.Add(data(0x81, "5"), 6); err != nil {
		t.Fatal(err)
	}
	if a.Capacity() > 6 {
		t.Fatalf("holds %d bytes, limit 6", a.Capacity())
	}
	m, done, err := a.Add(data(2, "6"), 6)
	if err != nil || !done || string(m) != "123456" || a.Buffered() != 0 {
		t.Fatalf("%q, %v, %v", m, done, err)
	}
}

func TestAssemblerPassesOthersBy(t *testing.T) {
	var a codec.Assembler
	for i, p := range []codec.Packet{
		{Type: codec.Heartbeat}, data(0x80, "a"), {Type: codec.Heartbeat}, {Type: codec.Kick, Sub: 9},
	} {
		if m, done, err := a.Add(p, 10); m != nil || done || err != nil {
			t.Fatalf("packet %d: %q, %v, %v", i, m, done, err)
		}
	}
	if m, done, err := a.Add(data(1, "b"), 10); string(m) != "ab" || !done || err != nil {
		t.Fatalf("%q, %v, %v", m, done, err)
	}
}

func TestAssemblerOwnership(t *testing.T) {
	var a codec.Assembler
	whole := data(0, "whole")
	m, _, _ := a.Add(whole, 10)
	if &m[0] != &whole.Body[0] {
		t.Error("a whole message is copied")
	}
	first, second := data(0x80, "a"), data(1, "b")
	_, _, _ = a.Add(first, 10)
	first.Body[0] = '?'
	m, _, _ = a.Add(second, 10)
	second.Body[0] = '?'
	if string(m) != "ab" {
		t.Errorf("a message of fragments changed with the packets: %q", m)
	}
}

// FuzzAssembler cuts a message into fragments of the lengths given, with the sub
// of each changed by the bytes of noise, and holds the Assembler against the
// rules of the protocol.
func FuzzAssembler(f *testing.F) {
	for _, v := range readVectors(f).Messages {
		f.Add(unhex(f, v.MessageHex), []byte{3, 5}, []byte{}, uint16(1000))
	}
	f.Add([]byte("abcdef"), []byte{1, 1, 1}, []byte{0, 1}, uint16(6))
	f.Add([]byte("abcdef"), []byte{1, 1, 1}, []byte{0, 0, 3}, uint16(5))
	f.Add([]byte("abcdef"), []byte{1, 1, 1}, []byte{0, 0x81}, uint16(100))
	f.Add(bytes.Repeat([]byte("x"), 200), bytes.Repeat([]byte{1}, 140), []byte{}, uint16(300))
	f.Fuzz(func(t *testing.T, message, lengths, noise []byte, limit uint16) {
		var a codec.Assembler
		var held []byte
		next, altered := 0, false
		for i, rest := 0, message; ; i++ {
			n, last := len(rest), true
			if i < len(lengths) && int(lengths[i]) < len(rest) {
				n, last = int(lengths[i]), false
			}
			sub := uint8(i & 0x7f)
			if !last {
				sub |= 0x80
			}
			if i < len(noise) {
				sub ^= noise[i]
				altered = altered || noise[i] != 0
			}
			body := rest[:n]
			rest = rest[n:]

			got, done, err := a.Add(codec.Packet{Type: codec.Data, Sub: sub, Body: body}, int(limit))
			ok := int(sub&0x7f) == next && sub != 0xff && len(held)+n <= int(limit) && (sub != 0 || next == 0)
			if ok != (err == nil) {
				t.Fatalf("fragment %d, sub %#x, %d+%d bytes, limit %d: %v", i, sub, len(held), n, limit, err)
			}
			if err != nil {
				if !a.Idle() || done || got != nil {
					t.Fatalf("holds or returns something after %v", err)
				}
				return
			}
			held, next = append(held, body...), next+1
			if done != (sub&0x80 == 0) {
				t.Fatalf("fragment %d, sub %#x: done %v", i, sub, done)
			}
			if a.Capacity() > min(2*len(held), int(limit)) {
				t.Fatalf("holds %d bytes for %d, limit %d", a.Capacity(), len(held), limit)
			}
			if done {
				if !bytes.Equal(got, held) || !a.Idle() {
					t.Fatalf("got %q, want %q", got, held)
				}
				if !altered && !bytes.Equal(got, message) {
					t.Fatalf("got %q, cut from %q", got, message)
				}
				held, next = nil, 0
			}
			if last {
				return
			}
		}
	})
}
