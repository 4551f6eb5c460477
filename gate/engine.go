package gate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"
	"golang.org/x/sys/unix"
)

// engine serves TCP and WebSocket on gnet's event loops, and is all that the
// gate knows of gnet. Nothing of a connection is buffered while it is idle: what
// is read is taken from gnet at once, and the session keeps what is not whole.
//
// Connections are accepted here and handed to gnet's loops. gnet's own acceptor
// ends the whole engine when accept fails, as it does when the process has no
// file descriptor left; this one waits until there is one.
type engine struct {
	gnet.BuiltinEventEngine
	gate  *Gate
	loops *gnet.Client // gnet's name for loops without a listener of their own
}

// input is what a transport makes of the bytes of one connection.
type input interface {
	owner() *loop
	received(b []byte)
	disconnected()
}

// startEngine starts the loops.
func startEngine(g *Gate) (*engine, error) {
	e := &engine{gate: g}
	var err error
	e.loops, err = gnet.NewClient(e,
		gnet.WithNumEventLoop(g.cfg.Loops),
		gnet.WithTCPNoDelay(gnet.TCPDelay), // net has set TCP_NODELAY already
		// The largest read of one turn, once a loop.
		gnet.WithReadBufferCap(64<<10),
		gnet.WithLogger(engineLog{g.log}),
		gnet.WithLogLevel(logging.WarnLevel),
	)
	if err == nil {
		err = e.loops.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start the event loops: %w", err)
	}
	return e, nil
}

// stop ends all loops and closes their connections.
func (e *engine) stop() error { return e.loops.Stop() }

const (
	// acceptors is how many connections of one listener may be on their way to a
	// loop at once, each of which takes two file descriptors meanwhile.
	acceptors = 4
	// The pauses after accept failed, for want of a file descriptor or of memory.
	firstAcceptPause = 5 * time.Millisecond
	lastAcceptPause  = time.Second
)

// accept hands the connections of a listener to the loops, until ctx ends.
func (e *engine) accept(ctx context.Context, l net.Listener, t transport) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // Accept then returns
	defer stop()
	failed := make(chan error, acceptors)
	for range acceptors {
		go func() { failed <- e.acceptOne(ctx, l, t) }()
	}
	var first error
	for range acceptors {
		if err := <-failed; err != nil && first == nil {
			first = err
			_ = l.Close() // the others end too
		}
	}
	return first
}

func (e *engine) acceptOne(ctx context.Context, l net.Listener, t transport) error {
	pause := firstAcceptPause
	for {
		c, err := l.Accept()
		if err == nil {
			err = e.enroll(c, t)
		}
		switch {
		case err == nil:
			pause = firstAcceptPause
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		}
		// The client waits in the kernel's queue meanwhile. A failure of one
		// connection (ECONNABORTED) pauses one of the acceptors for an instant.
		e.gate.stats.AcceptsFailed.Add(1)
		if pause == firstAcceptPause {
			e.gate.log.WithError(err).Warn("accept a connection")
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, lastAcceptPause)
	}
}

// enroll gives a connection to a loop, where OnOpen takes it.
func (e *engine) enroll(c net.Conn, t transport) error {
	// gnet puts the memory of an address's zone into its pool, as if it had come
	// from there.
	for _, a := range []net.Addr{c.LocalAddr(), c.RemoteAddr()} {
		if tcp, ok := a.(*net.TCPAddr); ok {
			tcp.Zone = ""
		}
	}
	if _, err := e.loops.EnrollContext(c, t); err != nil { // which closes c
		return fmt.Errorf("give a connection to a loop: %w", err)
	}
	return nil
}

// OnOpen makes a session of a connection.
func (e *engine) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	g := e.gate
	t, _ := c.Context().(transport)
	c.SetContext(nil)
	address := clientAddress(c.RemoteAddr())
	admitted, counted := g.admit(address)
	if !admitted {
		return nil, gnet.Close
	}
	l := g.loopOf(c.EventLoop())
	l.setNow()
	var s *session
	if t == overWebSocket {
		w := &webSocket{conn: c}
		s = newSession(l, w, t, address)
		w.session = s
		c.SetContext(input(w))
	} else {
		s = newSession(l, tcpConn{c}, t, address)
		c.SetContext(input(s))
	}
	s.counted = counted
	return nil, gnet.None
}

// OnTraffic gives a session what came. A panic ends that session, not the gate.
func (e *engine) OnTraffic(c gnet.Conn) (action gnet.Action) {
	in, ok := c.Context().(input)
	if !ok {
		return gnet.Close
	}
	l := in.owner()
	defer func() {
		if p := recover(); p != nil {
			e.gate.panicked(p)
			action = gnet.Close
		}
	}()
	b, err := c.Next(-1)
	if err != nil {
		return gnet.Close
	}
	l.setNow()
	in.received(b)
	l.flush()
	return gnet.None
}

// OnClose forgets the session.
func (e *engine) OnClose(c gnet.Conn, _ error) gnet.Action {
	in, ok := c.Context().(input)
	if !ok {
		return gnet.None
	}
	c.SetContext(nil)
	defer func() {
		if p := recover(); p != nil {
			e.gate.panicked(p)
		}
	}()
	in.disconnected()
	return gnet.None
}

func clientAddress(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// tcpConn carries a session's packets as they are.
type tcpConn struct{ conn gnet.Conn }

func (t tcpConn) write(b []byte) { _, _ = t.conn.Write(b) } // an error closes the connection by itself
func (t tcpConn) buffered() int  { return t.conn.OutboundBuffered() }
func (t tcpConn) finish()        { finish(t.conn) }
func (t tcpConn) close()         { closeConn(t.conn) }

// finish sends FIN behind what was written, if the socket has taken all of it; if
// not, the end of the session's linger closes the connection. It must not be
// called after the connection was closed: its descriptor may be another's then.
func finish(c gnet.Conn) {
	if c.OutboundBuffered() == 0 {
		_ = unix.Shutdown(c.Fd(), unix.SHUT_WR) // the client may be gone already
	}
}

func closeConn(c gnet.Conn) { _ = c.EventLoop().Close(c) }

// loopRunner runs a function on gnet's loop.
type loopRunner func()

func (f loopRunner) Run(context.Context) error {
	f()
	return nil
}

// loopOf is our loop on a loop of gnet's. The first connection of each makes it.
func (g *Gate) loopOf(of gnet.EventLoop) *loop {
	if loops := g.loops.Load(); loops != nil {
		if l := loops.of[of]; l != nil {
			return l
		}
	}
	return g.newLoop(of, func(f func()) error { return of.Execute(context.Background(), loopRunner(f)) })
}

// engineLog lowers gnet's fatal messages to errors: who runs the gate decides
// about the process.
type engineLog struct{ log logger }

type logger interface {
	Debugf(format string, args ...any)
	Infof(format string, args ...any)
	Warnf(format string, args ...any)
	Errorf(format string, args ...any)
}

func (e engineLog) Debugf(format string, args ...any) { e.log.Debugf(format, args...) }
func (e engineLog) Infof(format string, args ...any)  { e.log.Debugf(format, args...) }
func (e engineLog) Warnf(format string, args ...any)  { e.log.Warnf(format, args...) }
func (e engineLog) Errorf(format string, args ...any) { e.log.Errorf(format, args...) }
func (e engineLog) Fatalf(format string, args ...any) { e.log.Errorf(format, args...) }
