package bus

import "errors"

// What becomes of a publishing that is not confirmed. ErrNoRoute, ErrRefused
// and ErrUnavailable say that no consumer has it; after ErrUnconfirmed and
// ErrClosed nobody knows.
var (
	// ErrNoRoute: no queue is bound for the key.
	ErrNoRoute = errors.New("bus: no queue is bound for this key")
	// ErrRefused: the broker said no, because a queue is full.
	ErrRefused = errors.New("bus: refused by the broker, a queue is full")
	// ErrUnavailable: there is no connection, or the broker is blocked.
	ErrUnavailable = errors.New("bus: the broker is not available")
	// ErrUnconfirmed: the connection was lost before the broker confirmed.
	ErrUnconfirmed = errors.New("bus: connection lost before the broker confirmed")
	// ErrClosed: the bus or the publisher is closed.
	ErrClosed = errors.New("bus: closed")
	// ErrFull: a coalescer holds as many bytes as it may.
	ErrFull = errors.New("bus: too much is waiting to be published")
)

// ErrStale: the delivery came over a connection that is gone; it will come
// again.
var ErrStale = errors.New("bus: the delivery's connection is gone")

// ErrEnvelope: bytes that are no envelope.
var ErrEnvelope = errors.New("bus: malformed envelope")
