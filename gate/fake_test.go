package gate

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/presence"
)

// upBus is a bus of which only the state is asked.
type upBus struct{ bus.Bus }

func (upBus) Watch(func(bus.State)) func() { return func() {} }

func (upBus) State() bus.State { return bus.Up }

// silent is a publisher that never confirms.
type silent struct{}

func (silent) Publish(bus.Message, func(error)) {}
func (silent) Close() error                     { return nil }

// newFake is a gate without a transport: its loop runs where the test runs it.
// Requests pile up in a coalescer that publishes nothing, unless there is a
// publisher, whose coalescer the test has to run.
func newFake(t testing.TB, p bus.Publisher, execute func(func()) error) (*Gate, *loop) {
	t.Helper()
	g, err := New(Config{TCP: "127.0.0.1:0", Bus: upBus{}, Log: quiet(), Limits: Limits{Connections: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	g.began = time.Now()
	g.canReply.Store(true)
	close(g.consuming)
	if p == nil {
		p = silent{}
	}
	g.users = newUsers(nil, presence.Gate{}, g.log)
	g.shards = append(g.shards, bus.NewCoalescer(bus.CoalescerConfig[ref]{
		Publisher: p, Exchange: "x", Settle: g.settled,
		Header: func(b []byte, route string) []byte {
			return bus.AppendHeader(b, bus.Header{Gate: g.id, GateAddress: "127.0.0.1:7101", Route: route})
		},
	}))
	var l *loop
	l = g.newLoop(func() error { return execute(l.turn) })
	return g, l
}

// fakeConn is a transport that keeps what is written.
type fakeConn struct {
	session  *session
	out      []byte
	wrote    func([]byte) // instead of keeping it
	failIn   int          // the write that finds the client gone; 0 for none
	waits    int          // what buffered says
	resumed  int          // calls of resume
	finished bool
	closed   bool
}

func (c *fakeConn) write(b []byte) {
	if c.closed {
		panic("a write after the end")
	}
	if c.failIn--; c.failIn == 0 { // the connection is closed before it returns
		c.close()
		return
	}
	if c.wrote != nil {
		c.wrote(b)
		return
	}
	c.out = append(c.out, b...)
}

func (c *fakeConn) buffered() int { return c.waits }

func (c *fakeConn) resume() { c.resumed++ }

func (c *fakeConn) write2(head, b []byte) { c.write(slices.Concat(head, b)) }

func (c *fakeConn) finish() {
	if c.closed {
		panic("finish after the end")
	}
	c.finished = true
}

func (c *fakeConn) close() {
	if !c.closed {
		c.closed = true
		c.session.disconnected()
	}
}

func (l *loop) fakeSession() (*session, *fakeConn) {
	c := new(fakeConn)
	address := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	_, counted := l.gate.admit(address)
	s := newSession(l, c, overTCP, address)
	s.counted, s.byAddress = counted, counted
	c.session = s
	return s, c
}

// newSession is a session of its own.
func newSession(l *loop, c conn, t transport, address netip.Addr) *session {
	s := new(session)
	s.init(l, c, t, address)
	return s
}
