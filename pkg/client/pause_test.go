package client

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"
)

// TestAdoptAfterTheEnd: a connection that was made while the client was closed is
// closed, too.
func TestAdoptAfterTheEnd(t *testing.T) {
	c := &Client{opts: Options{Reconnect: &Reconnect{}}, done: make(chan struct{}), states: make(chan State, 1)}
	c.context, c.cancel = context.WithCancel(t.Context())
	c.end(ErrClosed)
	mine, other := net.Pipe()
	defer other.Close()
	if n := c.adopt(nil, &conn{transport: tcp{mine}}, nil); n != nil || c.current.Load() != nil {
		t.Error("it is taken")
	}
	if _, err := mine.Write([]byte("x")); err == nil {
		t.Error("it is open")
	}
}

func TestPause(t *testing.T) {
	r := &Reconnect{First: 250 * time.Millisecond, Longest: 15 * time.Second}
	for rounds, bound := range map[int]time.Duration{
		0: 250 * time.Millisecond, 1: 500 * time.Millisecond, 5: 8 * time.Second, 6: 15 * time.Second, 7: 15 * time.Second, 1000: 15 * time.Second,
	} {
		var low, high int
		for range 1000 {
			wait := r.pause(ErrSilent, rounds)
			if wait < 0 || wait > bound {
				t.Fatalf("round %d: %v, want at most %v", rounds, wait, bound)
			}
			if wait < bound/10 {
				low++
			}
			if wait > bound*9/10 {
				high++
			}
		}
		// Each is a tenth of them: with 1,000 tries 50 and 150 are five deviations away.
		if low < 50 || low > 150 || high < 50 || high > 150 {
			t.Errorf("round %d: %d of 1000 in the first tenth, %d in the last", rounds, low, high)
		}
	}
	for _, test := range []struct {
		why       error
		low, high time.Duration
	}{
		{fmt.Errorf("x: %w", &KickError{RetryAfter: 3 * time.Second}), 3 * time.Second, 3 * time.Second},
		{&KickError{RetryAfter: 1000 * time.Hour}, time.Hour, time.Hour},
		{&KickError{RetryAfter: -1}, 0, 250 * time.Millisecond},
		{&HandshakeError{Code: 503, RetryAfter: time.Second}, time.Second, 1250 * time.Millisecond},
		{&HandshakeError{Code: 503}, 0, 250 * time.Millisecond},
	} {
		if got := r.pause(test.why, 0); got < test.low || got > test.high {
			t.Errorf("%v: %v, want from %v to %v", test.why, got, test.low, test.high)
		}
	}
	r.First = time.Hour
	if got := r.pause(ErrSilent, 0); got > r.Longest {
		t.Errorf("First over Longest: %v", got)
	}
}
