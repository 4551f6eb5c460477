package events

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pkgerrors "github.com/pkg/errors"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/proto/emailpb"
)

// depth is how many messages wait in a queue.
func depth(t *testing.T, name string) (n int) {
	t.Helper()
	withChannel(t, func(channel *amqp.Channel) {
		q, err := channel.QueueDeclarePassive(name, true, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		n = q.Messages
	})
	return n
}

// get takes one message from a queue.
func get(t *testing.T, name string) (d amqp.Delivery) {
	t.Helper()
	withChannel(t, func(channel *amqp.Channel) {
		eventually(t, "a message in "+name, func() bool {
			var ok bool
			var err error
			if d, ok, err = channel.Get(name, true); err != nil {
				t.Fatal(err)
			}
			return ok
		})
	})
	return d
}

func TestDeadLetterOnTheBroker(t *testing.T) {
	c := config(t, rabbitURL(t))
	e, _ := newEvents(t, c)
	Subscribe(e, "one", "email.verification", func(context.Context, *emailpb.Verification) error {
		panic(strings.Repeat("long 😀", 4000))
	}, Retries(1))
	run(t, e)
	publish(t, e, mail("42"))
	d := get(t, c.Topology.DeadQueue())
	for key, want := range map[string]string{"event": "email.verification", "group": "one", "attempts": "2", "name": "email.Verification"} {
		if d.Headers[key] != want {
			t.Errorf("header %s is %v, want %s", key, d.Headers[key], want)
		}
	}
	reason, _ := d.Headers["reason"].(string)
	if !strings.HasPrefix(reason, "panic: long") || strings.Contains(reason, "goroutine") || len(reason) > bus.MaxReason {
		t.Errorf("reason has %d bytes: %.80s", len(reason), reason)
	}
	if d.RoutingKey != c.Topology.EventQueue("one", "email.verification") || d.DeliveryMode != amqp.Persistent || d.MessageId == "" {
		t.Errorf("key %q, mode %d, id %q", d.RoutingKey, d.DeliveryMode, d.MessageId)
	}
	if !bytes.Contains(d.Body, []byte("42")) {
		t.Error("the dead letter has lost its payload")
	}
}

// The stack stands apart from the reason: that of a panic, and that of an error
// which has one. A letter that is put back and dies again tells of both deaths, and
// of the attempts of its last life.
func TestDeadLetterTellsWhere(t *testing.T) {
	c := config(t, rabbitURL(t))
	e, log := newEvents(t, c)
	fail := make(chan func() error, 10)
	Subscribe(e, "one", "email.verification", func(context.Context, *emailpb.Verification) error { return (<-fail)() }, Retries(1))
	run(t, e)
	var again amqp.Delivery
	for _, x := range []struct {
		name          string
		fail          func() error
		reason, stack string
	}{
		{"panic", func() error { panic("oh no") }, "panic: oh no", "TestDeadLetterTellsWhere"},
		{"error with a stack", func() error { return fmt.Errorf("send: %w", pkgerrors.New("451 try later")) }, "send: 451 try later", "TestDeadLetterTellsWhere"},
		{"error without one", func() error { return errors.New("550 no such user") }, "550 no such user", ""},
	} {
		fail <- func() error { panic("of the first attempt") }
		fail <- x.fail
		publish(t, e, mail("42"))
		again = get(t, c.Topology.DeadQueue())
		stack, _ := again.Headers["stack"].(string)
		if again.Headers["reason"] != x.reason || !strings.Contains(stack, x.stack) || (stack == "") != (x.stack == "") {
			t.Errorf("%s: reason %q, stack %q", x.name, again.Headers["reason"], stack)
		}
	}
	if n := e.subscriptions[0].counts.panics.Load(); n != 4 {
		t.Errorf("%d panics were counted, want 4", n)
	}
	for line := range strings.Lines(log.String()) {
		// Of a panic at once, of what else has one with the letter.
		with := strings.Contains(line, "panic") || strings.Contains(line, "451") && strings.Contains(line, "is a dead letter")
		if strings.Contains(line, "TestDeadLetterTellsWhere") != with {
			t.Errorf("a stack in the log: want %v in %s", with, line)
		}
	}

	text := func(name string) string {
		s, _ := again.Headers[name].(string)
		return s
	}
	died := bus.ReadLetter(text)
	if died.Deaths != 1 || time.Since(died.First) > patience || !died.First.Equal(died.Last) || died.Attempts != 2 {
		t.Errorf("the first death: %+v", died)
	}
	if again.Timestamp.IsZero() {
		t.Error("the letter does not say when the event was published")
	}
	again.Headers["stack"] = "of an earlier life"
	again.Headers["kept"] = "by whoever put it there"
	withChannel(t, func(channel *amqp.Channel) {
		p := amqp.Publishing{Headers: again.Headers, MessageId: again.MessageId, Body: again.Body, Timestamp: time.Unix(1_700_000_000, 0)}
		if err := channel.PublishWithContext(t.Context(), "", again.RoutingKey, true, false, p); err != nil {
			t.Fatal(err)
		}
	})
	fail <- func() error { return Permanent(errors.New("421 closed")) }
	id := again.MessageId
	again = get(t, c.Topology.DeadQueue())
	twice := bus.ReadLetter(text)
	if twice.Deaths != 2 || !twice.First.Equal(died.First) || !twice.Last.After(died.First) || twice.Attempts != 1 || twice.Reason != "421 closed" || twice.Stack != "" {
		t.Errorf("the second death: %+v", twice)
	}
	if again.MessageId != id || again.Timestamp.Unix() != 1_700_000_000 || text("kept") == "" || text("name") != "email.Verification" {
		t.Errorf("the letter has lost something: %v", again.Headers)
	}
	for name := range again.Headers {
		if strings.HasPrefix(name, "this_") || strings.HasSuffix(name, "_poisoned") {
			t.Errorf("header %s is on the broker", name)
		}
	}
}

// What others put into the queue can be anything; it must not come back for ever.
func TestGarbageIsADeadLetter(t *testing.T) {
	c := config(t, rabbitURL(t))
	e, _ := newEvents(t, c)
	Subscribe(e, "one", "email.verification", func(context.Context, *emailpb.Verification) error {
		t.Error("the handler got garbage")
		return nil
	})
	e.Reserve("two", "email.verification")
	run(t, e)
	publish(t, e, &emailpb.Verification{}) // the queues are there now, and this is invalid
	get(t, c.Topology.DeadQueue())
	for name, p := range map[string]amqp.Publishing{
		"no protobuf":   {Body: []byte{0xff, 0xff}},
		"empty":         {},
		"other headers": {Body: []byte{0xff}, Headers: amqp.Table{"x-death": []any{amqp.Table{"count": int64(3)}}, "n": int32(7), "id": int64(9)}},
		"other type":    {Headers: amqp.Table{"name": "email.PasswordReset"}, Body: []byte{}},
	} {
		withChannel(t, func(channel *amqp.Channel) {
			if err := channel.PublishWithContext(context.Background(), c.Topology.EventExchange(), "email.verification", false, false, p); err != nil {
				t.Fatal(err)
			}
		})
		if d := get(t, c.Topology.DeadQueue()); d.Headers["attempts"] != "1" {
			t.Errorf("%s: %v attempts, want 1", name, d.Headers["attempts"])
		}
	}
}

func TestReplicasCompete(t *testing.T) {
	c := config(t, rabbitURL(t))
	var mu sync.Mutex
	got := map[string]int{}
	both := [2]atomic.Int32{}
	var publisher *Events
	for i := range 2 {
		e, _ := newEvents(t, c)
		Subscribe(e, "one", "email.verification", func(_ context.Context, in *emailpb.Verification) error {
			mu.Lock()
			defer mu.Unlock()
			got[in.Code]++
			both[i].Add(1)
			return nil
		})
		run(t, e)
		publisher = e
	}
	eventually(t, "both replicas at work", func() bool {
		publish(t, publisher, mail("warm"))
		return both[0].Load() > 0 && both[1].Load() > 0
	})
	for i := range 100 {
		publish(t, publisher, mail(strconv.Itoa(i)))
	}
	eventually(t, "100 messages", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) == 101
	})
	for code, n := range got {
		if n != 1 && code != "warm" {
			t.Errorf("%s came %d times", code, n)
		}
	}
}

