package codec_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/motto123/minigate/codec"
)

func TestDecodePacketRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, codec.ErrShort},
		{"type alone", []byte{4}, codec.ErrShort},
		{"half a length", []byte{4, 1, 0}, codec.ErrShort},
		{"no subpackage", []byte{4, 0, 0, 0}, codec.ErrShort},
		{"no body", []byte{4, 0, 0, 1, 0}, codec.ErrShort},
		{"largest, no body", []byte{4, 1, 0, 0, 0}, codec.ErrShort},
		{"half a body", []byte{4, 0, 0, 2, 0, 7}, codec.ErrShort},
		{"type 0", []byte{0}, codec.ErrPacketType},
		{"type 6", []byte{6}, codec.ErrPacketType},
		{"type 255", []byte{255, 0, 0, 0, 0}, codec.ErrPacketType},
		{"one byte over", []byte{4, 1, 0, 1}, codec.ErrPacketLength},
		{"all bits of the length", []byte{1, 255, 255, 255, 0}, codec.ErrPacketLength},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, n, err := codec.DecodePacket(c.in)
			if !errors.Is(err, c.want) || n != 0 || p.Body != nil {
				t.Fatalf("got %+v, %d, %v; want %v", p, n, err, c.want)
			}
		})
	}
}

func TestDecodePacketAliases(t *testing.T) {
	b := []byte{4, 0, 0, 2, 0x81, 'a', 'b', 'n', 'e', 'x', 't'}
	p, n, err := codec.DecodePacket(b)
	if err != nil || n != 7 || p.Sub != 0x81 {
		t.Fatalf("got %+v, %d, %v", p, n, err)
	}
	if &p.Body[0] != &b[5] {
		t.Error("body is a copy")
	}
	if _ = append(p.Body, '!'); b[7] != 'n' {
		t.Error("appending to the body wrote into the next packet")
	}
}

func TestAppendPacketLengths(t *testing.T) {
	for _, size := range []int{0, 1, 255, 256, 65535, codec.MaxBody} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			body := bytes.Repeat([]byte{7}, size)
			b, err := codec.AppendPacket([]byte("x"), codec.Handshake, 0, body)
			if err != nil {
				t.Fatal(err)
			}
			p, n, err := codec.DecodePacket(b[1:])
			if err != nil || n != codec.HeaderSize+size || p.Type != codec.Handshake || !bytes.Equal(p.Body, body) {
				t.Fatalf("decoded %v, %d bytes, body %d, %v", p.Type, n, len(p.Body), err)
			}
			ended, err := codec.EndPacket(append(codec.BeginPacket([]byte("x"), codec.Handshake, 0), body...), 1)
			if err != nil || !bytes.Equal(ended, b) {
				t.Fatalf("EndPacket: %v, or other bytes than AppendPacket", err)
			}
		})
	}
}

func TestPacketTooLong(t *testing.T) {
	body := make([]byte, codec.MaxBody+1)
	b, err := codec.AppendPacket([]byte("before"), codec.Kick, 0, body)
	if !errors.Is(err, codec.ErrPacketLength) || string(b) != "before" {
		t.Errorf("AppendPacket: %d bytes, %v", len(b), err)
	}
	b = append(codec.BeginPacket([]byte("before"), codec.Data, 0), body...)
	b, err = codec.EndPacket(b, len("before"))
	if !errors.Is(err, codec.ErrPacketLength) || string(b) != "before" {
		t.Errorf("EndPacket: %d bytes, %v", len(b), err)
	}
}

func TestHeartbeatNeedsNoEnd(t *testing.T) {
	if b := codec.BeginPacket(nil, codec.Heartbeat, 0); !bytes.Equal(b, []byte{3, 0, 0, 0, 0}) {
		t.Fatalf("got %x", b)
	}
}

func TestNames(t *testing.T) {
	got := fmt.Sprint(
		codec.PacketType(0), codec.Handshake, codec.HandshakeAck, codec.Heartbeat, codec.Data, codec.Kick,
		codec.Request, codec.Notify, codec.Response, codec.Push, codec.Ack, codec.MessageType(5),
		codec.Text, codec.JSON, codec.Protobuf, codec.DataType(3))
	want := "unknown handshake handshake_ack heartbeat data kick request notify response push ack unknown text json protobuf unknown"
	if got != want {
		t.Fatalf("\n got %s\nwant %s", got, want)
	}
}
