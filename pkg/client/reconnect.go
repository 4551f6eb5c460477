package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
)

// Reconnect says how a client connects again when its connection is lost. The
// zero value is usable.
//
// After a Kick that says so it comes back after the time told, and otherwise after
// a random time below a bound that doubles with each round through the addresses.
// Calls whose answer had not come fail with ErrLost, but for those that a gate which
// ends has not taken; these, and calls that are made meanwhile, wait for the connection until their context ends.
//
// It does not come back, and ends with the error, when the gate kicked it as
// replaced, kicked or protocol_error, when a handshake is answered 400, 401 or
// 426, and when the gate sends what is against the protocol. Nor does it where
// certificates are not trusted, which no waiting changes: it ends with
// ErrCertificate after three attempts in a row, or one at each address if these are
// more, that fail for that alone. Not after the first, since behind an address there
// may be several gates, of which one has not been given its new certificate.
type Reconnect struct {
	// Addresses are tried in turn, after the one that Dial has.
	Addresses []string
	// First bounds the wait before the first attempt, 250 ms where it is 0, and
	// Longest that before any, 15 s where it is 0. A connection that lived as long
	// as Longest makes the next attempt a first one again.
	First, Longest time.Duration
	// Attempts is how many may fail in a row before the client ends with the last
	// error; 0 is any number.
	Attempts int
	// Waiting is how many calls may wait for a connection, 1,024 where it is 0; one
	// more fails with RESOURCE_EXHAUSTED.
	Waiting int
	// OnState is called with each state, beginning with Connected, from one
	// goroutine; whoever takes long misses those that are over, but never the last
	// one. It may call the client, but not Close.
	OnState func(*Client, State)
}

// Phase is what a client is doing.
type Phase int

// The phases of a client.
const (
	Connected Phase = iota + 1
	Reconnecting
	Ended // for good
)

func (p Phase) String() string {
	switch p {
	case Connected:
		return "connected"
	case Reconnecting:
		return "reconnecting"
	case Ended:
		return "ended"
	}
	return "unknown"
}

// State is what a client is doing, and why.
type State struct {
	Phase Phase
	// Err is why there is no connection; nil while there is one.
	Err error
	// Address is of the gate that it is connected to, or will try next.
	Address string
	// Wait is how long it waits before it tries.
	Wait time.Duration
}

// mistrust is how many attempts in a row may find a certificate that is not trusted.
const mistrust = 3

// longestTold bounds the time that a gate may tell clients to stay away.
const longestTold = time.Hour

func (r *Reconnect) setDefaults() {
	if r.First <= 0 {
		r.First = 250 * time.Millisecond
	}
	if r.Longest <= 0 {
		r.Longest = 15 * time.Second
	}
	if r.Waiting <= 0 {
		r.Waiting = 1024
	}
}

// pause is how long to wait before the next attempt, after so many rounds of them
// in vain.
func (r *Reconnect) pause(why error, rounds int) time.Duration {
	bound := r.Longest
	if rounds < 32 && r.First <= r.Longest>>rounds {
		bound = r.First << rounds
	}
	// From nothing on: clients that were lost together shall not come together.
	backoff := rand.N(bound + 1)
	var kick *KickError
	if errors.As(why, &kick) && kick.RetryAfter > 0 {
		return min(kick.RetryAfter, longestTold) // the gate has spread them
	}
	var refusal *HandshakeError
	if errors.As(why, &refusal) && refusal.RetryAfter > 0 {
		return min(refusal.RetryAfter, longestTold) + backoff // the same for all
	}
	return backoff
}

// final reports whether another attempt would be wrong, or end the same way.
func final(err error) bool {
	var kick *KickError
	if errors.As(err, &kick) {
		return kick.Code == "replaced" || kick.Code == "kicked" || kick.Code == "protocol_error"
	}
	var refusal *HandshakeError
	if errors.As(err, &refusal) {
		return refusal.Code == 400 || refusal.Code == 401 || refusal.Code == 426
	}
	return errors.Is(err, ErrProtocol)
}

// startKeeping has the client reconnect; n is its connection to the address of
// that place.
func (c *Client) startKeeping(n *conn, place int) {
	c.tell(State{Phase: Connected, Address: n.address})
	c.wait.Go(func() { c.keep(n, place) })
	if c.opts.Reconnect.OnState != nil {
		c.wait.Go(c.tellStates)
	}
}

// keep replaces each connection that ends by the next one, until the client ends.
func (c *Client) keep(n *conn, place int) {
	failures := 0
	for n != nil {
		began := time.Now()
		<-n.done
		n.wait.Wait()
		if time.Since(began) >= c.opts.Reconnect.Longest {
			failures = 0
		}
		n = c.replace(n, &place, &failures)
	}
}

// replace connects again, and returns nil where the client ends instead.
func (c *Client) replace(old *conn, place, failures *int) *conn {
	r := c.opts.Reconnect
	why, untrusted := old.ended(), 0
	for attempts := 0; ; attempts++ {
		if c.context.Err() != nil {
			return nil
		}
		if untrusted++; !errors.Is(why, ErrCertificate) {
			untrusted = 0
		}
		if final(why) || untrusted >= max(mistrust, len(c.addresses)) || r.Attempts > 0 && attempts >= r.Attempts {
			c.end(why)
			return nil
		}
		*place = (*place + 1) % len(c.addresses)
		address := c.addresses[*place]
		wait := r.pause(why, *failures/len(c.addresses))
		*failures++
		c.tell(State{Phase: Reconnecting, Err: why, Address: address, Wait: wait})
		select {
		case <-time.After(wait):
		case <-c.context.Done():
			return nil
		}
		n, rest, err := c.connect(c.context, address)
		if err == nil {
			return c.adopt(old, n, rest)
		}
		why = err
	}
}

// adopt makes n the newest connection, unless the client has ended.
func (c *Client) adopt(old, n *conn, rest []byte) *conn {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		_ = n.transport.Close() // nobody has used it
		return nil
	}
	c.current.Store(n)
	n.start(rest)
	c.mu.Unlock()
	c.tell(State{Phase: Connected, Address: n.address})
	close(old.replaced)
	return n
}

// next waits for the connection that follows n.
func (c *Client) next(ctx context.Context, n *conn, route string) error {
	if c.opts.Reconnect == nil {
		return c.failure()
	}
	defer c.waiting.Add(-1)
	if int(c.waiting.Add(1)) > c.opts.Reconnect.Waiting {
		return &Error{code: codes.ResourceExhausted, Message: "too many calls wait for a connection"}
	}
	select {
	case <-n.replaced:
		return nil
	case <-c.done:
		return c.failure()
	case <-ctx.Done():
		e := ended(ctx, route)
		e.Message = route + " was not sent: there was no connection"
		return e
	}
}

// tell leaves a state for tellStates. It belongs to one goroutine at a time.
func (c *Client) tell(s State) {
	for {
		select {
		case c.states <- s:
			return
		default:
		}
		select {
		case <-c.states: // which is over
		default:
		}
	}
}

// tellStates calls OnState.
func (c *Client) tellStates() {
	on := c.opts.Reconnect.OnState
	for {
		select {
		case s := <-c.states:
			on(c, s)
		case <-c.done:
			on(c, State{Phase: Ended, Err: c.Err()})
			return
		}
	}
}
