package client_test

import (
	"testing"

	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/chatpb"
)

func benchmarkCall(b *testing.B, web bool) {
	c := dial(b, newGate(b, web, nil), client.Options{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		in := &chatpb.SendResponse{Conversation: 1 << 40, Number: 77, SentAt: 1 << 41}
		out := &chatpb.SendResponse{}
		for pb.Next() {
			if err := c.Call(b.Context(), "test.coded", in, out); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkCall counts the test's own gate too, which makes three of the
// allocations over TCP and most of those over WebSocket.
func BenchmarkCall(b *testing.B) {
	b.Run("tcp", func(b *testing.B) { b.SetParallelism(32); benchmarkCall(b, false) })
	b.Run("websocket", func(b *testing.B) { b.SetParallelism(32); benchmarkCall(b, true) })
	b.Run("alone", func(b *testing.B) {
		c := dial(b, newGate(b, false, nil), client.Options{})
		b.ReportAllocs()
		for b.Loop() {
			if err := c.Call(b.Context(), "test.coded", &chatpb.SendResponse{Number: 1}, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
