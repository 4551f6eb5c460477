package rabbit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// TestBrokerComesLater: everything may be opened before the broker is there.
func TestBrokerComesLater(t *testing.T) {
	topology, address := own(), broker(t)
	remove := sweep(t, address, topology)
	px := newProxy(t, address)
	px.hide()
	failed := make(chan error, 1000)
	b, err := Open(Config{URL: px.url, Topology: topology, Report: func(err error) { failed <- err }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	until := watch(t, b)
	p, err := b.Publisher()
	if err != nil {
		t.Fatalf("publisher while the broker is not there: %v", err)
	}
	if err := publish(t, p, topology, "key"); !errors.Is(err, bus.ErrUnavailable) || b.State() != bus.Down {
		t.Fatalf("publish while the broker is not there: %v in state %v, want %v", err, b.State(), bus.ErrUnavailable)
	}
	wait(t, failed, "a report that there is no connection")
	px.deny(t, 4)
	px.show()
	c := consume(t, b, topology, remove)
	until(bus.Up)
	if err := publish(t, p, topology, "key"); err != nil {
		t.Fatalf("publish when the broker has come: %v", err)
	}
	wait(t, c.deliveries, "a delivery")
}

// TestBrokerOutages has one broker stopped and killed under load, and out of
// memory.
func TestBrokerOutages(t *testing.T) {
	n := newNode(t)
	address := n.do("start")
	topology := own()
	b := openBus(t, address, topology)
	until := watch(t, b)
	until(bus.Up)
	p, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}

	for _, outage := range []string{"stop", "kill"} {
		t.Run(outage, func(t *testing.T) {
			l := startLoad(t, b, topology)
			l.more(500)
			n.do(outage)
			until(bus.Down)
			if err := publish(t, p, topology, "load"); !errors.Is(err, bus.ErrUnavailable) {
				t.Errorf("publish while the broker is gone: %v, want %v", err, bus.ErrUnavailable)
			}
			n.do("start")
			until(bus.Up)
			l.more(500)
			if failed := l.finish(); failed[bus.ErrUnavailable] == 0 {
				t.Errorf("%v failed, although the broker was away", failed)
			}
		})
	}
	t.Run("blocked", func(t *testing.T) { blocked(t, n, b, topology, until) })
}

func blocked(t *testing.T, n *node, b *Bus, topology bus.Topology, until func(bus.State)) {
	l := startLoad(t, b, topology)
	l.more(100)
	// Deliveries that are acked while the broker takes nothing else.
	held := make(chan bus.Delivery, 100)
	queue := bus.Queue{
		Name:     topology.WorkerQueue("held"),
		Bindings: []bus.Binding{{Exchange: topology.RequestExchange(), Key: "held"}},
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	consumed, ready := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		consumed <- b.Consume(ctx, bus.Consumer{
			Queue: queue, Drain: patience,
			Ready:  func() { wake(ready) },
			Handle: func(d bus.Delivery) { held <- d },
		})
	}()
	wait(t, ready, "the queue")
	p, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := publish(t, p, topology, "held"); err != nil {
			t.Fatal(err)
		}
	}

	n.do("ctl", "set_vm_memory_high_watermark", "0.00001")
	until(bus.Blocked)
	began := time.Now()
	if err := publish(t, p, topology, "load"); !errors.Is(err, bus.ErrUnavailable) || time.Since(began) > time.Second {
		t.Errorf("publish while the broker is blocked: %v after %v, want %v at once", err, time.Since(began), bus.ErrUnavailable)
	}
	for range 10 {
		d := wait(t, held, "a delivery")
		if err := d.Ack(); err != nil {
			t.Errorf("ack while the broker is blocked: %v", err)
		}
	}
	cancel()
	if err := wait(t, consumed, "Consume to end while the broker is blocked"); err != nil {
		t.Errorf("consume: %v", err)
	}
	left := n.do("ctl", "eval", fmt.Sprintf(
		`{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"%s">>)), {ok, N, _} = rabbit_amqqueue:stat(Q), N.`, queue.Name))
	if left != "0" {
		t.Errorf("%s messages are left: the acks did not get through", left)
	}

	n.do("ctl", "set_vm_memory_high_watermark", "0.4")
	until(bus.Up)
	l.more(100)
	if failed := l.finish(); failed[bus.ErrUnconfirmed] > 0 {
		t.Errorf("%v failed, although no connection was lost", failed)
	}
}

