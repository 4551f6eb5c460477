package dead

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Result is what came of Requeue or Discard.
type Result struct {
	// Moved are the letters that have left the queue of dead letters, by the queue
	// where they were before.
	Moved map[string]int `json:"moved"`
	// Kept are letters that were chosen and are still there, by the same.
	Kept map[string]*Kept `json:"kept,omitempty"`
}

// Kept are letters that could not be put back where they were.
type Kept struct {
	Letters int    `json:"letters"`
	Why     string `json:"why"`
	// Last says that one of them was put at the end of the queue of dead letters: the
	// others have their places still.
	Last bool `json:"last,omitempty"`
}

func newResult() *Result {
	return &Result{Moved: make(map[string]int), Kept: make(map[string]*Kept)}
}

// Total is how many letters were moved.
func (r *Result) Total() int { return sum(r.Moved) }

func sum(byQueue map[string]int) (n int) {
	for _, of := range byQueue {
		n += of
	}
	return n
}

func (r *Result) keep(queue, why string) *Kept {
	if r.Kept[queue] == nil {
		r.Kept[queue] = &Kept{Why: why}
	}
	r.Kept[queue].Letters++
	return r.Kept[queue]
}

// Why letters are kept.
const (
	whyHomeless = "nothing says where they were"
	whyGone     = "there is no such queue"
	whyFull     = "the queue does not take them: it is full"
)

// ErrRefused: a queue did not take a letter, so that Requeue has ended early.
var ErrRefused = errors.New("a queue refuses letters")

// Chooser says which letters are meant: it is called with each, oldest first, until
// it returns false for more.
type Chooser func(*Letter) (take, more bool)

// Requeue puts letters back where they were, in their order, with all that stands on
// them but AMQP's user id and CC, which are of their first publisher. All other
// letters keep their places. progress is called after each letter that was moved.
//
// A letter is published and acked in one AMQP transaction, which the broker carries
// out whole or not at all, whatever becomes of this process: killed at any moment, it
// leaves each letter in one of both queues.
//
// There is one letter to a transaction. A full queue refuses what is published in
// one, but the acks hold all the same, and the broker does not say which of the
// letters were refused; of one letter that is plain. It is published to the queue of
// dead letters again, at its end, and for that moment exists in this process alone:
// the one case in which a kill loses a letter. A queue that is not there is noticed
// before the transaction, and its letters keep their places.
func (b *Box) Requeue(ctx context.Context, choose Chooser, progress func(*Result)) (*Result, error) {
	m := &mover{box: b, ctx: ctx, result: newResult(), progress: progress}
	return m.result, m.run(choose, m.requeue, nil)
}

// Discard takes letters away for good. All others keep their places.
func (b *Box) Discard(ctx context.Context, choose Chooser, progress func(*Result)) (*Result, error) {
	m := &mover{box: b, ctx: ctx, result: newResult(), progress: progress}
	return m.result, m.run(choose, m.discard, m.commitDiscarded)
}

// mover carries out one Requeue or Discard.
type mover struct {
	box      *Box
	ctx      context.Context
	channel  *amqp.Channel // with transactions
	looks    *amqp.Channel // for queues that may not be there; nil where it is to be opened
	returned chan amqp.Return
	result   *Result
	progress func(*Result)

	discarded map[string]int // in the transaction that is open
}

