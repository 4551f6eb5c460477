package worker

import (
	"context"
	"sync"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

// announcer tells gates which routes the service has: all of them each time the
// queue is bound, and single ones that ask.
type announcer struct {
	w         *Worker
	publisher bus.Publisher

	mu    sync.Mutex
	gates map[string]bool // keys that wait for an announcement
	wake  chan struct{}   // holds one token: there is something in gates
}

// keepAskers bounds the gates that wait; when there are more, all are told.
const keepAskers = 64

func newAnnouncer(w *Worker, p bus.Publisher) *announcer {
	return &announcer{w: w, publisher: p, gates: make(map[string]bool), wake: make(chan struct{}, 1)}
}

func (a *announcer) tellAll() { a.tell(a.w.cfg.Topology.AllGates()) }

func (a *announcer) tellGate(gate string) { a.tell(a.w.cfg.Topology.GateKey(gate)) }

func (a *announcer) tell(key string) {
	a.mu.Lock()
	if all := a.w.cfg.Topology.AllGates(); len(a.gates) >= keepAskers || a.gates[all] {
		clear(a.gates)
		key = all
	}
	a.gates[key] = true
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run announces until ctx ends. What the broker did not take is tried again:
// publishing and consuming may come back at different times.
func (a *announcer) run(ctx context.Context) {
	body := bus.AppendAnnouncement(nil, &bus.Announcement{Service: a.w.service, Routes: a.w.Routes()})
	for {
		select {
		case <-a.wake:
		case <-ctx.Done():
			return
		}
		failed := false
		for _, key := range a.take() {
			if err := a.publish(ctx, key, body); err != nil {
				failed = true
				a.tell(key)
			}
		}
		if !failed {
			continue
		}
		select {
		case <-time.After(lastPause / 4):
		case <-ctx.Done():
			return
		}
	}
}

func (a *announcer) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	keys := make([]string, 0, len(a.gates))
	for key := range a.gates {
		keys = append(keys, key)
	}
	clear(a.gates)
	return keys
}

func (a *announcer) publish(ctx context.Context, key string, body []byte) error {
	confirmed := make(chan error, 1)
	a.publisher.Publish(bus.Message{
		Exchange: a.w.cfg.Topology.ReplyExchange(),
		Key:      key,
		Body:     body,
		Optional: true, // no gate is there yet, or that one is gone: nobody misses anything
	}, func(err error) { confirmed <- err })
	select {
	case err := <-confirmed:
		if err == nil {
			a.w.stats.announced.Add(1)
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
