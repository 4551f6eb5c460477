package gate

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/logging/loggingtest"
)

// What goes wrong in a session's own code is logged with whose it is, and counted.
func TestAPanicNamesItsSession(t *testing.T) {
	logger, log := loggingtest.New()
	g, l := newFake(t, nil, func(func()) error { return nil })
	g.log = logger.WithField("gate", g.id)
	names := []string{"panic: ", "stack=", "user=42", "address=127.0.0.1", "gate=" + g.id, "level=error"}
	said := func(what string, session string, names ...string) {
		t.Helper()
		line := log.Take()
		for _, name := range append(names, session) {
			if !strings.Contains(line, name) {
				t.Errorf("%s: the log has no %s: %.300s", what, name, line)
			}
		}
	}

	s, c := l.fakeSession()
	s.id, s.user = 4711, 42
	c.wrote = func([]byte) { panic("while it writes") }
	s.write(codec.Heartbeat, nil)
	l.writeDirty()
	said("a write", "session=4711", names...)
	if !c.closed {
		t.Error("it is not closed")
	}

	for what, serve := range map[string]func(*poller, *socket){
		"an event":   func(p *poller, s *socket) { p.serve(s, happening{readable: true}) },
		"going on":   func(_ *poller, s *socket) { s.readable = true; s.resume() },
		"the loop's": func(p *poller, _ *socket) { p.loop.do(func() { panic("of no session") }) },
	} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.SetNonblock(fds[0], true)
		}
		if err != nil {
			t.Fatal(err)
		}
		p := &poller{loop: l, in: make([]byte, 16)}
		s := &socket{poller: p, fd: int32(fds[0]), web: new(webSocket)} // which panics, since it is of no session
		fake, _ := l.fakeSession()
		s.session = *fake
		s.session.id, s.session.user = 4712, 42
		if _, err := unix.Write(fds[1], []byte("x")); err != nil {
			t.Fatal(err)
		}
		l.remove(fake)
		serve(p, s)
		if what == "the loop's" {
			said(what, "of no session", "panic: ", "stack=")
			s.close()
		} else {
			said(what, "session=4712", names...)
		}
		if s.fd >= 0 {
			t.Errorf("%s: the socket is not closed", what)
		}
		if err := unix.Close(fds[1]); err != nil {
			t.Error(err)
		}
	}
	if n := g.stats.Panics.Load(); n != 4 {
		t.Errorf("counted %d panics", n)
	}

	s, _ = l.fakeSession()
	s.id, s.user = 4713, 42
	s.write(codec.Data, make([]byte, codec.MaxBody+1))
	said("a packet that is too large", "session=4713", names[2:]...)
}