func TestReserveKeepsWhatComesBeforeTheGroup(t *testing.T) {
	c := config(t, rabbitURL(t))
	e, _ := newEvents(t, c)
	e.Reserve("one", "email.verification")
	stop := run(t, e)
	publish(t, e, mail("early"))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	later, _ := newEvents(t, c)
	got := make(chan string, 1)
	Subscribe(later, "one", "email.verification", func(_ context.Context, in *emailpb.Verification) error { got <- in.Code; return nil })
	run(t, later)
	if code := receive(t, got); code != "early" {
		t.Error(code)
	}
}

// A consumer that dies with an unacked message: its connection is cut while the
// handler runs, and another replica gets the message.
func TestRedelivery(t *testing.T) {
	wire, throughWire := newCable(t)
	c := config(t, rabbitURL(t))
	dying := c
	dying.URL = throughWire
	started, release := make(chan struct{}, 1), make(chan struct{})
	e, _ := newEvents(t, dying)
	Subscribe(e, "one", "email.verification", func(context.Context, *emailpb.Verification) error {
		started <- struct{}{}
		<-release
		return nil
	})
	run(t, e)
	publish(t, e, mail("1"))
	receive(t, started)
	wire.cut()

	other, _ := newEvents(t, c)
	got := make(chan string, 10)
	Subscribe(other, "one", "email.verification", func(_ context.Context, in *emailpb.Verification) error { got <- in.Code; return nil })
	run(t, other)
	if code := receive(t, got); code != "1" {
		t.Error(code)
	}
	close(release)
	wire.mend() // or e would not end cleanly
}

