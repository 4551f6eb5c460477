// Package dead is the queue of dead letters as operators see it: which letters are
// there and why, what is in one of them, and the two ways out of the queue, back to
// where a letter came from or away.
//
// It refuses to handle letters, to change one that it puts back, and to tell clients
// of any. A letter that nobody chose stays in its place, and none is ever in two
// queues: see Box.Requeue.
package dead

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

const (
	heartbeat    = 10 * time.Second
	dialTimeout  = 5 * time.Second
	closeTimeout = 5 * time.Second
)

// ErrNoQueue: there is no queue of dead letters.
var ErrNoQueue = errors.New("there is no queue of dead letters")

// Box is the queue of dead letters of one installation. It is used by one goroutine.
type Box struct {
	url      string
	topology bus.Topology
	conn     *amqp.Connection
}

// Open connects to the broker at an amqp:// or amqps:// URL.
func Open(ctx context.Context, broker string, t bus.Topology) (*Box, error) {
	b := &Box{url: broker, topology: t}
	if err := b.connect(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *Box) connect(ctx context.Context) error {
	if _, err := amqp.ParseURI(b.url); err != nil {
		if whole := (*url.Error)(nil); errors.As(err, &whole) {
			err = whole.Err // without the URL, which has a password in it
		}
		return fmt.Errorf("broker's URL: %w", err)
	}
	conn, err := amqp.DialConfig(b.url, amqp.Config{
		Heartbeat:  heartbeat,
		Properties: amqp.Table{"connection_name": "minigate dead"},
		Dial: func(network, address string) (net.Conn, error) {
			d := net.Dialer{Timeout: dialTimeout}
			c, err := d.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			// The handshake's bound; amqp091 lifts it when the connection is open.
			if err := c.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
				return nil, errors.Join(err, c.Close())
			}
			return c, nil
		},
	})
	if err != nil {
		return fmt.Errorf("connect to the broker: %w", err)
	}
	b.conn = conn
	return nil
}

// Close ends the connection. What was taken and not settled is in its place again.
func (b *Box) Close() error {
	err := b.conn.CloseDeadline(time.Now().Add(closeTimeout))
	if errors.Is(err, amqp.ErrClosed) {
		return nil
	}
	return err
}

// Count is how many letters wait, of those that nobody has taken.
func (b *Box) Count() (int, error) {
	n, found, err := b.waiting(b.topology.DeadQueue())
	if err == nil && !found {
		err = fmt.Errorf("%w: %s is not on this broker; is the prefix right?", ErrNoQueue, b.topology.DeadQueue())
	}
	return n, err
}

// waiting is how many messages wait in a queue, where there is one of that name.
func (b *Box) waiting(queue string) (n int, found bool, err error) {
	channel, err := b.conn.Channel()
	if err != nil {
		return 0, false, fmt.Errorf("open channel: %w", err)
	}
	q, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
	if is(err, amqp.NotFound) {
		return 0, false, nil // and the broker has closed the channel
	}
	if err != nil {
		return 0, false, fmt.Errorf("look at queue %s: %w", queue, err)
	}
	return q.Messages, true, channel.Close()
}

// is says that the broker refused something with that code.
func is(err error, code int) bool {
	var refused *amqp.Error
	return errors.As(err, &refused) && refused.Server && refused.Code == code
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// Read calls each with the letters that are in the queue now, oldest first, until
// each returns false or an error. The letters stay in their places; while Read runs
// nobody else gets those that it has come by.
//
// A Delivery's body is not kept: memory is that of one letter.
func (b *Box) Read(ctx context.Context, each func(*Letter, *amqp.Delivery) (more bool, err error)) error {
	n, err := b.Count()
	if err != nil {
		return err
	}
	channel, err := b.conn.Channel()
	if err != nil {
		return fmt.Errorf("open channel: %w", err)
	}
	err = b.walk(ctx, channel, n, new(ids), func(l *Letter, d *amqp.Delivery) error {
		more, err := each(l, d)
		if err == nil && !more {
			err = errEnough
		}
		return err
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	// With the channel, what it has taken goes back into its place.
	if closed := channel.Close(); err == nil && closed != nil {
		err = fmt.Errorf("give the letters back: %w", closed)
	}
	return err
}

// walk takes up to n letters over a channel and calls each with them. The bound is
// what was there in the beginning: a letter that dies again meanwhile is not met
// twice. It asks for one after the other, and not for many in advance: there is no
// other way to know the end of a queue, and nothing to hold.
func (b *Box) walk(ctx context.Context, channel *amqp.Channel, n int, seen *ids, each func(*Letter, *amqp.Delivery) error) error {
	for range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		d, ok, err := channel.Get(b.topology.DeadQueue(), false)
		if err != nil {
			return fmt.Errorf("take a letter: %w", err)
		}
		if !ok {
			return nil
		}
		if err := each(newLetter(&d, b.topology, seen), &d); err != nil {
			return err
		}
	}
	return nil
}

// ids tells letters apart. See Letter.ID.
type ids struct {
	messages map[uint64]uint32 // letters of a message
	letters  map[uint64]uint32 // letters that are the same to the last byte
}

func (s *ids) next(message [5]byte, letter [2]byte) (id string, copies int) {
	if s.messages == nil {
		s.messages, s.letters = make(map[uint64]uint32), make(map[uint64]uint32)
	}
	var b [8]byte
	copy(b[:5], message[:])
	m := binary.BigEndian.Uint64(b[:])
	copy(b[5:], letter[:])
	l := binary.BigEndian.Uint64(b[:])
	s.messages[m]++
	s.letters[l]++
	id = hex.EncodeToString(message[:]) + "-" + hex.EncodeToString(letter[:])
	if same := s.letters[l]; same > 1 {
		id = fmt.Sprintf("%s.%d", id, same)
	}
	return id, int(s.messages[m])
}
