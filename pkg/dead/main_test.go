package dead

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/settings"

	_ "github.com/motto123/minigate/proto/authpb"
	_ "github.com/motto123/minigate/proto/chatpb"
	_ "github.com/motto123/minigate/proto/commonpb"
	_ "github.com/motto123/minigate/proto/emailpb"
)

// childName makes this program the command: minigate dead, with its arguments.
const childName = "MINIGATE_TEST_DEAD"

func TestMain(m *testing.M) {
	if os.Getenv(childName) != "" {
		if err := child(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "minigate:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func child(name string, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var c Command
	run := map[string]func(context.Context, []string) error{"list": c.List, "show": c.Show, "requeue": c.Requeue, "discard": c.Discard}[name]
	s := settings.Set{FlagSet: pflag.NewFlagSet(name, pflag.ContinueOnError)}
	for _, declare := range []func(settings.Set){c.Settings, c.FilterSettings, c.MoveSettings, c.ShowSettings} {
		declare(s)
	}
	if err := s.Parse(args); err != nil {
		return err
	}
	return run(ctx, s.Args())
}

const patience = 30 * time.Second

func broker(t testing.TB) string {
	t.Helper()
	u := os.Getenv("MINIGATE_TEST_RABBITMQ")
	if u == "" {
		t.Fatal("MINIGATE_TEST_RABBITMQ is not set: the URL of a RabbitMQ, such as amqp://guest:guest@127.0.0.1:5672/")
	}
	return u
}

// rig is an installation of a test's own, with a queue of dead letters.
type rig struct {
	t        *testing.T
	url      string
	topology bus.Topology
	conn     *amqp.Connection
	channel  *amqp.Channel // of the test's goroutine
	queues   []string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, url: broker(t), topology: bus.NewTopology("dead-" + strings.ToLower(rand.Text())[:10])}
	var err error
	if r.conn, err = amqp.Dial(r.url); err != nil {
		t.Fatal(err)
	}
	if r.channel, err = r.conn.Channel(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.remove)
	if err := r.channel.Confirm(false); err != nil {
		t.Fatal(err)
	}
	if err := r.channel.ExchangeDeclare(r.topology.DeadExchange(), "topic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	r.declare(r.topology.DeadQueue(), r.topology.DeadArguments())
	if err := r.channel.QueueBind(r.topology.DeadQueue(), "#", r.topology.DeadExchange(), false, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) remove() {
	for _, q := range r.queues {
		if _, err := r.channel.QueueDelete(q, false, false, false); err != nil {
			r.t.Errorf("delete %s: %v", q, err)
		}
	}
	for _, x := range r.topology.Exchanges() {
		if err := r.channel.ExchangeDelete(x, false, false); err != nil {
			r.t.Errorf("delete %s: %v", x, err)
		}
	}
	if err := r.conn.Close(); err != nil {
		r.t.Error(err)
	}
}

// declare makes a queue that ends with the test.
func (r *rig) declare(name string, arguments amqp.Table) string {
	r.t.Helper()
	if _, err := r.channel.QueueDeclare(name, true, false, false, false, arguments); err != nil {
		r.t.Fatal(err)
	}
	r.queues = append(r.queues, name)
	return name
}

// publish publishes and waits until the broker has it.
func (r *rig) publish(exchange, key string, p amqp.Publishing) {
	r.t.Helper()
	confirm, err := r.channel.PublishWithDeferredConfirm(exchange, key, true, false, p)
	if err != nil {
		r.t.Fatal(err)
	}
	if !confirm.Wait() {
		r.t.Fatalf("the broker refuses what is for %s", key)
	}
}

// letter puts an event's letter into the queue of dead letters.
func (r *rig) letter(queue, event, body string, change ...func(*amqp.Publishing)) {
	r.t.Helper()
	l := bus.Letter{Reason: "451 try later", Event: event, Group: "g", Attempts: 6}
	l.DiedAgain(bus.Letter{}, time.Now())
	p := amqp.Publishing{Headers: amqp.Table{"id": body, "name": "email.Verification"}, MessageId: body, DeliveryMode: amqp.Persistent, Body: []byte(body)}
	for name, text := range l.Headers() {
		p.Headers[name] = text
	}
	for _, f := range change {
		f(&p)
	}
	r.publish(r.topology.DeadExchange(), queue, p)
}

// bodies takes everything out of a queue.
func (r *rig) bodies(queue string) (all []string) {
	r.t.Helper()
	for _, d := range r.take(queue) {
		all = append(all, string(d.Body))
	}
	return all
}

func (r *rig) take(queue string) (all []amqp.Delivery) {
	r.t.Helper()
	for {
		d, ok, err := r.channel.Get(queue, true)
		if err != nil {
			r.t.Fatal(err)
		}
		if !ok {
			return all
		}
		all = append(all, d)
	}
}

// holds fails the test where a queue does not hold these bodies, in this order. What
// somebody had and gave back is waited for.
func (r *rig) holds(queue string, want ...string) {
	r.t.Helper()
	r.waiting(queue, len(want))
	if got := r.bodies(queue); !slices.Equal(got, want) {
		r.t.Errorf("%s holds %q, want %q", queue, got, want)
	}
}

// waiting waits until that many messages wait in a queue.
func (r *rig) waiting(queue string, n int) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d messages in %s", n, queue), func() bool { return r.depth(queue) == n })
}

func (r *rig) depth(queue string) int {
	r.t.Helper()
	q, err := r.channel.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return q.Messages
}

// box opens the queue as the command does.
func (r *rig) box() *Box {
	r.t.Helper()
	b, err := Open(r.t.Context(), r.url, r.topology)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := b.Close(); err != nil {
			r.t.Errorf("close: %v", err)
		}
	})
	return b
}

// read returns all letters.
func (r *rig) read(b *Box) (all []*Letter) {
	r.t.Helper()
	err := b.Read(r.t.Context(), func(l *Letter, _ *amqp.Delivery) (bool, error) {
		all = append(all, l)
		return true, nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
		<-tick.C
	}
}

// every takes all letters.
func every(*Letter) (take, more bool) { return true, true }

// by takes the letters of a filter.
func by(t *testing.T, f Filter) Chooser {
	t.Helper()
	c, err := f.choose(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return func(l *Letter) (take, more bool) {
		take = c.takes(l)
		return take, !c.done()
	}
}

var errStop = errors.New("stop")
