package gate

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"
	"golang.org/x/sys/unix"
)

// engine serves TCP and WebSocket on gnet's event loops, and is all that the
// gate knows of gnet. Nothing of a connection is buffered while it is idle: what
// is read is taken from gnet at once, and the session keeps what is not whole.
type engine struct {
	gnet.BuiltinEventEngine
	gate   *Gate
	tcp    string
	ws     string
	wsPort int

	booted chan struct{}
	engine gnet.Engine
}

// input is what a transport makes of the bytes of one connection.
type input interface {
	owner() *loop
	received(b []byte)
	disconnected()
}

// run serves until stop is called. It returns an error when it can not listen,
// or when the engine ends by itself.
func (e *engine) run() error {
	var addresses []string
	for _, address := range []string{e.tcp, e.ws} {
		if address != "" {
			addresses = append(addresses, "tcp://"+address)
		}
	}
	err := gnet.Rotate(e, addresses,
		gnet.WithNumEventLoop(e.gate.cfg.Loops),
		gnet.WithReuseAddr(true),
		gnet.WithTCPNoDelay(gnet.TCPNoDelay),
		// The largest read of one turn, once a loop.
		gnet.WithReadBufferCap(64<<10),
		gnet.WithLogger(engineLog{e.gate.log}),
		gnet.WithLogLevel(logging.WarnLevel),
	)
	if err != nil {
		return fmt.Errorf("serve %v: %w", addresses, err)
	}
	return nil
}

// stop ends all loops; run returns after that.
func (e *engine) stop(ctx context.Context) error { return e.engine.Stop(ctx) }

// OnBoot is called when the listeners are bound, before the loops run.
func (e *engine) OnBoot(g gnet.Engine) gnet.Action {
	e.engine = g
	close(e.booted)
	return gnet.None
}

// OnOpen makes a session of a connection.
func (e *engine) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	g := e.gate
	address := clientAddress(c.RemoteAddr())
	admitted, counted := g.admit(address)
	if !admitted {
		return nil, gnet.Close
	}
	l := g.loopOf(c.EventLoop())
	l.setNow()
	var s *session
	if local, ok := c.LocalAddr().(*net.TCPAddr); ok && e.ws != "" && local.Port == e.wsPort {
		w := &webSocket{conn: c}
		s = newSession(l, w, overWebSocket, address)
		w.session = s
		c.SetContext(input(w))
	} else {
		s = newSession(l, tcpConn{c}, overTCP, address)
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
			e.gate.stats.Panics.Add(1)
			e.gate.log.WithField("stack", string(debug.Stack())).Errorf("panic while serving %v: %v", c.RemoteAddr(), p)
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
	if in, ok := c.Context().(input); ok {
		in.disconnected()
		c.SetContext(nil)
	}
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
// not, the end of the session's linger closes the connection.
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
