package load

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/gobwas/ws"
)

// serverFrames is a stream of data frames of all three sizes of header, with
// control frames between, and what is in it.
func serverFrames(t testing.TB) (stream, data, control []byte) {
	t.Helper()
	var b bytes.Buffer
	for i, n := range []int{0, 1, 125, 126, 300, 65_535, 65_536} {
		payload := bytes.Repeat([]byte{byte('a' + i)}, n)
		ping := []byte{byte('A' + i)}
		for _, f := range []ws.Frame{ws.NewBinaryFrame(payload), ws.NewPingFrame(ping)} {
			if err := ws.WriteFrame(&b, f); err != nil {
				t.Fatal(err)
			}
		}
		data, control = append(data, payload...), append(control, ping...)
	}
	return b.Bytes(), data, control
}

func TestFramesInAnyCut(t *testing.T) {
	stream, wantData, wantControl := serverFrames(t)
	for _, cut := range []int{1, 2, 3, 7, 131, 1000, len(stream)} {
		var f frames
		var data, control []byte
		for rest := stream; len(rest) > 0; {
			n := min(cut, len(rest))
			b := append([]byte(nil), rest[:n]...)
			err := f.feed(b, func(b []byte) error {
				data = append(data, b...)
				return nil
			}, func(_ ws.OpCode, b []byte) error {
				control = append(control, b...)
				return nil
			})
			clear(b) // nothing of it may be kept
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if !bytes.Equal(data, wantData) || !bytes.Equal(control, wantControl) {
			t.Errorf("in cuts of %d: %d bytes of data and %q of control", cut, len(data), control)
		}
	}
}

func TestMalformedFrames(t *testing.T) {
	for name, b := range map[string][]byte{
		"reserved bit":     {0xc2, 0},
		"masked":           {0x82, 0x80, 0, 0, 0, 0},
		"text":             {0x81, 1, 'a'},
		"unknown":          {0x83, 0},
		"unknown control":  {0x8b, 0},
		"long ping":        {0x89, 126, 0, 200},
		"negative length":  {0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0},
		"after a good one": {0x82, 0, 0x83, 0},
	} {
		var f frames
		err := f.feed(b, func([]byte) error { return nil }, func(ws.OpCode, []byte) error { return nil })
		if !errors.Is(err, errFrame) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// What appendFrame writes is a client's frame to a server.
func TestFramesOfAClient(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 65_535, 65_536} {
		payload := bytes.Repeat([]byte{'x'}, n)
		r := bytes.NewReader(appendFrame(nil, ws.OpBinary, payload))
		h, err := ws.ReadHeader(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := ws.CheckHeader(h, ws.StateServerSide); err != nil {
			t.Error(err)
		}
		got, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		ws.Cipher(got, h.Mask, 0)
		if h.Length != int64(n) || !bytes.Equal(got, payload) {
			t.Errorf("%d bytes do not come back", n)
		}
	}
}

func TestUpgrade(t *testing.T) {
	var answer bytes.Buffer
	target := target{host: "127.0.0.1:7080", path: "/ws"}
	_, err := ws.Upgrade(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(appendUpgrade(nil, &target)), &answer})
	if err != nil {
		t.Fatal(err)
	}
	whole := append(answer.Bytes(), "rest"...)
	for n := range answer.Len() {
		if _, ok, err := readUpgrade(whole[:n]); ok || err != nil {
			t.Fatalf("%d bytes of it: %v, %v", n, ok, err)
		}
	}
	if rest, ok, err := readUpgrade(whole); !ok || err != nil || string(rest) != "rest" {
		t.Errorf("got %q, %v, %v", rest, ok, err)
	}
	for _, bad := range []string{
		"HTTP/1.1 404 Not Found\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n",
		string(make([]byte, maxUpgrade+1)),
	} {
		if _, ok, err := readUpgrade([]byte(bad)); ok || !errors.Is(err, errUpgrade) {
			t.Errorf("%.40q: %v, %v", bad, ok, err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	stream, _, _ := serverFrames(f)
	f.Add(stream[:600], 5)
	f.Add([]byte{0x89, 126, 0, 200}, 1)
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		read := func(cut int) (data []byte, failed bool) {
			var f frames
			for rest := stream; len(rest) > 0; {
				n := min(cut, len(rest))
				err := f.feed(append([]byte(nil), rest[:n]...), func(b []byte) error {
					data = append(data, b...)
					return nil
				}, func(ws.OpCode, []byte) error { return nil })
				if err != nil {
					return data, true
				}
				if len(f.partial) > maxServerHeader+maxControl {
					t.Fatalf("%d bytes are held", len(f.partial))
				}
				rest = rest[n:]
			}
			return data, false
		}
		whole, failed := read(max(len(stream), 1))
		data, alsoFailed := read(max(1, cut))
		if !bytes.Equal(whole, data) || failed != alsoFailed {
			t.Errorf("%d bytes and %v at once, %d and %v in cuts of %d", len(whole), failed, len(data), alsoFailed, cut)
		}
	})
}
