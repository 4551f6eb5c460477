package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/load"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/chatpb"
)

// held is a load in this process that holds its connections until it is let go.
type held struct {
	*load.Load
	cancel context.CancelFunc
	ended  chan struct{}
	result *load.Result
	err    error
}

// hold opens connections and returns when all are open.
func (b *bench) hold(ctx context.Context, cfg load.Config) (*held, error) {
	l, err := load.New(cfg)
	if err != nil {
		return nil, err
	}
	h := &held{Load: l, ended: make(chan struct{})}
	ctx, h.cancel = context.WithCancel(ctx)
	go func() {
		defer close(h.ended)
		h.result, h.err = l.Run(ctx)
	}()
	<-l.Connected() // or Run has ended
	if l.Open() < cfg.Connections {
		_, err := h.release()
		return nil, errors.Join(fmt.Errorf("bench: %d of %d connections are open", l.Open(), cfg.Connections), err)
	}
	return h, nil
}

// release closes the connections. None of them may have ended by itself.
func (h *held) release() (*load.Result, error) {
	h.cancel()
	<-h.ended
	if h.err != nil {
		return nil, h.err
	}
	return h.result, h.result.Failed()
}

// heartbeat is how often idle connections send one here: several times while they
// are looked at.
const heartbeat = 2 * time.Second

// idle measures what an idle session takes of a gate's memory, and how fast
// sessions come.
func (b *bench) idle(ctx context.Context) error {
	for _, over := range []string{"tcp", "websocket"} {
		gate, err := b.startGate(ctx, "--heartbeat", heartbeat.String(), "--max-connections", strconv.Itoa(b.Connections+50))
		if err != nil {
			return err
		}
		// A first client, so that the empty gate has what every gate has.
		if _, err := b.drive(ctx, gate.addresses[over], shape{1, 1}, "--idle", "1", "--duration", "100ms"); err != nil {
			return err
		}
		empty, err := gate.rss()
		if err != nil {
			return err
		}
		h, err := b.hold(ctx, load.Config{Gates: []string{gate.addresses[over]}, Connections: b.Connections, Idle: 1})
		if err != nil {
			return err
		}
		if err := wait(ctx, b.settle()); err != nil {
			return err
		}
		full, err := gate.rss()
		r, released := h.release()
		if err = errors.Join(err, released); err != nil {
			return err
		}
		memory := Row{
			Group: groupIdle, Name: fmt.Sprintf("RSS a session over %s, %d of them", transportName(over), b.Connections),
			Value: float64(full-empty) / float64(b.Connections), Unit: "B",
			Note: fmt.Sprintf("empty gate %.1f MB", float64(empty)/1e6),
		}
		memory.Target, memory.Met = "≤ 1000 B", memory.Value <= 1000
		b.report.add(memory)
		b.report.add(Row{
			Group: groupIdle, Name: "handshakes over " + transportName(over), Value: r.Connections.PerSecond, Unit: "/s",
			P50: r.Connections.Latency.P50, P99: r.Connections.Latency.P99,
			Target: "≥ 15000/s", Met: r.Connections.PerSecond >= 15_000,
		})
		if err := b.stopChildren(0); err != nil {
			return err
		}
	}
	return nil
}

// settle is how long idle connections are held before they are looked at: several
// heartbeats, in which the gate's heap is collected.
func (b *bench) settle() time.Duration {
	if b.Quick {
		return time.Second
	}
	return max(5*heartbeat, 2*b.Duration)
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const (
	pushService = "bench"
	pushRoute   = "bench.push"
	joinRoute   = "bench.join"
	pushGroup   = "all"
	pushRounds  = 9
	pushTime    = 20 * time.Second
)

// pushes measures the time from a push to its last receipt.
func (b *bench) pushes(ctx context.Context) error {
	_, address, err := b.startBare(ctx, "websocket")
	if err != nil {
		return err
	}
	server := b.children[len(b.children)-1]
	h, err := b.hold(ctx, load.Config{Gates: []string{address}, Connections: b.Connections, Idle: 1, Bare: true})
	if err != nil {
		return err
	}
	took, err := b.pushRounds(ctx, h, func() error { _, err := io.WriteString(server.input, "push\n"); return err })
	_, released := h.release()
	if err = errors.Join(err, released, b.stopChildren(0)); err != nil {
		return err
	}
	b.report.add(Row{Group: groupPush, Name: barePushed, Value: milliseconds(took), Unit: "ms"})
	return b.pushGroup(ctx)
}

// pushGroup has a worker in this process put sessions into a group, and push to
// it.
func (b *bench) pushGroup(ctx context.Context) (err error) {
	gate, err := b.startGate(ctx, "--max-connections", strconv.Itoa(b.Connections+50))
	if err != nil {
		return err
	}
	topology := bus.NewTopology(b.prefix)
	broker, err := rabbit.Open(rabbit.Config{URL: b.RabbitMQ, Topology: topology, Name: "minigate bench"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	log := logrus.New()
	log.SetOutput(io.Discard)
	w := worker.New(pushService, worker.Config{Bus: broker, Topology: topology, Log: log})
	var joined atomic.Int64
	worker.HandleRaw(w, joinRoute, func(ctx context.Context, in worker.Raw) (worker.Raw, error) {
		if err := w.Join(ctx, worker.From(ctx).Session, pushGroup); err != nil {
			return worker.Raw{}, err
		}
		joined.Add(1)
		return in, nil
	}, worker.Public())
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(running) }()
	defer func() { cancel(); err = errors.Join(err, <-ended) }()
	if err := gate.await(ctx, joinRoute); err != nil {
		return err
	}
	h, err := b.hold(ctx, load.Config{Gates: []string{gate.addresses["websocket"]}, Connections: b.Connections, Requests: 1, Route: joinRoute, Stay: true})
	if err != nil {
		return err
	}
	defer func() {
		_, released := h.release()
		err = errors.Join(err, released)
	}()
	if err := until(ctx, pushTime, func() bool { return h.Answered() == int64(b.Connections) }); err != nil {
		return fmt.Errorf("bench: %d of %d sessions are in the group: %w", h.Answered(), b.Connections, err)
	}
	message := &chatpb.Message{Text: strings.Repeat("x", payload-3)}
	took, err := b.pushRounds(ctx, h, func() error { return w.Push(ctx, worker.ToGroup(pushGroup), pushRoute, message) })
	if err != nil {
		return err
	}
	row := Row{Group: groupPush, Name: "push to a group, through RabbitMQ and a gate over WebSocket", Value: milliseconds(took), Unit: "ms"}
	row.compare(b.report, barePushed, row.Value, atMost(1.25))
	b.report.add(row)
	return nil
}

// pushRounds is the median time to the last receipt.
func (b *bench) pushRounds(ctx context.Context, h *held, push func() error) (time.Duration, error) {
	var took []time.Duration
	for range pushRounds {
		before, _ := h.Pushes()
		began := h.Since()
		if err := push(); err != nil {
			return 0, fmt.Errorf("bench: push: %w", err)
		}
		var n int64
		var last time.Duration
		err := until(ctx, pushTime, func() bool {
			n, last = h.Pushes()
			return n-before == int64(b.Connections)
		})
		if err != nil {
			return 0, fmt.Errorf("bench: %d of %d have got the push: %w", n-before, b.Connections, err)
		}
		took = append(took, last-began)
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// until waits for done, without taking the processor from whom it waits for.
func until(ctx context.Context, limit time.Duration, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	for !done() {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
