package worker

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkg/errors"

	"github.com/motto123/minigate/pkg/bus"
)

// deadOf hands on what comes into the queue of dead letters.
func deadOf(t *testing.T, b bus.Bus, topology bus.Topology) <-chan bus.Delivery {
	t.Helper()
	dead := make(chan bus.Delivery, 64)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- b.Consume(ctx, bus.Consumer{
			Queue: bus.Queue{
				Name:     topology.DeadQueue(),
				Bindings: []bus.Binding{{Exchange: topology.DeadExchange(), Key: "#"}},
			},
			Handle: func(d bus.Delivery) {
				if err := d.Ack(); err != nil {
					t.Errorf("ack: %v", err)
				}
				dead <- d
			},
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("consume the dead: %v", err)
		}
	})
	return dead
}

func nextOf(t *testing.T, dead <-chan bus.Delivery) bus.Delivery {
	t.Helper()
	select {
	case d := <-dead:
		return d
	case <-time.After(wait):
		t.Fatal("nothing is dead-lettered")
		panic("unreachable")
	}
}

// A malformed envelope says what is wrong with it, and when it died.
func TestMalformedEnvelopesSayWhyOnRabbitMQ(t *testing.T) {
	b, topology := newRabbit(t,
		func(t bus.Topology) string { return t.WorkerQueue("game") },
		func(t bus.Topology) string { return t.GateQueue("g1") })
	dead := deadOf(t, b, topology)
	logger, log := logged()
	w := New("game", Config{Bus: b, Topology: topology, Log: logger})
	with(w, "game.move")
	run(t, w)
	g := newGate(t, b, topology, "g1")
	header := bus.AppendHeader(nil, bus.Header{Gate: "g1", Route: "game.move"})
	g.publish("game.move", bus.AppendRequest(slices.Clone(header), &bus.Request{Session: 1, Type: 2}))
	d := nextOf(t, dead)
	l := d.Letter()
	if !strings.Contains(l.Reason, "message type 2") || l.Route != "game.move" || l.Attempts != 1 || l.Deaths != 1 || time.Since(l.Last) > wait {
		t.Errorf("the letter is %+v", l)
	}
	if d.Key != topology.WorkerQueue("game") || d.Headers["x-death"] != nil {
		t.Errorf("key %q, headers %v", d.Key, d.Headers)
	}
	if !strings.Contains(l.Stack, "worker.(*intake).read") || !strings.Contains(l.Stack, "intake.go:") {
		t.Errorf("the stack is %q", l.Stack)
	}
	said := func() string {
		for line := range strings.Lines(log.Take()) {
			if strings.Contains(line, "dead-lettered") {
				return line
			}
		}
		return ""
	}
	line := said()
	for _, names := range []string{"key=game.move", "gate=g1", "route=game.move", "message type 2"} {
		if !strings.Contains(line, names) {
			t.Errorf("the log has no %s: %s", names, line)
		}
	}
	// Without a gate it says what it can, and where that was found.
	long := strings.Repeat("é", maxNamed)
	g.publish("game.move", bus.AppendRequest(bus.AppendHeader(nil, bus.Header{Route: long}), &bus.Request{Session: 1}))
	d = nextOf(t, dead)
	if l := d.Letter(); !strings.Contains(l.Reason, "no gate") || !strings.Contains(l.Stack, "worker.(*intake).read") {
		t.Errorf("of no gate the letter is %+v", l)
	}
	if line := said(); !strings.Contains(line, `route="`+long[:maxNamed]+`"`) || strings.Contains(line, "gate=") {
		t.Errorf("of no gate the log says %s", line)
	}
	// It is out of the service's queue: the next one is answered.
	if r := g.call("game.move", Text, ""); r.Code != 0 {
		t.Errorf("afterwards: got %q", r.Data)
	}
	select {
	case d := <-dead:
		t.Errorf("there is another letter: %q", d.Body)
	default:
	}
}

// Where the letter can not be published, the broker makes one, without a reason.
func TestMalformedEnvelopesWhoseLetterIsRefused(t *testing.T) {
	b, topology := newRabbit(t,
		func(t bus.Topology) string { return t.WorkerQueue("game") },
		func(t bus.Topology) string { return t.GateQueue("g1") })
	dead := deadOf(t, b, topology)
	faulty := &faultyBus{Bus: b}
	w := New("game", Config{Bus: faulty, Topology: topology, Log: quiet()})
	with(w, "game.move")
	run(t, w)
	g := newGate(t, b, topology, "g1")
	faulty.fail(errors.New("refused"))
	g.publish("game.move", []byte{0xff})
	if d := nextOf(t, dead); d.Headers["x-death"] == nil || d.Letter().Reason != "" || string(d.Body) != "\xff" {
		t.Errorf("body %q, headers %v", d.Body, d.Headers)
	}
}

// A worker that dies between the letter and its ack leaves the envelope to the next
// one: nothing is lost, and the letter is there twice.
func TestMalformedEnvelopeOfAWorkerThatDies(t *testing.T) {
	b, topology := newRabbit(t, func(t bus.Topology) string { return t.WorkerQueue("game") })
	dead := deadOf(t, b, topology)
	faulty := &faultyBus{Bus: b}
	dying := New("game", Config{Bus: faulty, Topology: topology, Log: quiet(), DrainTimeout: 10 * time.Millisecond})
	with(dying, "game.move")
	stop := run(t, dying)
	release := faulty.hold()
	publisher, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	publisher.Publish(bus.Message{Exchange: topology.RequestExchange(), Key: "game.move", Body: []byte{0xff}}, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	first := nextOf(t, dead)
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	next := New("game", Config{Bus: b, Topology: topology, Log: quiet()})
	with(next, "game.move")
	run(t, next)
	second := nextOf(t, dead)
	release()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if string(second.Body) != string(first.Body) || second.Letter().Reason != first.Letter().Reason || second.Letter().Last.Equal(first.Letter().Last) {
		t.Errorf("the letters are %+v and %+v", first.Letter(), second.Letter())
	}
}
