package rabbit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

const patience = 60 * time.Second

// wait receives from c, or fails.
func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v in vain for %s", patience, what)
		panic("unreachable")
	}
}

// watch returns a function that waits until the bus is in a state, now or later.
func watch(t testing.TB, b *Bus) (until func(bus.State)) {
	t.Helper()
	states := make(chan bus.State, 1000)
	t.Cleanup(b.Watch(func(s bus.State) { states <- s }))
	last := b.State()
	return func(want bus.State) {
		t.Helper()
		for last != want {
			last = wait(t, states, "the state "+want.String())
		}
	}
}

// load publishes to and consumes from one queue without a pause, while a test
// does something to the connection.
type load struct {
	t         testing.TB
	queue     bus.Queue
	publisher bus.Publisher
	exchange  string

	stop chan struct{}
	all  sync.WaitGroup

	mu        sync.Mutex
	results   map[int]error
	repeated  int // results that came a second time
	received  map[string]int
	delivered chan struct{} // something was received
	ready     int
}

func startLoad(t testing.TB, b *Bus, topology bus.Topology) *load {
	t.Helper()
	l := &load{
		t: t, exchange: topology.RequestExchange(), stop: make(chan struct{}),
		results: make(map[int]error), received: make(map[string]int), delivered: make(chan struct{}, 1),
	}
	var err error
	if l.publisher, err = b.Publisher(); err != nil {
		t.Fatalf("publisher: %v", err)
	}
	l.queue = bus.Queue{
		Name:     topology.WorkerQueue("load"),
		Bindings: []bus.Binding{{Exchange: l.exchange, Key: "load"}},
	}
	ctx, cancel := context.WithCancel(context.Background())
	consumed, ready := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		consumed <- b.Consume(ctx, bus.Consumer{
			Queue:  l.queue,
			Ready:  func() { l.mu.Lock(); l.ready++; l.mu.Unlock(); wake(ready) },
			Handle: l.receive,
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := wait(t, consumed, "Consume to return"); err != nil {
			t.Errorf("consume: %v", err)
		}
	})
	wait(t, ready, "the queue")
	l.all.Add(1)
	go l.publish()
	return l
}

func (l *load) receive(d bus.Delivery) {
	l.mu.Lock()
	l.received[string(d.Body)]++
	l.mu.Unlock()
	wake(l.delivered)
	if err := d.Ack(); err != nil && !errors.Is(err, bus.ErrStale) {
		l.t.Errorf("ack: %v", err)
	}
}

// publish keeps 64 messages under way.
func (l *load) publish() {
	defer l.all.Done()
	window := make(chan struct{}, 64)
	retry := time.NewTicker(2 * time.Millisecond) // while there is no broker
	defer retry.Stop()
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		case window <- struct{}{}:
		}
		l.all.Add(1)
		failed := make(chan struct{}, 1)
		l.publisher.Publish(bus.Message{
			Exchange: l.exchange, Key: "load", Body: []byte(fmt.Sprint(i)), Persistent: true,
		}, func(err error) {
			l.mu.Lock()
			if _, ok := l.results[i]; ok {
				l.repeated++
			}
			l.results[i] = err
			l.mu.Unlock()
			if err != nil {
				failed <- struct{}{}
			}
			<-window
			l.all.Done()
		})
		select {
		case <-failed:
			<-retry.C
		default:
		}
	}
}

// more waits until n more messages are confirmed.
func (l *load) more(n int) {
	l.t.Helper()
	want := l.confirmed() + n
	for l.confirmed() < want {
		wait(l.t, l.delivered, "messages to get through")
	}
}

func (l *load) confirmed() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, err := range l.results {
		if err == nil {
			n++
		}
	}
	return n
}

// finish stops the load, and wants what was confirmed to be received, and every
// message to have been reported once and with an error that the contract allows.
func (l *load) finish() (failed map[error]int) {
	l.t.Helper()
	close(l.stop)
	l.all.Wait()
	failed = make(map[error]int)
	l.mu.Lock()
	confirmed := make(map[string]bool)
	for i, err := range l.results {
		switch {
		case err == nil:
			confirmed[fmt.Sprint(i)] = true
		case errors.Is(err, bus.ErrUnavailable), errors.Is(err, bus.ErrUnconfirmed):
			failed[err]++
		default:
			l.t.Errorf("message %d: %v", i, err)
		}
	}
	if l.repeated > 0 {
		l.t.Errorf("%d results were reported twice", l.repeated)
	}
	l.mu.Unlock()
	deadline := time.After(patience)
	for {
		l.mu.Lock()
		missing := 0
		for body := range confirmed {
			if l.received[body] == 0 {
				missing++
			}
		}
		l.mu.Unlock()
		if missing == 0 {
			return failed
		}
		select {
		case <-l.delivered:
		case <-deadline:
			l.t.Fatalf("%d of %d confirmed messages were lost", missing, len(confirmed))
		}
	}
}
