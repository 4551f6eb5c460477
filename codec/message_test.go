package codec_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/motto123/minigate/codec"
)

func TestDecodeMessageRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		in   string
		want error
	}{
		{"nothing", "", codec.ErrTruncated},
		{"flag alone", "08", codec.ErrTruncated},
		{"no route length", "0800", codec.ErrTruncated},
		{"half an id", "080201", codec.ErrTruncated},
		{"id and no route length", "080101", codec.ErrTruncated},
		{"no name length", "080000", codec.ErrTruncated},
		{"half a route", "08000261", codec.ErrTruncated},
		{"route and no name length", "08000161", codec.ErrTruncated},
		{"half a code", "0c000201", codec.ErrTruncated},
		{"half a name", "080000ff61", codec.ErrTruncated},
		{"highest bit", "8800000000", codec.ErrFlag},
		{"second bit", "4800000000", codec.ErrFlag},
		{"message type 5", "28000000", codec.ErrMessageType},
		{"message type 6", "30000000", codec.ErrMessageType},
		{"message type 7", "38000000", codec.ErrMessageType},
		{"data type 3", "0b000000", codec.ErrDataType},
		{"id of 9 bytes", "0809010203040506070809" + "0000", codec.ErrIDLength},
		{"id of 255 bytes", "08ff", codec.ErrIDLength},
		{"code of 0 bytes", "0c000000", codec.ErrCodeLength},
		{"code of 3 bytes", "0c000300000100", codec.ErrCodeLength},
		{"route no UTF-8", "080001ff00", codec.ErrRouteText},
		{"route ends within a rune", "080002e4bd00", codec.ErrRouteText},
		{"name no UTF-8", "08000001ff", codec.ErrNameText},
		{"name is a surrogate", "08000003eda080", codec.ErrNameText},
	} {
		t.Run(c.name, func(t *testing.T) {
			was := codec.Message{ID: 7, Name: []byte("was")}
			m := was
			if err := codec.DecodeMessage(unhex(t, c.in), &m); !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if !sameMessage(&m, &was) {
				t.Fatalf("an error changed the message: %+v", m)
			}
		})
	}
}

// A message cut anywhere before its body is truncated, and never a shorter one.
func TestDecodeMessageCut(t *testing.T) {
	for _, v := range readVectors(t).Messages {
		whole := unhex(t, v.MessageHex)
		for n := range len(whole) - len(v.DataHex)/2 {
			var m codec.Message
			if err := codec.DecodeMessage(whole[:n], &m); !errors.Is(err, codec.ErrTruncated) {
				t.Errorf("%s cut to %d bytes: %v", v.Name, n, err)
			}
		}
	}
}

func TestDecodeMessageLeadingZeros(t *testing.T) {
	for _, c := range []struct {
		in   string
		id   uint64
		code uint16
	}{
		{"0c" + "0100" + "0101" + "00", 0, 1},
		{"0c" + "020001" + "020001" + "00", 1, 1},
		{"0c" + "080000000000000100" + "0200ff" + "00", 256, 255},
		{"0c" + "08ffffffffffffffff" + "02ffff" + "00", math.MaxUint64, 65535},
		{"0c" + "00" + "0100" + "00", 0, 0},
		{"0c" + "00" + "020000" + "00", 0, 0},
	} {
		var m codec.Message
		if err := codec.DecodeMessage(unhex(t, c.in), &m); err != nil || m.ID != c.id || m.Code != c.code || !m.Compressed {
			t.Errorf("%s: %+v, %v; want id %d, code %d", c.in, m, err, c.id, c.code)
		}
	}
}

// Ids and codes at each border between two lengths.
func TestAppendMessageFewestBytes(t *testing.T) {
	for n := range 9 {
		low := uint64(1) << (8 * max(n-1, 0))
		high := low<<8 - 1 // wraps to all bits where n is 8
		if n == 0 {
			low, high = 0, 0
		}
		for _, id := range []uint64{low, high} {
			b, err := codec.AppendMessage(nil, &codec.Message{ID: id})
			if err != nil || int(b[1]) != n || len(b) != 4+n {
				t.Errorf("id %d: %x, %v; want %d bytes of id", id, b, err, n)
			}
			var m codec.Message
			if err := codec.DecodeMessage(b, &m); err != nil || m.ID != id {
				t.Errorf("id %d came back as %d, %v", id, m.ID, err)
			}
		}
	}
	for code, want := range map[uint16]string{0: "0100", 1: "0101", 255: "01ff", 256: "020100", 65535: "02ffff"} {
		b, err := codec.AppendMessage(nil, &codec.Message{Compressed: true, Code: code, Route: []byte("unused")})
		if got := hex.EncodeToString(b); err != nil || got != "0400"+want+"00" {
			t.Errorf("code %d: %s, %v; want 0400%s00", code, got, err, want)
		}
	}
}

