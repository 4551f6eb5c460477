package rabbit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
	received  map[int]int
	confirmed int
	missing   int           // messages that are confirmed and not received
	delivered chan struct{} // something was received
	ready     int
}

func startLoad(t testing.TB, b *Bus, topology bus.Topology) *load {
	t.Helper()
	l := &load{
		t: t, exchange: topology.RequestExchange(), stop: make(chan struct{}),
		results: make(map[int]error), received: make(map[int]int), delivered: make(chan struct{}, 1),
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
	i, err := strconv.Atoi(string(d.Body))
	if err != nil {
		l.t.Errorf("received: %v", err)
	}
	l.mu.Lock()
	if err, reported := l.results[i]; l.received[i] == 0 && reported && err == nil {
		l.missing--
	}
	l.received[i]++
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
			if err == nil {
				l.confirmed++
				if l.received[i] == 0 {
					l.missing++
				}
			}
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
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.confirmed
	}
	want := count() + n
	for count() < want {
		wait(l.t, l.delivered, "messages to get through")
	}
}

// finish stops the load, and wants what was confirmed to be received, and every
// message to have been reported once and with an error that the contract allows.
func (l *load) finish() (failed map[error]int) {
	l.t.Helper()
	close(l.stop)
	l.all.Wait()
	failed = make(map[error]int)
	l.mu.Lock()
	for i, err := range l.results {
		switch {
		case err == nil:
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
		missing, confirmed := l.missing, l.confirmed
		l.mu.Unlock()
		if missing == 0 {
			return failed
		}
		select {
		case <-l.delivered:
		case <-deadline:
			l.t.Fatalf("%d of %d confirmed messages were lost%s", missing, confirmed, l.lost())
		}
	}
}

// lost says which messages were confirmed and not received, as runs of numbers, and
// what was received after them.
func (l *load) lost() (text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	numbers := slices.Sorted(maps.Keys(l.results))
	gone := func(i int) bool { return l.results[i] == nil && l.received[i] == 0 }
	for at := 0; at < len(numbers); at++ {
		if !gone(numbers[at]) {
			continue
		}
		first := numbers[at]
		for at+1 < len(numbers) && gone(numbers[at+1]) {
			at++
		}
		text += fmt.Sprintf("; %d to %d", first, numbers[at])
	}
	newest := -1
	for i := range l.received {
		newest = max(newest, i)
	}
	return fmt.Sprintf("%s; the newest received is %d of %d, the queue was declared %d times", text, newest, len(numbers)-1, l.ready)
}
