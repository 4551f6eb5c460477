package replay

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/pkg/worker"
)

func TestARunThatIsStoppedGoesOnWhereItWas(t *testing.T) {
	const n = 2000
	for name, cut := range map[string]func(*Config, *recorded, context.CancelFunc){
		"limit": func(c *Config, _ *recorded, _ context.CancelFunc) { c.Limit = 777 },
		"interrupt": func(_ *Config, r *recorded, stop context.CancelFunc) {
			r.each = func(i int) {
				if i == 1500 {
					stop()
				}
			}
		},
		"interrupt at the recorded pace": func(c *Config, r *recorded, stop context.CancelFunc) {
			c.Speed = 1
			r.each = func(i int) {
				if i == 900 {
					stop()
				}
			}
		},
		"by outcome": func(c *Config, r *recorded, stop context.CancelFunc) {
			c.Filter = &tape.Filter{Slow: time.Millisecond}
			r.each = func(i int) {
				if i == 1500 {
					stop()
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, got := counting(t)
			r := echoes(n)
			cfg, _ := s.config(t, r)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			cut(cfg, r, stop)
			first, err := Run(ctx, *cfg)
			if err != nil || first.Sent == 0 || first.Sent >= n || first.Same != first.Sent {
				t.Fatalf("the first got %+v, %v", first, err)
			}
			if name == "limit" && first.Sent != 777 {
				t.Errorf("with a limit of 777 it sent %d", first.Sent)
			}
			r.each, cfg.Limit, cfg.Speed = nil, 0, 0
			cfg.From = first.Next
			position := first.Next.Position
			cfg.Start = tape.Start{Position: &position}
			second, err := Run(t.Context(), *cfg)
			if err != nil || first.Sent+second.Sent != n || second.Same != second.Sent {
				t.Errorf("the second got %+v, %v", second, err)
			}
			for id := range uint64(n) {
				if got()[id+1] != 1 {
					t.Errorf("request %d came %d times", id+1, got()[id+1])
				}
			}
		})
	}
}

// TestAStoppedRunSendsNoMore: what was taken ahead stays for the next run.
func TestAStoppedRunSendsNoMore(t *testing.T) {
	const n, stopAt = 2000, 25
	var mu sync.Mutex
	got := make(map[uint64]int)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s := newShadow(t, "echo", func(w *worker.Worker) {
		worker.HandleRaw(w, "echo.echo", func(ctx context.Context, in worker.Raw) (worker.Raw, error) {
			mu.Lock()
			defer mu.Unlock()
			if got[worker.From(ctx).ID]++; len(got) == stopAt {
				stop()
			}
			return in, nil
		}, worker.Public())
	})
	cfg, _ := s.config(t, echoes(n))
	cfg.InFlight = 2
	first, err := Run(ctx, *cfg)
	if err != nil || first.Sent < stopAt || first.Sent > stopAt+20 {
		t.Fatalf("stopped at %d it got %+v, %v", stopAt, first, err)
	}
	cfg.From, cfg.Start = first.Next, tape.Start{Position: &first.Next.Position}
	second, err := Run(t.Context(), *cfg)
	if err != nil || first.Sent+second.Sent != n {
		t.Errorf("the second got %+v, %v", second, err)
	}
	mu.Lock()
	defer mu.Unlock()
	for id := range uint64(n) {
		if got[id+1] != 1 {
			t.Errorf("request %d came %d times", id+1, got[id+1])
		}
	}
}
