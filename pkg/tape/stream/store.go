package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tape"
)

// Config is what a Store needs.
type Config struct {
	URL      string // of the broker: amqp://USER:PASSWORD@HOST:PORT/VHOST
	Topology bus.Topology
	// MaxBytes and MaxAge bound the stream, where it is not there yet. The broker
	// removes a segment of it at a time, when it begins another one: it may have a
	// segment more, and where little is written what is in the last one stays for
	// longer.
	MaxBytes int64
	MaxAge   time.Duration
	// Log takes that the stream can not be written to, and that it has other bounds;
	// logrus' standard logger where it is nil.
	Log logrus.FieldLogger
}

// Store writes a tape into a stream, over a connection of its own: a broker that makes
// it wait does not make anything else wait.
type Store struct {
	cfg    Config
	places chan struct{} // taken by each batch that is not confirmed

	unconfirmed sync.WaitGroup

	mu      sync.Mutex
	current *session      // nil while there is none, or while the broker blocks
	change  chan struct{} // closed and replaced when there is one
	closed  bool

	said bool // that the stream has other bounds; Run's
}

var _ tape.Store = (*Store)(nil)

// session is a channel that takes batches, and its connection.
type session struct {
	*connection
	channel  *amqp.Channel
	returned chan amqp.Return // with room for all that is on its way

	mu   sync.Mutex
	gone chan struct{} // closed when something was returned: there is no stream
}

// keeps says of a batch that was acked whether it is on the stream. What is not, the
// broker has returned before the ack.
func (s *session) keeps() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.gone:
		return false
	default:
	}
	select {
	case _, ok := <-s.returned:
		if ok {
			close(s.gone)
		}
		return !ok // it is closed where the channel has ended since
	default:
		return true
	}
}

const (
	// window is how many batches are on their way at once.
	window = 16
	// shares is of how many segments a full stream is made, but for the bounds of one.
	shares       = 8
	leastSegment = 64 << 10
	mostSegment  = 256 << 20
)

// ErrClosed: Run has ended.
var ErrClosed = errors.New("tape: closed")

// errLost: nobody knows whether the broker has kept a batch. It is not written again,
// since it could then be there twice.
var errLost = errors.New("tape: the broker has not confirmed it")

// NewStore checks the configuration; Run connects.
func NewStore(cfg Config) (*Store, error) {
	if err := checkURL(cfg.URL); err != nil {
		return nil, err
	}
	if cfg.MaxBytes <= 0 || cfg.MaxAge < time.Second {
		return nil, fmt.Errorf("tape: got bounds of %d bytes and %v, want more than 0 and at least 1s", cfg.MaxBytes, cfg.MaxAge)
	}
	if cfg.Topology == (bus.Topology{}) {
		cfg.Topology = bus.NewTopology("")
	}
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	return &Store{cfg: cfg, places: make(chan struct{}, window), change: make(chan struct{})}, nil
}

// Write implements tape.Store. It waits for a broker, and where too much is
// unconfirmed.
func (s *Store) Write(ctx context.Context, b tape.Batch, done func(error)) {
	select {
	case s.places <- struct{}{}:
	case <-ctx.Done():
		done(fmt.Errorf("tape: the broker is too slow: %w", ctx.Err()))
		return
	}
	confirm, to, err := s.publish(ctx, b)
	if err != nil {
		<-s.places
		done(err)
		return
	}
	go func() { // until the confirm, or the end of the connection
		defer s.unconfirmed.Done()
		kept := confirm.Wait() && to.keeps()
		<-s.places
		if !kept {
			done(errLost)
			return
		}
		done(nil)
	}()
}

// publish waits for a session. Where it returns no error, unconfirmed has one more.
func (s *Store) publish(ctx context.Context, b tape.Batch) (*amqp.DeferredConfirmation, *session, error) {
	for {
		s.mu.Lock()
		current, change, closed := s.current, s.change, s.closed
		if current != nil {
			s.unconfirmed.Add(1)
		}
		s.mu.Unlock()
		if closed {
			return nil, nil, ErrClosed
		}
		if current == nil {
			select {
			case <-change:
				continue
			case <-ctx.Done():
				return nil, nil, fmt.Errorf("tape: no broker: %w", ctx.Err())
			}
		}
		confirm, err := s.send(ctx, current, b)
		if err == nil {
			return confirm, current, nil
		}
		s.unconfirmed.Done()
		s.unset(current)
		if !errors.Is(err, amqp.ErrClosed) { // a part of it may be there
			return nil, nil, fmt.Errorf("%w: %w", errLost, err)
		}
	}
}

