package codec_test

import (
	"bytes"
	"testing"

	"github.com/motto123/minigate/codec"
)

// typical is a request whose message takes 200 bytes.
func typical(t testing.TB) codec.Message {
	t.Helper()
	m := codec.Message{
		Type: codec.Request, Data: codec.Protobuf, ID: 70_000,
		Route: []byte("chat.send"), Name: []byte("chat.SendRequest"),
	}
	m.Body = bytes.Repeat([]byte{0xa5}, 200-m.Size())
	if m.Size() != 200 {
		t.Fatalf("message takes %d bytes", m.Size())
	}
	return m
}

func typicalPacket(t testing.TB) []byte {
	t.Helper()
	m := typical(t)
	b := codec.BeginPacket(nil, codec.Data, 0)
	b, err := codec.AppendMessage(b, &m)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = codec.EndPacket(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// What the benchmarks show for one machine, this holds for all: nothing on the
// way of a message is allocated.
func TestNoAllocations(t *testing.T) {
	packet := typicalPacket(t)
	message := typical(t)
	compressed := message
	compressed.Compressed, compressed.Code = true, 300
	large := message
	large.Body = make([]byte, 3*codec.MaxBody)
	buffer := make([]byte, 0, 4*codec.MaxBody)
	dictionary := newDictionary(t, 10, "auth.login", "chat.send")
	client, err := codec.NewClientDictionary(map[string]int{"chat.send": 2})
	if err != nil {
		t.Fatal(err)
	}
	stream := bytes.Repeat(packet, 5)
	var decoder codec.Decoder
	var assembler codec.Assembler
	var p codec.Packet
	var m codec.Message

	encode := func(m *codec.Message) error {
		b := codec.BeginPacket(buffer, codec.Data, 0)
		b, err := codec.AppendMessage(b, m)
		if err != nil {
			return err
		}
		_, err = codec.EndFragments(b, 0)
		return err
	}
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"DecodePacket", func() (err error) { p, _, err = codec.DecodePacket(packet); return err }},
		{"DecodeMessage", func() error { return codec.DecodeMessage(p.Body, &m) }},
		{"Feed", func() error {
			return decoder.Feed(stream, func(p codec.Packet) error { return codec.DecodeMessage(p.Body, &m) })
		}},
		{"Add a whole message", func() error { _, _, err := assembler.Add(p, 1000); return err }},
		{"AppendMessage", func() error { _, err := codec.AppendMessage(buffer, &message); return err }},
		{"AppendMessage in a packet", func() error { return encode(&message) }},
		{"AppendMessage with a code", func() error { return encode(&compressed) }},
		{"AppendMessage in fragments", func() error { return encode(&large) }},
		{"AppendPacket", func() error { _, err := codec.AppendPacket(buffer, codec.Data, 0, p.Body); return err }},
		{"AppendFragments", func() error { _, err := codec.AppendFragments(buffer, large.Body); return err }},
		{"Dictionary", func() error {
			code, _ := dictionary.Code(m.Route)
			_, _ = dictionary.Route(code)
			_, _ = client.Code(m.Route)
			_, _ = client.Route(code)
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var failed error
			if n := testing.AllocsPerRun(100, func() {
				if err := c.do(); err != nil {
					failed = err
				}
			}); n != 0 || failed != nil {
				t.Fatalf("%v allocations, %v", n, failed)
			}
		})
	}
}

func BenchmarkDecodePacket(b *testing.B) {
	packet := typicalPacket(b)
	b.ReportAllocs()
	b.SetBytes(int64(len(packet)))
	for b.Loop() {
		if _, _, err := codec.DecodePacket(packet); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeMessage(b *testing.B) {
	message := typicalPacket(b)[codec.HeaderSize:]
	var m codec.Message
	b.ReportAllocs()
	b.SetBytes(int64(len(message)))
	for b.Loop() {
		if err := codec.DecodeMessage(message, &m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendMessage(b *testing.B) {
	m := typical(b)
	buffer := make([]byte, 0, 1024)
	b.ReportAllocs()
	b.SetBytes(int64(m.Size()))
	for b.Loop() {
		if _, err := codec.AppendMessage(buffer, &m); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFeed is per packet, of a stream cut as reads of 4 KiB cut it.
func BenchmarkFeed(b *testing.B) {
	stream := bytes.Repeat(typicalPacket(b), 1000)
	var decoder codec.Decoder
	var m codec.Message
	b.ReportAllocs()
	b.SetBytes(int64(len(stream) / 1000))
	for packets := 0; packets < b.N; packets += 1000 {
		for rest := stream; len(rest) > 0; {
			n := min(4096, len(rest))
			if err := decoder.Feed(rest[:n], func(p codec.Packet) error { return codec.DecodeMessage(p.Body, &m) }); err != nil {
				b.Fatal(err)
			}
			rest = rest[n:]
		}
	}
}
