package gate

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/panjf2000/gnet/v2"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/presence"
)

// upBus is a bus of which only the state is asked.
type upBus struct{ bus.Bus }

func (upBus) State() bus.State { return bus.Up }

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
	g.users = newUsers(nil, presence.Gate{}, g.log)
	g.shards = append(g.shards, bus.NewCoalescer(bus.CoalescerConfig[ref]{
		Publisher: p, Exchange: "x", Settle: g.settled,
		Header: func(b []byte, route string) []byte {
			return bus.AppendHeader(b, bus.Header{Gate: g.id, GateAddress: "127.0.0.1:7101", Route: route})
		},
	}))
	return g, g.newLoop(nil, execute)
}

// fakeConn is a transport that keeps what is written.
type fakeConn struct {
	session  *session
	out      []byte
	wrote    func([]byte) // instead of keeping it
	failIn   int          // the write that finds the client gone; 0 for none
	finished bool
	closed   bool
}

func (c *fakeConn) write(b []byte) {
	if c.closed {
		panic("a write after the end")
	}
	if c.failIn--; c.failIn == 0 { // gnet then closes before it returns
		c.close()
		return
	}
	if c.wrote != nil {
		c.wrote(b)
		return
	}
	c.out = append(c.out, b...)
}

func (c *fakeConn) buffered() int { return 0 }

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
	s.counted = counted
	c.session = s
	return s, c
}

// fakeSocket is gnet's side of a WebSocket.
type fakeSocket struct {
	gnet.Conn
	fakeConn
}

func (c *fakeSocket) Write(b []byte) (int, error) {
	c.write(b)
	return len(b), nil
}

func (c *fakeSocket) Writev(bs [][]byte) (int, error) {
	c.write(bytes.Join(bs, nil))
	return 0, nil
}

func (c *fakeSocket) OutboundBuffered() int { return 0 }

func (c *fakeSocket) Fd() int {
	c.finish()
	return -1
}

func (c *fakeSocket) EventLoop() gnet.EventLoop { return fakeEventLoop{c: c} }

type fakeEventLoop struct {
	gnet.EventLoop
	c *fakeSocket
}

func (l fakeEventLoop) Close(gnet.Conn) error {
	l.c.close()
	return nil
}