func (m *mover) run(choose Chooser, move func(*Letter, *amqp.Delivery) error, last func() error) (err error) {
	n, err := m.box.Count()
	if err != nil {
		return err
	}
	if m.channel, err = m.box.transactions(); err != nil {
		return err
	}
	// Of one message at most, which is read before the next is published.
	m.returned = m.channel.NotifyReturn(make(chan amqp.Return, 1))
	err = m.box.walk(m.ctx, m.channel, n, new(ids), func(l *Letter, d *amqp.Delivery) error {
		take, more := choose(l)
		if take {
			if err := move(l, d); err != nil {
				return err
			}
		}
		if !more {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err == nil && last != nil {
		err = last()
	}
	// What was taken and not chosen goes back into its place with the channel; where
	// that is gone already, it has.
	if closed := m.channel.Close(); err == nil && closed != nil {
		err = fmt.Errorf("give the letters back: %w", closed)
	}
	if m.looks != nil {
		_ = m.looks.Close() // nothing was changed over it
	}
	return err
}

// transactions opens a channel with them.
func (b *Box) transactions() (*amqp.Channel, error) {
	channel, err := b.conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	if err := channel.Tx(); err != nil {
		return nil, fmt.Errorf("begin a transaction: %w", err)
	}
	return channel, nil
}

func (m *mover) requeue(l *Letter, d *amqp.Delivery) error {
	r := m.result
	if l.Queue == "" {
		r.keep("", whyHomeless)
		return nil
	}
	if k := r.Kept[l.Queue]; k != nil {
		k.Letters++ // the queue may be there now, but this letter is not the first
		return nil
	}
	there, err := m.there(l.Queue)
	if err != nil {
		return err
	}
	if !there {
		r.keep(l.Queue, whyGone)
		return nil
	}
	// Not the context of the call: a letter that was begun with is finished.
	err = m.channel.PublishWithContext(context.WithoutCancel(m.ctx), "", l.Queue, true, false, again(d))
	if err == nil {
		err = m.channel.Ack(d.DeliveryTag, false)
	}
	if err == nil {
		err = m.channel.TxCommit()
	}
	switch {
	case is(err, amqp.PreconditionFailed):
		if err := m.box.putBack(m.ctx, l, d); err != nil {
			return err
		}
		r.keep(l.Queue, whyFull).Last = true
		return fmt.Errorf("%w: %s is full; what is behind that letter was not looked at", ErrRefused, l.Queue)
	case err != nil:
		return fmt.Errorf("requeue letter %s, which is in one of both queues now: %w", l.ID, err)
	}
	select {
	case _, ok := <-m.returned: // it comes before the answer to the commit
		if !ok {
			break
		}
		if err := m.box.putBack(m.ctx, l, d); err != nil {
			return err
		}
		r.keep(l.Queue, whyGone).Last = true
		return nil
	default:
	}
	r.Moved[l.Queue]++
	if m.progress != nil {
		m.progress(r)
	}
	return nil
}

// there says whether a queue is on the broker. The broker closes the channel over
// which it was asked for one that is not.
func (m *mover) there(queue string) (bool, error) {
	if m.looks == nil {
		channel, err := m.box.conn.Channel()
		if err != nil {
			return false, fmt.Errorf("open channel: %w", err)
		}
		m.looks = channel
	}
	_, err := m.looks.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err == nil {
		return true, nil
	}
	m.looks = nil
	if is(err, amqp.NotFound) {
		return false, nil
	}
	return false, fmt.Errorf("look at queue %s: %w", queue, err)
}

// again is a letter as it is published once more. What the default exchange does not
// take from somebody else stays behind: the user id, which has to be that of the
// connection, and CC, which would have it go to other queues, too.
func again(d *amqp.Delivery) amqp.Publishing {
	headers := maps.Clone(d.Headers)
	delete(headers, "CC")
	return amqp.Publishing{
		Headers:         headers,
		ContentType:     d.ContentType,
		ContentEncoding: d.ContentEncoding,
		DeliveryMode:    d.DeliveryMode,
		Priority:        d.Priority,
		CorrelationId:   d.CorrelationId,
		ReplyTo:         d.ReplyTo,
		Expiration:      d.Expiration,
		MessageId:       d.MessageId,
		Timestamp:       d.Timestamp,
		Type:            d.Type,
		AppId:           d.AppId,
		Body:            d.Body,
	}
}

// How often and how long it is tried to put a letter back that its queue refused.
const (
	putBackEvery = 500 * time.Millisecond
	putBackTime  = time.Minute
)

// putBack publishes a letter to the queue of dead letters, as it was when it died.
// It is nowhere else, so this goes on when ctx has ended, and over a new connection
// when this one is lost.
func (b *Box) putBack(ctx context.Context, l *Letter, d *amqp.Delivery) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTime)
	defer cancel()
	try := func() error {
		if b.conn.IsClosed() {
			if err := b.connect(ctx); err != nil {
				return err
			}
		}
		channel, err := b.transactions()
		if err != nil {
			return err
		}
		if err := channel.PublishWithContext(ctx, b.topology.DeadExchange(), l.Queue, true, false, again(d)); err != nil {
			return err
		}
		if err := channel.TxCommit(); err != nil {
			return err
		}
		return channel.Close()
	}
	for {
		err := try()
		if err == nil {
			return nil
		}
		pause := time.NewTimer(putBackEvery)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("letter %s is lost: its queue %s refused it, and the queue of dead letters did not take it back: %w", l.ID, l.Queue, err)
		}
	}
}

// discardBatch is how many letters are discarded in one transaction. Unlike a
// publishing, an ack is not refused.
const discardBatch = 64

func (m *mover) discard(l *Letter, d *amqp.Delivery) error {
	if err := m.channel.Ack(d.DeliveryTag, false); err != nil {
		return fmt.Errorf("discard letter %s: %w", l.ID, err)
	}
	if m.discarded == nil {
		m.discarded = make(map[string]int)
	}
	m.discarded[l.Queue]++
	if sum(m.discarded) < discardBatch {
		return nil
	}
	return m.commitDiscarded()
}

func (m *mover) commitDiscarded() error {
	if len(m.discarded) == 0 {
		return nil
	}
	if err := m.channel.TxCommit(); err != nil {
		return fmt.Errorf("discard letters: of the last %d it is not known whether they are gone: %w", sum(m.discarded), err)
	}
	for queue, n := range m.discarded {
		m.result.Moved[queue] += n
	}
	clear(m.discarded)
	if m.progress != nil {
		m.progress(m.result)
	}
	return nil
}
