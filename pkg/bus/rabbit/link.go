package rabbit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

const (
	dialTimeout = 10 * time.Second // for TCP and for the handshakes after it
	callTimeout = 15 * time.Second // for one request to the broker
	stable      = 5 * time.Second  // a connection that lasted so long starts the backoff anew

	backoffFirst = 50 * time.Millisecond
	backoffLast  = 5 * time.Second
)

// link keeps one connection to the broker: it connects, declares the topology,
// and starts over when the connection is lost.
type link struct {
	config  Config
	purpose string
	outages *outages
	meter   *bus.Meter
	// prepare, if set, makes a new session usable before anybody else sees it; it
	// calls publish when it is, and changed is told the state.
	prepare func(s *session, publish func()) error
	changed func(bus.State)

	mu      sync.Mutex
	current *session
	news    chan struct{} // closed when current changes
}

func newLink(cfg Config, purpose string, o *outages, m *bus.Meter) *link {
	return &link{
		config:  cfg,
		purpose: purpose,
		outages: o,
		meter:   m,
		prepare: func(_ *session, publish func()) error { publish(); return nil },
		changed: func(bus.State) {},
		news:    make(chan struct{}),
	}
}

// run keeps the link until ctx ends.
func (l *link) run(ctx context.Context) {
	for attempt := 0; ; attempt++ {
		up, err := l.keep(ctx)
		if ctx.Err() != nil {
			return
		}
		if up > 0 {
			err = fmt.Errorf("rabbit: connection lost: %w", err)
		} else {
			err = fmt.Errorf("rabbit: no connection: %w", err)
		}
		l.outages.lost(l, err)
		if up > stable {
			attempt = 0
		}
		if !pause(attempt, ctx.Done(), nil) {
			return
		}
	}
}

// keep connects and returns when the connection is lost: for how long it could
// be used, and the reason.
func (l *link) keep(ctx context.Context) (up time.Duration, err error) {
	s, err := l.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer close(s.lost)
	closed := s.conn.NotifyClose(make(chan *amqp.Error, 1))
	// The reader of the connection waits for whoever is told of a blocked broker,
	// so the room is for what comes while the publishers are opened.
	blocked := s.conn.NotifyBlocked(make(chan amqp.Blocking, 16))
	if err := s.declare(l.config.Topology); err != nil {
		s.cut()
		return 0, err
	}
	if err := l.prepare(s, func() { l.publish(s) }); err != nil {
		s.cut()
		return 0, fmt.Errorf("open publishers: %w", err)
	}
	began := time.Now()
	l.changed(bus.Up)
	l.meter.Connected(l.purpose)
	l.outages.had(l)
	defer l.changed(bus.Down)
	defer l.publish(nil)
	for {
		select {
		case <-ctx.Done():
			s.close()
			return time.Since(began), ctx.Err()
		case reason := <-closed:
			s.cut()
			if reason == nil { // a nil *amqp.Error would be an error that is not nil
				reason = amqp.ErrClosed
			}
			return time.Since(began), reason
		case b, ok := <-blocked:
			switch {
			case !ok:
				blocked = nil // closed says the rest
			case b.Active:
				l.changed(bus.Blocked)
			default:
				l.changed(bus.Up)
			}
		}
	}
}

// publish lets everybody see a session, or with nil that there is none.
func (l *link) publish(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = s
	close(l.news)
	l.news = make(chan struct{})
}

// session returns the current session or nil, and what is closed when that
// changes.
func (l *link) session() (*session, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current, l.news
}

// session is one connection, from connect to loss.
type session struct {
	conn   *amqp.Connection
	socket *socket
	lost   chan struct{} // closed when it is
}

func (l *link) connect(ctx context.Context) (*session, error) {
	s := &session{lost: make(chan struct{})}
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName(l.config.Name + " " + l.purpose)
	dialer := net.Dialer{Timeout: dialTimeout}
	var err error
	s.conn, err = amqp.DialConfig(l.config.URL, amqp.Config{
		Heartbeat:  l.config.Heartbeat,
		Properties: properties,
		Dial: func(network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			// For the handshakes; amqp091 clears it after them.
			if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
				return nil, err
			}
			s.socket = newSocket(conn, 2*l.config.Heartbeat)
			return s.socket, nil
		},
	})
	if err != nil {
		if s.socket != nil {
			s.socket.abort() // amqp091 leaves it open after some errors
		}
		return nil, err
	}
	return s, nil
}

// declare makes the exchanges and the dead-letter queue.
func (s *session) declare(topology bus.Topology) error {
	return s.call(func() error {
		ch, err := s.conn.Channel()
		if err != nil {
			return fmt.Errorf("open channel: %w", err)
		}
		for _, name := range topology.Exchanges() {
			if err := ch.ExchangeDeclare(name, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
				return fmt.Errorf("declare exchange %s: %w", name, err)
			}
		}
		if _, err := ch.QueueDeclare(topology.DeadQueue(), true, false, false, false, topology.DeadArguments()); err != nil {
			return fmt.Errorf("declare queue %s: %w", topology.DeadQueue(), err)
		}
		if err := ch.QueueBind(topology.DeadQueue(), "#", topology.DeadExchange(), false, nil); err != nil {
			return fmt.Errorf("bind queue %s: %w", topology.DeadQueue(), err)
		}
		return ch.Close()
	})
}

// call runs requests to the broker. amqp091 waits for an answer without a limit;
// a broker that gives none loses the connection.
func (s *session) call(f func() error) error {
	timer := time.AfterFunc(callTimeout, s.cut)
	defer timer.Stop()
	return f()
}

// close says goodbye to the broker.
func (s *session) close() {
	_ = s.conn.CloseDeadline(time.Now().Add(time.Second)) // it is closed all the same
	s.cut()
}

// cut ends the connection without a word. It also frees who is stuck writing to
// it, which amqp091's own closing waits for.
func (s *session) cut() { s.socket.abort() }

// pause waits before the next attempt: exponential with full jitter, so that
// the clients of a broker that comes back do not all come at once. It returns
// false where one of the channels ended it.
func pause(attempt int, stop, orStop <-chan struct{}) bool {
	limit := backoffLast
	if attempt < 7 { // 50 ms << 7 is over 5 s
		limit = min(limit, backoffFirst<<attempt)
	}
	timer := time.NewTimer(rand.N(limit))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		return false
	case <-orStop:
		return false
	}
}