// Publishing while connections are cut, again and again: what was confirmed
// arrives, and both sides come back by themselves.
func TestReconnect(t *testing.T) {
	wire, throughWire := newCable(t)
	c := config(t, throughWire)
	e, log := newEvents(t, c)
	var mu sync.Mutex
	got := map[string]bool{}
	Subscribe(e, "one", "email.verification", func(_ context.Context, in *emailpb.Verification) error {
		mu.Lock()
		defer mu.Unlock()
		got[in.Code] = true
		return nil
	})
	run(t, e)
	publish(t, e, mail("first"))
	confirmed := []string{"first"}

	for round := range 5 {
		var publishers sync.WaitGroup
		begun := make(chan struct{}, 1000)
		for p := range 8 {
			publishers.Go(func() {
				for i := range 20 {
					code := fmt.Sprint(round, ".", p, ".", i)
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					err := e.Publish(ctx, "email.verification", mail(code))
					cancel()
					begun <- struct{}{}
					if err == nil {
						mu.Lock()
						confirmed = append(confirmed, code)
						mu.Unlock()
					} else if !errors.Is(err, bus.ErrUnconfirmed) && !errors.Is(err, bus.ErrUnavailable) {
						t.Error(err)
					}
				}
			})
		}
		for range 20 {
			receive(t, begun)
		}
		wire.cut()
		wire.mend()
		publishers.Wait()
	}
	publish(t, e, mail("last"))
	confirmed = append(confirmed, "last")
	eventually(t, "everything confirmed has arrived", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, code := range confirmed {
			if !got[code] {
				return false
			}
		}
		return true
	})
	if len(confirmed) < 5*8*20/2 {
		t.Errorf("only %d of %d were confirmed", len(confirmed), 5*8*20)
	}
	if strings.Contains(log.String(), "dead letter") {
		t.Error("a lost connection made a dead letter")
	}
}

func TestRunSaysThatAQueueIsOtherwise(t *testing.T) {
	c := config(t, rabbitURL(t))
	withChannel(t, func(channel *amqp.Channel) {
		if _, err := channel.QueueDeclare(c.Topology.EventQueue("one", "email.verification"), true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
	})
	e, _ := newEvents(t, c)
	Subscribe(e, "one", "email.verification", func(context.Context, *emailpb.Verification) error { return nil })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := e.Run(ctx); err == nil || !strings.Contains(err.Error(), "PRECONDITION_FAILED") {
		t.Errorf("Run returned %v", err)
	}
}

// A message that waits to be tried again when the process stops goes back to its
// queue, at once, and is no dead letter.
func TestStopWhileRetrying(t *testing.T) {
	c := config(t, rabbitURL(t))
	c.RetryDelay = time.Hour
	e, log := newEvents(t, c)
	called := make(chan struct{}, 10)
	Subscribe(e, "one", "email.verification", func(context.Context, *emailpb.Verification) error {
		called <- struct{}{}
		return errors.New("not now")
	})
	stop := run(t, e)
	publish(t, e, mail("again"))
	receive(t, called)
	eventually(t, "the failure logged", func() bool { return strings.Contains(log.String(), "not now") })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n := depth(t, c.Topology.DeadQueue()); n != 0 || strings.Contains(log.String(), "dead letter") {
		t.Errorf("%d dead letters", n)
	}
	if d := get(t, c.Topology.EventQueue("one", "email.verification")); !bytes.Contains(d.Body, []byte("again")) {
		t.Errorf("the queue holds %q", d.Body)
	}
}

func BenchmarkPublish(b *testing.B) {
	c := Config{Topology: bus.NewTopology("eventsbench"), URL: rabbitURL(b)}
	logger, _ := newLog(b)
	e, err := New(c, logger)
	if err != nil {
		b.Fatal(err)
	}
	e.Reserve("one", "email.verification")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		<-ended
		remove(b, c.Topology)
	})
	b.SetParallelism(64)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := e.Publish(ctx, "email.verification", mail("1")); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
