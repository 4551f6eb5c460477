// Package tape is the recording of what workers took and what they answered, for
// tail and replay: what is on it, how it is written without slowing the worker, and
// where it is kept, which is a stream of RabbitMQ or, in a process that embeds
// everything, a folder of files with a bound.
//
// It refuses to know handlers and their messages: who records has taken out what must
// not be kept.
package tape

import (
	"context"
	"time"
)

// Kind is what an entry holds.
type Kind uint8

// The kinds of entries.
const (
	Requests Kind = iota + 1 // an envelope of requests that a worker took
	Replies                  // an envelope with one or more answers of a worker to one gate
)

// Entry is one thing on the tape.
type Entry struct {
	// Position is where the entry stands; set by whoever reads.
	Position Position
	Kind     Kind
	// Time is when the worker had it, and Sent when the gate published the requests:
	// zero for replies, and where nobody said so. Clocks of different machines differ.
	Time time.Time
	Sent time.Time
	// Worker is the service.
	Worker string
	// Gate that the replies go to; requests name it in their envelope.
	Gate string
	// Redelivered requests may have been handled before.
	Redelivered bool
	// Masked says that sensitive fields were taken out of what the envelope holds.
	Masked bool
	// Envelope is a buspb.Requests or a buspb.Replies. It belongs to the reader only
	// until each returns.
	Envelope []byte
}

// Position is the place of an entry: its message's offset on the tape, and its number
// within that message. Positions of one tape are in the order of writing.
type Position struct {
	Offset int64
	Index  int
}

// Start is where a reader begins: at Position where it is set, else with the first
// message that was written at Since or later, else, where Live is set, with what is
// written from now on, and otherwise at the beginning. A time is exact to a message's
// chunk: entries that are a little older may come first.
type Start struct {
	Position *Position
	Since    time.Time
	Live     bool
}

// Source is a tape as its readers see it.
type Source interface {
	// Read calls each with the entries from start on, in order, until each returns an
	// error, which Read returns, or ctx ends, which is no error. Where follow is not
	// set it also ends after the last entry that was there when Read was called.
	Read(ctx context.Context, start Start, follow bool, each func(*Entry) error) error
	Close() error
}