// send writes a batch, or cuts the connection where ctx ends first.
func (s *Store) send(ctx context.Context, to *session, b tape.Batch) (*amqp.DeferredConfirmation, error) {
	defer context.AfterFunc(ctx, to.cut)()
	return to.channel.PublishWithDeferredConfirm("", s.cfg.Topology.TapeStream(), true, false, amqp.Publishing{
		DeliveryMode: amqp.Persistent, Timestamp: b.Last, ContentType: "application/x-protobuf", Body: b.Body,
	})
}

// unset takes a session that can not be used any more out of use.
func (s *Store) unset(gone *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == gone {
		s.current = nil
	}
}

func (s *Store) set(current *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = current
	if current != nil {
		close(s.change)
		s.change = make(chan struct{})
	}
}

// Run keeps a connection until ctx ends. Whoever feeds the store ends before.
func (s *Store) Run(ctx context.Context) error {
	var said time.Time
	for attempt := 0; ctx.Err() == nil; attempt++ {
		began := time.Now()
		err := s.connected(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > pauseLast {
			attempt = 0
		}
		if time.Since(said) > time.Minute {
			said = time.Now()
			s.cfg.Log.WithError(err).Warn("the tape can not be written; trying again")
		}
		pause(ctx, attempt)
	}
	s.mu.Lock()
	s.closed, s.current = true, nil
	close(s.change)
	s.mu.Unlock()
	s.unconfirmed.Wait()
	return nil
}

// connected holds one connection until it is lost or ctx ends.
func (s *Store) connected(ctx context.Context) error {
	c, err := connect(ctx, s.cfg.URL, s.cfg.Topology.TapeStream())
	if err != nil {
		return err
	}
	defer c.close()
	lost := c.NotifyClose(make(chan *amqp.Error, 1))
	blocked := c.NotifyBlocked(make(chan amqp.Blocking, 8))
	var channel *amqp.Channel
	if err := c.call(func() error {
		if err := s.declare(c); err != nil {
			return err
		}
		if channel, err = c.Channel(); err != nil {
			return fmt.Errorf("tape: open channel: %w", err)
		}
		return channel.Confirm(false)
	}); err != nil {
		return err
	}
	broken := channel.NotifyClose(make(chan *amqp.Error, 1))
	current := &session{
		connection: c, channel: channel, returned: channel.NotifyReturn(make(chan amqp.Return, window)), gone: make(chan struct{}),
	}
	s.set(current)
	defer s.set(nil)
	for {
		select {
		case <-current.gone:
			// Somebody has deleted the stream: it is made anew.
			return fmt.Errorf("tape: %s is gone", s.cfg.Topology.TapeStream())
		case e := <-broken:
			return fmt.Errorf("tape: channel lost: %w", asError(e))
		case e := <-lost:
			return fmt.Errorf("tape: connection lost: %w", asError(e))
		case b, ok := <-blocked:
			switch {
			case !ok:
				blocked = nil
			case b.Active:
				s.set(nil)
			default:
				s.set(current)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// declare makes the stream where it is missing. One with other bounds stays as it is.
func (s *Store) declare(c *connection) error {
	name := s.cfg.Topology.TapeStream()
	channel, err := c.Channel()
	if err != nil {
		return fmt.Errorf("tape: open channel: %w", err)
	}
	_, err = channel.QueueDeclare(name, true, false, false, false, s.arguments())
	if refused(err, amqp.PreconditionFailed) {
		different := err
		if channel, err = c.Channel(); err != nil {
			return fmt.Errorf("tape: open channel: %w", err)
		}
		if _, err = channel.QueueDeclarePassive(name, true, false, false, false, nil); err == nil && !s.said {
			s.said = true
			s.cfg.Log.WithError(different).Warnf("the tape is there with other bounds, and keeps them; delete the queue %s to have it made anew", name)
		}
	}
	if err != nil {
		return fmt.Errorf("tape: declare %s: %w", name, err)
	}
	return channel.Close()
}

// arguments are the stream's, in the broker's words.
func (s *Store) arguments() amqp.Table {
	return amqp.Table{
		"x-queue-type":                    "stream",
		"x-max-length-bytes":              s.cfg.MaxBytes,
		"x-max-age":                       fmt.Sprintf("%ds", int64(s.cfg.MaxAge/time.Second)),
		"x-stream-max-segment-size-bytes": min(max(s.cfg.MaxBytes/shares, leastSegment), mostSegment),
	}
}
