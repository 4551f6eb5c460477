package worker

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/proto/commonpb"
)

// What a hurried worker gives back, the replica that takes it over gets in the order
// in which it was sent.
func TestAHurriedWorkerGivesBackInOrder(t *testing.T) {
	const n = 20
	for _, kind := range []string{"mem", "rabbit"} {
		t.Run(kind, func(t *testing.T) {
			var b bus.Bus
			topology := bus.NewTopology("")
			if kind == "mem" {
				b = newMem(t)
			} else {
				b, topology = newRabbit(t,
					func(t bus.Topology) string { return t.WorkerQueue("game") },
					func(t bus.Topology) string { return t.GateQueue("g1") })
			}
			ending := parts.NewEnding()
			first := New("game", Config{Bus: b, Topology: topology, Log: quiet(), DrainTimeout: time.Hour, Ending: ending})
			Handle(first, "game.move", func(ctx context.Context, _ *commonpb.Empty) (*commonpb.Empty, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
			stop := run(t, first)
			g := newGate(t, b, topology, "g1")
			for i := range uint32(n) {
				g.send("game.move", bus.Request{Session: 1, Sequence: i + 1, User: 1})
			}
			eventually(t, "all wait", func() bool { waiting, _, _ := first.lanes.Load().load(); return waiting == n-1 })

			var mu sync.Mutex
			var handled []uint32
			next := New("game", Config{Bus: b, Topology: topology, Log: quiet()})
			Handle(next, "game.move", func(ctx context.Context, _ *commonpb.Empty) (*commonpb.Empty, error) {
				mu.Lock()
				defer mu.Unlock()
				handled = append(handled, From(ctx).Sequence)
				return nil, nil
			})
			run(t, next)
			ending.Hurry()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			for range n {
				g.reply()
			}
			mu.Lock()
			defer mu.Unlock()
			if len(handled) < n-1 || !slices.IsSorted(handled) {
				t.Errorf("the next replica handled %v", handled)
			}
		})
	}
}