func TestAppendMessageEveryForm(t *testing.T) {
	long := []byte(strings.Repeat("é", 127) + "x") // 255 bytes
	for kind := codec.Request; kind <= codec.Ack; kind++ {
		for data := codec.Text; data <= codec.Protobuf; data++ {
			for _, m := range []codec.Message{
				{},
				{ID: 77, Route: []byte("chat.send"), Name: []byte("chat.Message"), Body: []byte("body")},
				{ID: math.MaxUint64, Route: long, Name: long, Body: make([]byte, 100_000)},
				{Compressed: true, Code: 300, Name: long},
			} {
				m.Type, m.Data = kind, data
				b, err := codec.AppendMessage([]byte("before"), &m)
				if err != nil || len(b) != len("before")+m.Size() || !bytes.HasPrefix(b, []byte("before")) {
					t.Fatalf("%d bytes, %v; want %d", len(b), err, len("before")+m.Size())
				}
				var got codec.Message
				if err := codec.DecodeMessage(b[len("before"):], &got); err != nil || !sameMessage(&got, &m) {
					t.Fatalf("%v\n got %+v\nwant %+v", err, got, m)
				}
			}
		}
	}
}

func TestAppendMessageRefuses(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 256)
	for _, c := range []struct {
		name string
		in   codec.Message
		want error
	}{
		{"type", codec.Message{Type: 5}, codec.ErrMessageType},
		{"data type", codec.Message{Data: 3}, codec.ErrDataType},
		{"long route", codec.Message{Route: long}, codec.ErrRouteLength},
		{"route no UTF-8", codec.Message{Route: []byte{0xff}}, codec.ErrRouteText},
		{"long name", codec.Message{Name: long}, codec.ErrNameLength},
		{"name no UTF-8", codec.Message{Name: []byte{0xc0, 0x80}}, codec.ErrNameText},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := codec.AppendMessage([]byte("before"), &c.in)
			if !errors.Is(err, c.want) || string(b) != "before" {
				t.Fatalf("%q, %v; want %v", b, err, c.want)
			}
		})
	}
}

// A byte that is not UTF-8 is found at any place of a route of any length, and
// text beyond ASCII is taken at any place.
func TestRouteText(t *testing.T) {
	for length := 1; length <= codec.MaxName; length++ {
		for at := range length {
			route := bytes.Repeat([]byte("x"), length)
			route[at] = 0x80
			if _, err := codec.AppendMessage(nil, &codec.Message{Route: route}); !errors.Is(err, codec.ErrRouteText) {
				t.Fatalf("byte %d of %d: %v", at, length, err)
			}
			if at+1 < length {
				copy(route[at:], "é")
				if _, err := codec.AppendMessage(nil, &codec.Message{Route: route}); err != nil {
					t.Fatalf("é at %d of %d: %v", at, length, err)
				}
			}
		}
	}
}

func TestWhoMaySend(t *testing.T) {
	client, server := "", ""
	for kind := range codec.MessageType(8) {
		if kind.FromClient() {
			client += kind.String() + " "
		}
		if kind.FromServer() {
			server += kind.String() + " "
		}
	}
	if client != "request notify ack " || server != "response push ack " {
		t.Fatalf("from clients %q, from servers %q", client, server)
	}
}

func TestDecodeMessageAliases(t *testing.T) {
	b, err := codec.AppendMessage(nil, &codec.Message{Route: []byte("r"), Name: []byte("n"), Body: []byte("b")})
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(b)
	var m codec.Message
	if err := codec.DecodeMessage(b, &m); err != nil {
		t.Fatal(err)
	}
	_, _ = append(m.Route, "!!!!"...), append(m.Name, "!!!!"...)
	if !bytes.Equal(b, want) {
		t.Error("appending to a field wrote into the next")
	}
	m.Route[0], m.Name[0], m.Body[0] = 'R', 'N', 'B'
	if bytes.Equal(b, want) || string(b[len(b)-1:]) != "B" {
		t.Error("the fields are copies")
	}
}

func FuzzMessage(f *testing.F) {
	for _, v := range readVectors(f).Messages {
		f.Add(unhex(f, v.MessageHex))
	}
	for _, s := range []string{"0c080000000000000100020001" + "0161" + "00", "28000000", "0c000300000100", "080001ff00"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m codec.Message
		if codec.DecodeMessage(b, &m) != nil {
			return
		}
		again, err := codec.AppendMessage(nil, &m)
		if err != nil {
			t.Fatalf("what was decoded can not be encoded: %v", err)
		}
		if len(again) > len(b) || len(again) != m.Size() {
			t.Fatalf("%d bytes became %d, Size is %d", len(b), len(again), m.Size())
		}
		// Of equal length there were no leading zeros to lose: the same bytes.
		if len(again) == len(b) && !bytes.Equal(again, b) {
			t.Fatalf("canonical bytes changed\nfrom %x\n  to %x", b, again)
		}
		var second codec.Message
		if err := codec.DecodeMessage(again, &second); err != nil || !sameMessage(&m, &second) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, second, m)
		}
	})
}
