package replay

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/worker"
)

// What keeps --against-production from doing everything twice: the worker gets the ids
// and users that were recorded, each time, whatever the session that they come by.
func TestAgainstProductionIdsAndUsersStay(t *testing.T) {
	topology := bus.NewTopology(bus.DefaultPrefix)
	b := mem.New(mem.Config{Topology: topology})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close the bus: %v", err)
		}
	})
	s := &shadow{b, topology}
	var mu sync.Mutex
	var got []string
	sessions := make(map[worker.Session]bool)
	s.work(t, "shop", func(w *worker.Worker) {
		worker.HandleRaw(w, "shop.order", func(ctx context.Context, in worker.Raw) (worker.Raw, error) {
			c := worker.From(ctx)
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%d of %d: %s", c.ID, c.User, in.Data))
			sessions[c.Session] = true
			return in, nil
		})
	})
	r := new(recorded)
	var want []string
	for i := range 12 {
		gate := []string{"g1", "g2"}[i%2] // which both have a session of this number
		one := bus.Request{Session: uint64(i/2%3 + 1), Sequence: uint32(i/6 + 1), User: 1<<60 + int64(i), ID: 1<<63 + uint64(i), Data: []byte("lamp")}
		if i == 11 {
			one.Type = 1
		}
		r.call(i, gate, "shop.order", one)
		r.answer(i+1, gate, bus.Reply{Session: one.Session, Sequence: one.Sequence, Data: one.Data})
		want = append(want, fmt.Sprintf("%d of %d: lamp", one.ID, one.User))
	}
	file := saved(t, r)
	for round := range 2 {
		cfg, _, err := command(t, "--to", bus.DefaultPrefix, "--against-production").config([]string{file})
		if err != nil {
			t.Fatal(err)
		}
		own, found := s.config(t, cfg.Source)
		cfg.Bus, cfg.Gate, cfg.Differs, cfg.Progress = own.Bus, own.Gate, own.Differs, own.Progress
		got = nil
		clear(sessions)
		result, err := Run(t.Context(), *cfg)
		if err != nil || result.Sent != 12 || result.Differ != 0 || len(*found) != 0 {
			t.Fatalf("round %d: got %+v, %v", round, result, err)
		}
		eventually(t, "the notify is there, too", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got) == len(want)
		})
		mu.Lock()
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("round %d: the worker got\n%q, want\n%q", round, got, want)
		}
		for session := range sessions { // and not one that a client of production has
			if session.Gate != cfg.Gate.ID() || session.GateAddress != cfg.Gate.Address() || session.ID <= 3 {
				t.Errorf("round %d: they come by the session %v", round, session)
			}
		}
		if len(sessions) != 6 {
			t.Errorf("round %d: six sessions are %d", round, len(sessions))
		}
		mu.Unlock()
		if err := cfg.Source.Close(); err != nil {
			t.Error(err)
		}
	}
}