// publish publishes one message and waits for what becomes of it.
func publish(t testing.TB, p bus.Publisher, topology bus.Topology, key string) error {
	t.Helper()
	result := make(chan error, 1)
	p.Publish(bus.Message{Exchange: topology.RequestExchange(), Key: key, Body: []byte("one")}, func(err error) { result <- err })
	return wait(t, result, "the result of publishing")
}

func TestConnectionCutUnderLoad(t *testing.T) {
	topology, address := own(), broker(t)
	remove := sweep(t, address, topology)
	px := newProxy(t, address)
	b := openBus(t, px.url, topology)
	until := watch(t, b)
	until(bus.Up)
	l := startLoad(t, b, topology)
	t.Cleanup(func() { remove(l.queue.Name) })
	const cuts = 5
	for range cuts {
		l.more(300)
		px.cut()
		until(bus.Down)
		until(bus.Up)
	}
	l.more(300)
	failed := l.finish()
	if failed[bus.ErrUnconfirmed] == 0 {
		t.Errorf("%v failed, although the connection was cut %d times with messages under way", failed, cuts)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ready < 2 {
		t.Errorf("Ready was called %d times in %d connections", l.ready, cuts+1)
	}
}

func TestDeliveryIsStaleAfterReconnect(t *testing.T) {
	topology, address := own(), broker(t)
	remove := sweep(t, address, topology)
	px := newProxy(t, address)
	b := openBus(t, px.url, topology)
	until := watch(t, b)
	until(bus.Up)
	c := consume(t, b, topology, remove)
	p, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	if err := publish(t, p, topology, "key"); err != nil {
		t.Fatal(err)
	}
	first := wait(t, c.deliveries, "a delivery")
	px.cut()
	again := wait(t, c.deliveries, "the delivery to come again")
	if !again.Redelivered {
		t.Error("it is not marked as redelivered")
	}
	if err := first.Ack(); !errors.Is(err, bus.ErrStale) {
		t.Errorf("ack of the first: %v, want %v", err, bus.ErrStale)
	}
	if err := again.Ack(); err != nil {
		t.Errorf("ack of the second: %v", err)
	}
}

type consuming struct {
	queue      bus.Queue
	deliveries chan bus.Delivery
	ready      chan struct{}
}

func consume(t testing.TB, b *Bus, topology bus.Topology, remove func(string)) *consuming {
	t.Helper()
	c := &consuming{
		queue: bus.Queue{
			Name:     topology.WorkerQueue("a"),
			Bindings: []bus.Binding{{Exchange: topology.RequestExchange(), Key: "key"}},
		},
		deliveries: make(chan bus.Delivery, 100), ready: make(chan struct{}, 100),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- b.Consume(ctx, bus.Consumer{
			Queue:  c.queue,
			Ready:  func() { c.ready <- struct{}{} },
			Handle: func(d bus.Delivery) { c.deliveries <- d },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := wait(t, done, "Consume to return"); err != nil {
			t.Errorf("consume: %v", err)
		}
		remove(c.queue.Name)
	})
	wait(t, c.ready, "the queue")
	return c
}

// TestSilentPeer: a connection on which nothing passes any more is noticed by
// its heartbeat, and who is stuck writing to it is freed.
func TestSilentPeer(t *testing.T) {
	topology, address := own(), broker(t)
	remove := sweep(t, address, topology)
	px := newProxy(t, address)
	b, err := Open(Config{URL: px.url, Topology: topology, Heartbeat: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	until := watch(t, b)
	until(bus.Up)
	consume(t, b, topology, remove)
	p, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	px.stall()
	// Ten times as much as two sockets hold; Publish gets stuck on the way.
	const n = 100
	var results []error
	var mu sync.Mutex
	var all sync.WaitGroup
	all.Add(n)
	go func() {
		body := make([]byte, 1<<20)
		for range n {
			p.Publish(bus.Message{Exchange: topology.RequestExchange(), Key: "key", Body: body}, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				results = append(results, err)
				all.Done()
			})
		}
	}()
	until(bus.Down)
	all.Wait()
	unconfirmed := 0
	for i, err := range results {
		switch {
		case errors.Is(err, bus.ErrUnconfirmed):
			unconfirmed++
		case !errors.Is(err, bus.ErrUnavailable):
			t.Errorf("message %d: %v", i, err)
		}
	}
	if unconfirmed == 0 {
		t.Error("no message was reported as unconfirmed")
	}
	px.pass()
	until(bus.Up)
	if err := publish(t, p, topology, "key"); err != nil {
		t.Errorf("publish when the connection is back: %v", err)
	}
}

// TestUnconfirmedAreBounded: Publish waits where too much is under way, and is
// freed when the connection is lost.
func TestUnconfirmedAreBounded(t *testing.T) {
	topology, address := own(), broker(t)
	remove := sweep(t, address, topology)
	px := newProxy(t, address)
	b := openBus(t, px.url, topology)
	until := watch(t, b)
	until(bus.Up)
	consume(t, b, topology, remove)
	opened, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	p, ok := opened.(*publisher)
	if !ok {
		t.Fatalf("publisher is a %T", opened)
	}
	px.stall()
	const n = maxUnconfirmed + 1000
	var all sync.WaitGroup
	all.Add(n)
	go func() {
		for range n {
			p.Publish(bus.Message{Exchange: topology.RequestExchange(), Key: "key"}, func(error) { all.Done() })
		}
	}()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for unconfirmed := 0; unconfirmed < maxUnconfirmed; {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("only %d are unconfirmed", unconfirmed)
		}
		p.mu.Lock()
		unconfirmed = p.unconfirmed
		p.mu.Unlock()
	}
	for range 20 { // it stays there
		<-tick.C
		p.mu.Lock()
		if p.unconfirmed > maxUnconfirmed {
			t.Errorf("%d are unconfirmed, more than %d", p.unconfirmed, maxUnconfirmed)
		}
		p.mu.Unlock()
	}
	px.cut()
	px.pass()
	all.Wait()
	until(bus.Down)
	until(bus.Up)
}

// TestChannelClosedByBroker: the broker closes the channel of a publisher that
// did wrong. Others do not notice, and the publisher comes back.
func TestChannelClosedByBroker(t *testing.T) {
	topology, address := own(), broker(t)
	remove := sweep(t, address, topology)
	b := openBus(t, address, topology)
	until := watch(t, b)
	until(bus.Up)
	consume(t, b, topology, remove)
	p, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := amqp.Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close() }()
	ch, err := admin.Channel()
	if err != nil {
		t.Fatal(err)
	}
	reply := bus.Message{Exchange: topology.ReplyExchange(), Key: "gate.x"}
	if err := ch.ExchangeDelete(reply.Exchange, false, false); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	p.Publish(reply, func(err error) { result <- err })
	if err := wait(t, result, "the result"); !errors.Is(err, bus.ErrUnconfirmed) {
		t.Errorf("publish to an exchange that is gone: %v, want %v", err, bus.ErrUnconfirmed)
	}
	if err := publish(t, other, topology, "key"); err != nil || b.State() != bus.Up {
		t.Errorf("another publisher: %v, state %v", err, b.State())
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		err := publish(t, p, topology, "key")
		if err == nil {
			break
		}
		if !errors.Is(err, bus.ErrUnavailable) || time.Since(began) > patience {
			t.Fatalf("the publisher does not come back: %v", err)
		}
	}
}

// TestQueueDeletedUnderConsumer: it is declared again.
func TestQueueDeletedUnderConsumer(t *testing.T) {
	topology, address := own(), broker(t)
	remove := sweep(t, address, topology)
	b := openBus(t, address, topology)
	until := watch(t, b)
	until(bus.Up)
	c := consume(t, b, topology, remove)
	remove(c.queue.Name)
	wait(t, c.ready, "the queue to be declared again")
	p, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	if err := publish(t, p, topology, "key"); err != nil {
		t.Fatal(err)
	}
	d := wait(t, c.deliveries, "a delivery")
	if err := d.Ack(); err != nil {
		t.Errorf("ack: %v", err)
	}
}
