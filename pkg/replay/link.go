package replay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tape"
)

const (
	brokerTime   = 15 * time.Second // for the broker to be there
	queueExpires = time.Minute      // the tool's own queue, when the tool was killed
	queueBytes   = 64 << 20
)

// arrival is an answer that came for a call, or a push.
type arrival struct {
	sequence uint32
	session  uint64
	reply    *tape.Reply
}

// outcome is what became of publishing some calls.
type outcome struct {
	sequences []uint32
	err       error
}

// link is the tool's way over the bus: a publisher and a queue, as a gate has them.
type link struct {
	cfg       *Config
	coalescer *bus.Coalescer[uint32]
	arrivals  chan []arrival
	failed    chan error // consuming or publishing ended by itself
	wake      chan struct{}
	stop      context.CancelFunc
	unwatch   func()
	running   sync.WaitGroup

	mu       sync.Mutex
	outcomes []outcome // at most what is in flight; wake has a token where there are some
}

func newLink(cfg *Config) (*link, error) {
	publisher, err := cfg.Bus.Publisher()
	if err != nil {
		return nil, fmt.Errorf("replay: open a publisher: %w", err)
	}
	l := &link{cfg: cfg, arrivals: make(chan []arrival), failed: make(chan error, 3), wake: make(chan struct{}, 1), unwatch: func() {}}
	l.coalescer = bus.NewCoalescer(bus.CoalescerConfig[uint32]{
		Publisher: publisher,
		Exchange:  cfg.Topology.RequestExchange(),
		Header: func(b []byte, route string) []byte {
			return bus.AppendHeader(b, bus.Header{Gate: cfg.Gate.ID(), GateAddress: cfg.Gate.Address(), Route: route})
		},
		Settle: l.settle,
	})
	return l, nil
}

// start begins to consume and to publish, and waits until both are possible.
func (l *link) start(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	ready := make(chan struct{}, 1)
	l.running.Go(func() {
		if err := l.coalescer.Run(running); err != nil {
			l.failed <- fmt.Errorf("replay: publish: %w", err)
		}
	})
	l.running.Go(func() {
		t := l.cfg.Topology
		err := l.cfg.Bus.Consume(running, bus.Consumer{
			Queue: bus.Queue{
				Name: t.GateQueue(l.cfg.Gate.ID()),
				Bindings: []bus.Binding{
					{Exchange: t.ReplyExchange(), Key: t.GateKey(l.cfg.Gate.ID())},
					{Exchange: t.ReplyExchange(), Key: t.AllGates()},
				},
				Expires: queueExpires, MaxBytes: queueBytes,
			},
			Handle: func(d bus.Delivery) { l.handle(running, d) },
			Ready: func() {
				select {
				case ready <- struct{}{}:
				default:
				}
			},
		})
		if err != nil {
			l.failed <- fmt.Errorf("replay: consume the answers: %w", err)
		}
	})
	timer := time.NewTimer(brokerTime)
	defer timer.Stop()
	select {
	case <-ready:
	case err := <-l.failed:
		return err
	case <-timer.C:
		return errors.New("replay: RabbitMQ can not be used: is it there, and may this user make queues?")
	case <-ctx.Done():
		return ctx.Err()
	}
	up := make(chan struct{}, 1)
	var begun atomic.Bool
	l.unwatch = l.cfg.Bus.Watch(func(s bus.State) {
		switch {
		case s == bus.Up:
			select {
			case up <- struct{}{}:
			default:
			}
		case s == bus.Down && begun.Load():
			select {
			case l.failed <- errLost:
			default:
			}
		}
	})
	if l.cfg.Bus.State() != bus.Up {
		select {
		case <-up:
		case <-timer.C:
			return fmt.Errorf("replay: RabbitMQ takes nothing: it is %v", l.cfg.Bus.State())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	begun.Store(true)
	return nil
}

// errLost ends a run: what is on its way may be gone, and would look unanswered.
var errLost = errors.New("replay: the connection to RabbitMQ was lost")

// close ends both. The queue expires by itself.
func (l *link) close() {
	l.unwatch()
	l.stop()
	l.running.Wait()
}

// handle takes the answers of a delivery to whoever waits for them.
func (l *link) handle(ctx context.Context, d bus.Delivery) {
	now := time.Now()
	var all []arrival
	err := bus.ReadReplies(d.Body, func(r *bus.Reply) error {
		a := arrival{sequence: r.Sequence, session: r.Session}
		if r.Sequence != 0 {
			a.reply = &tape.Reply{
				Time: now, Code: r.Code, DataType: r.DataType, Name: string(r.Name), Data: append([]byte(nil), r.Data...),
			}
		}
		all = append(all, a)
		return nil
	}, func(*bus.Announcement) error { return nil })
	if err == nil && len(all) > 0 {
		select {
		case l.arrivals <- all:
		case <-ctx.Done():
		}
	}
	_ = d.Ack() // one that comes again answers nothing that still waits
}

// publish sends a call under a sequence number of the run's own. ErrFull says that it is
// to be tried again when something has been confirmed.
func (l *link) publish(c *tape.Call, session uint64, sequence uint32, deadline time.Time) error {
	r := c.Request()
	r.Session, r.Sequence, r.Deadline = session, sequence, 0
	if c.Type == typeRequest {
		r.Deadline = deadline.UnixMilli()
	}
	_, err := l.coalescer.Add(c.Route, 0, bus.AppendRequest(nil, &r), false, sequence)
	return err
}

// settle is called by the publisher, and must not block.
func (l *link) settle(sequences []uint32, err error) {
	l.mu.Lock()
	l.outcomes = append(l.outcomes, outcome{append([]uint32(nil), sequences...), err})
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// settled are the outcomes since it was called last.
func (l *link) settled() []outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.outcomes
	l.outcomes = nil
	return all
}
