// Package bustest is the conformance suite of pkg/bus: what every bus has to
// pass, and the benchmarks by which they are compared.
//
// It refuses to know which bus it tests: what only a broker can do (restart, be
// cut off, run out of memory) is tested beside that bus.
package bustest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

// Patience is how long a test waits for what has to happen.
const Patience = 30 * time.Second

// Env is a bus on a broker on which the topology's names are the test's own.
type Env struct {
	Bus      bus.Bus
	Topology bus.Topology
	// Open gives another bus on the same broker; nil where the broker is the bus.
	Open func(t testing.TB) bus.Bus
	// Remove, if set, deletes a queue that a test has made.
	Remove func(queue string)
}

// Run runs the suite. open is called once a test, and closes what it opened
// with t.Cleanup.
func Run(t *testing.T, open func(t testing.TB) Env) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, *kit)
	}{
		{"TopicPatterns", topicPatterns},
		{"OneCopyPerQueue", oneCopyPerQueue},
		{"NoRoute", noRoute},
		{"BodiesOfAllSizes", bodiesOfAllSizes},
		{"BodyIsThePublishersAgain", bodyIsThePublishersAgain},
		{"ConfirmedOnceAndInOrder", confirmedOnceAndInOrder},
		{"FullQueueRefuses", fullQueueRefuses},
		{"FullInBytesRefuses", fullInBytesRefuses},
		{"OrderPerPublisher", orderPerPublisher},
		{"ManyPublishersAtOnce", manyPublishersAtOnce},
		{"PublisherClose", publisherClose},
		{"ClosingWithoutLoss", closingWithoutLoss},
		{"StateAndClose", stateAndClose},
		{"CompetingConsumers", competingConsumers},
		{"Prefetch", prefetch},
		{"RedeliveryAfterConsumerDies", redeliveryAfterConsumerDies},
		{"RejectRequeues", rejectRequeues},
		{"RejectDeadLetters", rejectDeadLetters},
		{"SettledTwice", settledTwice},
		{"SettledInAnyOrder", settledInAnyOrder},
		{"DrainLetsAcksThrough", drainLetsAcksThrough},
		{"DrainKeepsOnlyWhatWasHandedOut", drainKeepsOnlyWhatWasHandedOut},
		{"DrainEnds", drainEnds},
		{"RequeuedAtTheEnd", requeuedAtTheEnd},
		{"ConsumeWaitsForHandle", consumeWaitsForHandle},
		{"Expires", expires},
		{"QuorumQueue", quorumQueue},
		{"QueueThatCanNotBeHad", queueThatCanNotBeHad},
		{"Counts", counts},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, newKit(t, open(t))) })
	}
}

// kit is what the tests are written with.
type kit struct {
	Env
	t testing.TB
}

func newKit(t testing.TB, env Env) *kit {
	k := &kit{Env: env, t: t}
	waitUp(t, env.Bus)
	return k
}

func waitUp(t testing.TB, b bus.Bus) {
	t.Helper()
	up := make(chan struct{}, 1)
	stop := b.Watch(func(s bus.State) {
		if s == bus.Up {
			select {
			case up <- struct{}{}:
			default:
			}
		}
	})
	defer stop()
	if b.State() != bus.Up {
		wait(t, up, "the bus to come up")
	}
}

// wait receives from c, or fails.
func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(Patience):
		t.Fatalf("waited %v in vain for %s", Patience, what)
		panic("unreachable")
	}
}

// quiet fails when something arrives within a moment that is long for a bus.
func quiet(t testing.TB, c <-chan bus.Delivery, why string) {
	t.Helper()
	select {
	case d := <-c:
		t.Fatalf("got %q although %s", d.Body, why)
	case <-time.After(100 * time.Millisecond):
	}
}

// queue names a queue of the test's own.
func (k *kit) queue(name string, keys ...string) bus.Queue {
	q := bus.Queue{Name: k.Topology.WorkerQueue(name)}
	for _, key := range keys {
		q.Bindings = append(q.Bindings, bus.Binding{Exchange: k.Topology.RequestExchange(), Key: key})
	}
	if k.Remove != nil {
		k.t.Cleanup(func() { k.Remove(q.Name) })
	}
	return q
}

