package worker

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

// instantBus delivers what the test gives it and confirms everything at once.
type instantBus struct {
	deliveries chan bus.Delivery
}

func (b *instantBus) Publisher() (bus.Publisher, error) { return instantPublisher{}, nil }

func (b *instantBus) Consume(ctx context.Context, c bus.Consumer) error {
	for {
		select {
		case d := <-b.deliveries:
			c.Handle(d)
		case <-ctx.Done():
			return nil
		}
	}
}

func (b *instantBus) State() bus.State             { return bus.Up }
func (b *instantBus) Watch(func(bus.State)) func() { return func() {} }
func (b *instantBus) Close() error                 { return nil }

type instantPublisher struct{}

func (instantPublisher) Publish(_ bus.Message, done func(error)) { done(nil) }
func (instantPublisher) Close() error                            { return nil }

// BenchmarkServe is the base's cost of one request: an envelope read, its
// requests through the lanes, decoded, checked, handled, encoded, published,
// acked. allocs/op count two of the handler's own (the answer and what it fills)
// and those of the input's strings.
func BenchmarkServe(b *testing.B) {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	send, err := proto.Marshal(&chatpb.SendRequest{To: 7, ClientId: "01J0000", Text: "hello there, how are you"})
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		requests int
		data     DataType
		body     []byte
	}{
		{"protobuf/1", 1, Protobuf, send},
		{"protobuf/16", 16, Protobuf, send},
		{"protobuf/64", 64, Protobuf, send},
		{"json/16", 16, JSON, []byte(`{"to":"7","clientId":"01J0000","text":"hello there, how are you"}`)},
	} {
		b.Run(c.name, func(b *testing.B) {
			fake := &instantBus{deliveries: make(chan bus.Delivery)}
			w := New("chat", Config{Bus: fake, Log: quiet})
			Handle(w, "chat.send", func(context.Context, *chatpb.SendRequest) (*chatpb.SendResponse, error) {
				return &chatpb.SendResponse{Conversation: 1, Number: 2, SentAt: 3}, nil
			})
			ctx, cancel := context.WithCancel(context.Background())
			var ended sync.WaitGroup
			ended.Go(func() {
				if err := w.Run(ctx); err != nil {
					b.Error(err)
				}
			})
			b.Cleanup(func() { cancel(); ended.Wait() })

			body := bus.AppendHeader(nil, bus.Header{Gate: "g1", GateAddress: "127.0.0.1:7101", Route: "chat.send"})
			for i := range c.requests {
				body = bus.AppendRequest(body, &bus.Request{
					Session: uint64(i), Sequence: 1, User: 42, DataType: uint8(c.data), ID: 1, Data: c.body,
					Deadline: time.Now().Add(time.Hour).UnixMilli(), Address: []byte{127, 0, 0, 1},
				})
			}
			slots := make(chan struct{}, 64) // as the prefetch
			settle := func(bus.Settlement) error { <-slots; return nil }
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += c.requests {
				slots <- struct{}{}
				fake.deliveries <- bus.Delivery{Key: "chat.send", Body: body, Settle: settle}
			}
			for range cap(slots) {
				slots <- struct{}{}
			}
		})
	}
}

// BenchmarkCheck is the validation of one message.
func BenchmarkCheck(b *testing.B) {
	v, err := NewValidator()
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range []proto.Message{
		&authpb.RegisterRequest{Account: "alice", Password: "12345678", Email: "a@example.org"},
		&chatpb.SendRequest{To: 7, ClientId: "01J0000", Text: "hello"},
	} {
		b.Run(fmt.Sprintf("%T", m), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := v.Check(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
