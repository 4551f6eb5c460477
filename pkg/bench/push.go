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

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/load"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/chatpb"
)

const (
	pushService = "bench"
	pushRoute   = "bench.push"
	joinRoute   = "bench.join"
	pushRounds  = 9
	pushTime    = 20 * time.Second
)

// groups are the sizes of the groups that are pushed to.
func (b *bench) groups() []int {
	if b.Quick {
		return []int{50, 200}
	}
	return []int{100, 1000, 10_000}
}

func barePushed(n int) string {
	return "bare gnet, to " + thousands(int64(n)) + " connections"
}

// pushes measures the time from a push to its last receipt: on the event loop
// alone, and then from a worker to a group on a gate.
func (b *bench) pushes(ctx context.Context) error {
	server, address, err := b.startBare(ctx, "websocket")
	if err != nil {
		return err
	}
	var holding []*held
	open := 0
	for _, n := range b.groups() {
		h, err := hold(ctx, load.Config{Gates: []string{address}, Connections: n - open, Idle: 1, Bare: true})
		if err != nil {
			return errors.Join(err, releaseAll(holding))
		}
		holding = append(holding, h)
		open = n
		took, err := pushTimes(ctx, holding, n, func() error { _, err := io.WriteString(server.input, "push\n"); return err })
		if err != nil {
			return errors.Join(err, releaseAll(holding))
		}
		b.report.add(Row{Group: groupPush, Name: barePushed(n), Value: milliseconds(took), Unit: "ms"})
	}
	if err := errors.Join(releaseAll(holding), b.stopChildren(0)); err != nil {
		return err
	}
	return b.pushGroups(ctx)
}

// pushGroups has a worker in this process put sessions into groups, and push to
// them.
func (b *bench) pushGroups(ctx context.Context) (err error) {
	sizes := b.groups()
	all := sizes[len(sizes)-1]
	gate, err := b.startGate(ctx, "--max-connections", strconv.Itoa(all+50))
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
		if worker.From(ctx).DataType == worker.Text { // the first call, of nobody who stays
			return in, nil
		}
		n := joined.Add(1)
		for _, size := range sizes {
			if n > int64(size) {
				continue
			}
			if err := w.Join(ctx, worker.From(ctx).Session, groupName(size)); err != nil {
				return worker.Raw{}, err
			}
		}
		return in, nil
	}, worker.Public())
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(running) }()
	defer func() { cancel(); err = errors.Join(err, <-ended) }()
	if err := gate.await(ctx, joinRoute); err != nil {
		return err
	}
	h, err := hold(ctx, load.Config{Gates: []string{gate.addresses["websocket"]}, Connections: all, Requests: 1, Route: joinRoute, Stay: true})
	if err != nil {
		return err
	}
	defer func() {
		_, released := h.release()
		err = errors.Join(err, released)
	}()
	if err := until(ctx, pushTime, func() bool { return h.Answered() == int64(all) }); err != nil {
		return fmt.Errorf("bench: %d of %d sessions are in the group: %w", h.Answered(), all, err)
	}
	tap, err := openTap(b.RabbitMQ, topology)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tap.close()) }()
	message := &chatpb.Message{Text: strings.Repeat("x", payload-3)}
	for _, size := range sizes {
		before := tap.seen.Load()
		took, err := pushTimes(ctx, []*held{h}, size, func() error { return w.Push(ctx, worker.ToGroup(groupName(size)), pushRoute, message) })
		if err != nil {
			return err
		}
		row := Row{Group: groupPush, Name: fmt.Sprintf("through RabbitMQ and a gate, to a group of %s", thousands(int64(size))), Value: milliseconds(took), Unit: "ms"}
		if row.compare(b.report, barePushed(size), row.Value, nil); size == all {
			row.compare(b.report, barePushed(size), row.Value, atMost(1.25))
		}
		b.report.add(row)
		if size < all {
			continue
		}
		messages := float64(tap.seen.Load()-before) / pushRounds
		b.report.add(Row{
			Group: groupPush, Name: fmt.Sprintf("broker messages that reach a gate for one push to %s", thousands(int64(size))),
			Value: messages, Unit: "messages", Target: "≤ 1", Met: messages <= 1,
		})
	}
	return nil
}

func groupName(size int) string { return "of-" + strconv.Itoa(size) }

// tap counts what goes to the queue of every gate.
type tap struct {
	conn  *amqp.Connection
	seen  atomic.Int64
	ended chan struct{}
}

func openTap(url string, topology bus.Topology) (_ *tap, err error) {
	t := &tap{ended: make(chan struct{})}
	if t.conn, err = amqp.Dial(url); err != nil {
		return nil, fmt.Errorf("bench: count messages: %w", err)
	}
	in, err := func() (<-chan amqp.Delivery, error) {
		ch, err := t.conn.Channel()
		if err != nil {
			return nil, err
		}
		q, err := ch.QueueDeclare("", false, true, true, false, nil)
		if err != nil {
			return nil, err
		}
		// A gate's queue is bound with its own key too. Whatever goes there is counted.
		if err := ch.QueueBind(q.Name, "#", topology.ReplyExchange(), false, nil); err != nil {
			return nil, err
		}
		return ch.Consume(q.Name, "", true, true, false, false, nil)
	}()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bench: count messages: %w", err), t.conn.Close())
	}
	go func() {
		defer close(t.ended)
		for range in {
			t.seen.Add(1)
		}
	}()
	return t, nil
}

func (t *tap) close() error {
	err := t.conn.Close()
	<-t.ended
	return err
}

// pushTimes is the median time until so many have got a push.
func pushTimes(ctx context.Context, holding []*held, n int, push func() error) (time.Duration, error) {
	received := func() (sum int64, last time.Time) {
		for _, h := range holding {
			pushes, at := h.Pushes()
			sum += pushes
			if at := h.began.Add(at); at.After(last) {
				last = at
			}
		}
		return sum, last
	}
	var took []time.Duration
	for range pushRounds {
		before, _ := received()
		began := time.Now()
		if err := push(); err != nil {
			return 0, fmt.Errorf("bench: push: %w", err)
		}
		var got int64
		var last time.Time
		err := until(ctx, pushTime, func() bool {
			got, last = received()
			return got-before == int64(n)
		})
		if err != nil {
			return 0, fmt.Errorf("bench: %d of %d have got the push: %w", got-before, n, err)
		}
		took = append(took, last.Sub(began))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