// running is a Consume that goes on.
type running struct {
	t          testing.TB
	deliveries chan bus.Delivery
	cancel     context.CancelFunc
	done       chan struct{}
	err        error // set before done is closed
}

// consume starts consuming and returns once the queue is bound. Without a
// Handle of its own the deliveries are to be had from the channel.
func (k *kit) consume(c bus.Consumer) *running {
	k.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: k.t, deliveries: make(chan bus.Delivery, 20_000), cancel: cancel, done: make(chan struct{})}
	ready := make(chan struct{}, 1)
	c.Ready = func() {
		select {
		case ready <- struct{}{}:
		default:
		}
	}
	if c.Handle == nil {
		c.Handle = func(d bus.Delivery) { r.deliveries <- d }
	}
	go func() {
		defer close(r.done)
		r.err = k.Bus.Consume(ctx, c)
	}()
	k.t.Cleanup(func() {
		cancel()
		wait(k.t, r.done, "Consume to return at the test's end")
	})
	select {
	case <-ready:
	case <-r.done:
		k.t.Fatalf("consume %s: %v", c.Queue.Name, r.err)
	case <-time.After(Patience):
		k.t.Fatalf("consume %s: not ready in %v", c.Queue.Name, Patience)
	}
	return r
}

// declare makes a queue and leaves it without a consumer.
func (k *kit) declare(q bus.Queue) bus.Queue {
	k.t.Helper()
	k.consume(bus.Consumer{Queue: q}).stop()
	return q
}

func (r *running) next() bus.Delivery {
	r.t.Helper()
	return wait(r.t, r.deliveries, "a delivery")
}

// take receives n deliveries and returns them with their bodies.
func (r *running) take(n int) (ds []bus.Delivery, bodies []string) {
	r.t.Helper()
	for range n {
		d := r.next()
		ds, bodies = append(ds, d), append(bodies, string(d.Body))
	}
	return ds, bodies
}

// stop ends consuming and waits.
func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	wait(r.t, r.done, "Consume to return")
	if r.err != nil {
		r.t.Fatalf("Consume = %v after its context ended, want nil", r.err)
	}
}

func ack(t testing.TB, ds ...bus.Delivery) {
	t.Helper()
	for i := range ds {
		if err := ds[i].Ack(); err != nil {
			t.Fatalf("ack %q: %v", ds[i].Body, err)
		}
	}
}

func (k *kit) publisher() bus.Publisher {
	k.t.Helper()
	return openPublisher(k.t, k.Bus)
}

func openPublisher(t testing.TB, b bus.Bus) bus.Publisher {
	t.Helper()
	p, err := b.Publisher()
	if err != nil {
		t.Fatalf("publisher: %v", err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close publisher: %v", err)
		}
	})
	return p
}

func (k *kit) message(key, body string) bus.Message {
	return bus.Message{Exchange: k.Topology.RequestExchange(), Key: key, Body: []byte(body)}
}

// publish publishes the messages and returns what became of each.
func publish(t testing.TB, p bus.Publisher, messages ...bus.Message) []error {
	t.Helper()
	results := make([]error, len(messages))
	var all sync.WaitGroup
	all.Add(len(messages))
	for i, m := range messages {
		p.Publish(m, func(err error) {
			results[i] = err
			all.Done()
		})
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	wait(t, done, "confirms")
	return results
}

// send publishes bodies that all have to be confirmed.
func (k *kit) send(p bus.Publisher, key string, bodies ...string) {
	k.t.Helper()
	messages := make([]bus.Message, len(bodies))
	for i, body := range bodies {
		messages[i] = k.message(key, body)
	}
	for i, err := range publish(k.t, p, messages...) {
		if err != nil {
			k.t.Fatalf("publish %q to %s: %v", bodies[i], key, err)
		}
	}
}

// numbered are n bodies that tell their place.
func numbered(n int) []string {
	bodies := make([]string, n)
	for i := range bodies {
		bodies[i] = fmt.Sprintf("message %d", i)
	}
	return bodies
}
