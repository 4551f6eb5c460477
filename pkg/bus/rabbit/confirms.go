package rabbit

import (
	"strconv"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// channel is a publishing channel in confirm mode and what is unconfirmed on it.
type channel struct {
	session *session
	amqp    *amqp.Channel
	returns chan amqp.Return
	closed  chan *amqp.Error

	mu      sync.Mutex
	waiting []unconfirmed // in the order of publishing
	ended   bool          // nobody looks at waiting any more

	wake     chan struct{} // there is something waiting
	returned map[uint64]struct{}
}

// unconfirmed is a message whose fate is to be reported.
type unconfirmed struct {
	done    func(error)
	confirm *amqp.DeferredConfirmation // nil where err is set
	number  uint64                     // by which the broker returns it; 0 where it does not
	err     error                      // what became of it is known; only its turn is not
	traffic *bus.Traffic               // that it is part of
	began   time.Time                  // its publishing
}

// openChannel opens a channel in confirm mode.
//
// amqp091's connection stops reading while a listener does not take what it is
// told, and drops it after 5 s; run takes returns at all times. Confirms are not
// listened for at all: each message has its DeferredConfirmation, which costs
// neither a timer nor a send.
func openChannel(s *session) (*channel, error) {
	c := &channel{session: s, wake: make(chan struct{}, 1), returned: make(map[uint64]struct{})}
	err := s.call(func() error {
		var err error
		if c.amqp, err = s.conn.Channel(); err != nil {
			return err
		}
		return c.amqp.Confirm(false)
	})
	if err != nil {
		return nil, err
	}
	c.returns = c.amqp.NotifyReturn(make(chan amqp.Return, 64))
	c.closed = c.amqp.NotifyClose(make(chan *amqp.Error, 1))
	return c, nil
}

// add puts a message at the end of what run reports. It returns false where run
// has ended.
func (c *channel) add(u unconfirmed) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.waiting = append(c.waiting, u)
	if len(c.waiting) == 1 {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// run reports the fate of each message, in order, until the channel is closed
// and everything is reported. lost says what became of what was not confirmed
// until then.
func (c *channel) run(report func(unconfirmed, error), lost func() error) {
	var batch []unconfirmed
	closed := false
	for {
		c.mu.Lock()
		batch, c.waiting = c.waiting, batch[:0]
		if len(batch) == 0 && closed {
			c.ended = true
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if len(batch) == 0 {
			closed = c.idle()
			continue
		}
		for i := range batch {
			report(batch[i], c.fate(&batch[i], lost))
			batch[i] = unconfirmed{}
		}
	}
}

// idle waits for something to do. It returns true when the channel is closed.
func (c *channel) idle() bool {
	for {
		select {
		case <-c.wake:
			return false
		case r, ok := <-c.returns:
			c.note(r, ok)
		case _, ok := <-c.closed:
			if !ok {
				return true
			}
		}
	}
}

// fate waits for what becomes of a message.
func (c *channel) fate(u *unconfirmed, lost func() error) error {
	if u.confirm == nil {
		return u.err
	}
	for confirmed := false; !confirmed; {
		select {
		case <-u.confirm.Done():
			confirmed = true
		default:
			select {
			case <-u.confirm.Done():
				confirmed = true
			case r, ok := <-c.returns:
				c.note(r, ok)
			}
		}
	}
	// A message that could not be routed is returned first and confirmed then, by
	// the same goroutine: its return is here already.
	for noted := true; noted; {
		select {
		case r, ok := <-c.returns:
			c.note(r, ok)
		default:
			noted = false
		}
	}
	if _, ok := c.returned[u.number]; ok {
		delete(c.returned, u.number)
		return bus.ErrNoRoute
	}
	switch {
	case u.confirm.Acked():
		return nil
	case c.amqp.IsClosed():
		// amqp091 gives up what is unconfirmed as if it were nacked, after it has
		// marked the channel as closed. A real nack just before is taken for that
		// too: then nobody knows, which is not wrong.
		return lost()
	default:
		return bus.ErrRefused
	}
}

// note remembers a returned message until its confirm. A channel that is closed
// returns no more.
func (c *channel) note(r amqp.Return, ok bool) {
	if !ok {
		c.returns = nil
		return
	}
	if number, _ := readID(r.MessageId); number != 0 {
		c.returned[number] = struct{}{}
	}
}

// messageID is what a message carries for its publisher, who may get it back, and
// for who measures how long it took: its number, 0 for none, and when it was sent,
// in Unix microseconds, both in base 36 with a dot between.
func messageID(number uint64, sent time.Time) string {
	var room [32]byte
	b := strconv.AppendUint(room[:0], number, 36)
	b = append(b, '.')
	return string(strconv.AppendInt(b, sent.UnixMicro(), 36))
}

// readID reads what messageID wrote. It is 0, or the zero time, where there is no
// such thing: others may publish, too.
func readID(id string) (number uint64, sent time.Time) {
	first, second, _ := strings.Cut(id, ".")
	number, err := strconv.ParseUint(first, 36, 64)
	if err != nil {
		return 0, time.Time{}
	}
	if micros, err := strconv.ParseInt(second, 36, 64); err == nil && micros > 0 {
		sent = time.UnixMicro(micros)
	}
	return number, sent
}
