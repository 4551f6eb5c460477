package codec_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"testing"

	"github.com/motto123/minigate/codec"
)

// vectors are the golden bytes, which the first implementation of the protocol
// has written.
type vectors struct {
	Dictionary map[string]int
	Messages   []messageVector
	Packets    []packetVector
}

type messageVector struct {
	Name       string
	Type       uint8
	DataType   uint8 `json:"data_type"`
	ID         string
	Compressed bool
	Route      string
	RouteCode  uint16 `json:"route_code"`
	ObjName    string `json:"obj_name"`
	DataHex    string `json:"data_hex"`
	MessageHex string `json:"message_hex"`
	PacketHex  string `json:"packet_hex"`
}

type packetVector struct {
	Name      string
	Type      uint8
	BodyHex   string `json:"body_hex"`
	PacketHex string `json:"packet_hex"`
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	b, err := os.ReadFile("testdata/wire.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Messages) != 6 || len(v.Packets) != 5 || len(v.Dictionary) != 5 {
		t.Fatalf("read %d messages, %d packets, %d routes; want 6, 5, 5",
			len(v.Messages), len(v.Packets), len(v.Dictionary))
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// message is what the vector's bytes say.
func (v messageVector) message(t testing.TB) codec.Message {
	t.Helper()
	id, err := strconv.ParseUint(v.ID, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	m := codec.Message{
		Type: codec.MessageType(v.Type), Data: codec.DataType(v.DataType), ID: id, Compressed: v.Compressed,
		Name: []byte(v.ObjName), Body: unhex(t, v.DataHex),
	}
	if v.Compressed {
		m.Code = v.RouteCode
	} else {
		m.Route = []byte(v.Route)
	}
	return m
}

func sameMessage(a, b *codec.Message) bool {
	return a.Type == b.Type && a.Data == b.Data && a.Compressed == b.Compressed && a.Code == b.Code && a.ID == b.ID &&
		bytes.Equal(a.Route, b.Route) && bytes.Equal(a.Name, b.Name) && bytes.Equal(a.Body, b.Body)
}

func TestVectorMessages(t *testing.T) {
	v := readVectors(t)
	dictionary, err := codec.NewClientDictionary(v.Dictionary)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range v.Messages {
		t.Run(v.Name, func(t *testing.T) {
			want := v.message(t)
			packet := unhex(t, v.PacketHex)

			p, n, err := codec.DecodePacket(packet)
			if err != nil || n != len(packet) || p.Type != codec.Data || p.Sub != 0 {
				t.Fatalf("packet is %v, sub %d, %d bytes, %v; want data, 0, %d", p.Type, p.Sub, n, err, len(packet))
			}
			if got := hex.EncodeToString(p.Body); got != v.MessageHex {
				t.Fatalf("body\n got %s\nwant %s", got, v.MessageHex)
			}
			var got codec.Message
			if err := codec.DecodeMessage(p.Body, &got); err != nil {
				t.Fatal(err)
			}
			if !sameMessage(&got, &want) {
				t.Fatalf("message\n got %+v\nwant %+v", got, want)
			}
			if v.Compressed {
				if route, ok := dictionary.Route(got.Code); !ok || route != v.Route {
					t.Fatalf("code %d is route %q, %v; want %q", got.Code, route, ok, v.Route)
				}
				if code, ok := dictionary.CodeOf(v.Route); !ok || code != v.RouteCode {
					t.Fatalf("route %q has code %d, %v; want %d", v.Route, code, ok, v.RouteCode)
				}
			}

			b := codec.BeginPacket([]byte("before"), codec.Data, 0)
			if b, err = codec.AppendMessage(b, &want); err != nil {
				t.Fatal(err)
			}
			if b, err = codec.EndPacket(b, len("before")); err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(b[len("before"):]); got != v.PacketHex || string(b[:6]) != "before" {
				t.Fatalf("encoded\n got %s\nwant %s", got, v.PacketHex)
			}
		})
	}
}

func TestVectorPackets(t *testing.T) {
	for _, v := range readVectors(t).Packets {
		t.Run(v.Name, func(t *testing.T) {
			want := unhex(t, v.PacketHex)
			p, n, err := codec.DecodePacket(want)
			if err != nil || n != len(want) {
				t.Fatalf("took %d bytes, %v; want %d", n, err, len(want))
			}
			if p.Type != codec.PacketType(v.Type) || p.Sub != 0 || hex.EncodeToString(p.Body) != v.BodyHex {
				t.Fatalf("decoded %+v", p)
			}
			got, err := codec.AppendPacket(nil, codec.PacketType(v.Type), 0, unhex(t, v.BodyHex))
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("encoded %x, %v; want %x", got, err, want)
			}
		})
	}
}
