package gate

import (
	"bytes"
	"errors"
	"math/bits"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/motto123/minigate/pkg/tlsloop"
)

// socket is one client's connection: its descriptor, its session, and what the
// kernel did not take yet. It is one piece of memory, and holds no buffer while
// it is idle.
type socket struct {
	session session
	poller  *poller
	proxied *proxied      // nil but while a PROXY header is to come
	secure  *tlsloop.Conn // nil without TLS
	web     *webSocket    // nil over TCP
	unsent  []byte
	fd      int32 // -1 when closed
	sealed  int32 // bytes of a TLS record that has only begun, as counted: see unfinished.go

	readable bool  // there may be something to read
	hungUp   bool  // the client has closed its side: the end is behind what is read
	finished bool  // to be shut down when all is sent
	first    bool  // nothing has come yet
	shaking  bool  // in its TLS handshake
	queued   bool  // to be read on after the others
	most     uint8 // bits of the length that unsent had, since it was made
}

// open makes a session of a connection that was accepted. It owns fd.
func (p *poller) take(fd int, t transport, address netip.Addr, counted bool) {
	l := p.loop
	s := &socket{poller: p, fd: int32(fd), first: true}
	if l.gate.cfg.ProxyFrom.Contains(address) {
		s.proxied, s.first = new(proxied), false
	}
	s.startTLS()
	var c conn = s
	if t == overWebSocket {
		s.web = &webSocket{stream: s, session: &s.session}
		c = s.web
	}
	s.session.init(l, c, t, address)
	s.session.counted, s.session.byAddress = counted, counted && s.proxied == nil
	if err := p.keep(s); err != nil {
		l.gate.log.WithError(err).Warn("take a connection")
		s.close()
		return
	}
	if s.tooManyHandshakes() {
		l.gate.stats.HandshakesFull.Add(1)
		s.refuse("too many TLS handshakes at once (max-handshakes)", nil)
	}
}

// read takes what has come, until there is no more or the session wants no more
// now: it is then called again when it does.
func (s *socket) read() {
	for range readsOfOneTurn {
		if s.fd < 0 || !s.readable || !s.session.wanted() {
			return
		}
		n, err := readSocket(int(s.fd), s.poller.in)
		switch {
		case errors.Is(err, unix.EAGAIN):
			s.readable = false
			return
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || n == 0:
			s.close()
			return
		}
		// A short read has emptied the socket: what comes later is another event.
		s.readable = n == len(s.poller.in) || s.hungUp
		s.received(s.poller.in[:n])
	}
	if s.fd >= 0 && s.readable && !s.queued { // once, however often there is more
		s.queued = true
		s.poller.loop.post(s.goOn) // the others first
	}
}

// goOn reads on when the others had their turn.
func (s *socket) goOn() {
	s.queued = false
	s.resume()
}

// received takes bytes as they came from the network.
func (s *socket) received(b []byte) {
	if s.first {
		s.first = false
		if s.unexpected(b) {
			return
		}
	}
	if s.proxied != nil {
		if b = s.header(b); len(b) == 0 {
			return
		}
	}
	switch {
	case s.secure == nil:
		s.deliver(b)
	case s.session.state < closing: // or what comes is not wanted any more
		s.decrypt(b)
	}
}

// deliver gives the session, or what is between, what the client said.
func (s *socket) deliver(b []byte) {
	if s.web != nil {
		s.web.received(b)
	} else {
		s.session.received(b)
	}
}

// resume goes on reading.
func (s *socket) resume() {
	defer func() {
		if v := recover(); v != nil {
			s.poller.loop.gate.panicked(v, &s.session)
			s.close()
		}
	}()
	s.read()
}

func (s *socket) write(b []byte) { s.write2(nil, b) }

// write2 writes head and b. What the kernel does not take now waits; an error
// closes the connection.
func (s *socket) write2(head, b []byte) {
	if s.secure != nil && s.fd >= 0 {
		out, err := s.encrypt(head, b)
		if err != nil { // a kick before the handshake has nothing to say it with
			s.close()
			return
		}
		head, b = nil, out
	}
	s.send(head, b)
}

// send writes bytes as they go over the network.
func (s *socket) send(head, b []byte) {
	if s.fd < 0 {
		return
	}
	for len(s.unsent) == 0 && len(head)+len(b) > 0 {
		n, err := writeSocket(int(s.fd), head, b)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			s.queue(head, b)
			return
		case err != nil:
			s.close()
			return
		}
		of := min(n, len(head))
		head, b = head[of:], b[n-of:]
	}
	if len(head)+len(b) > 0 {
		s.queue(head, b)
	}
}

// queue keeps what the kernel does not take now. The session bounds it.
func (s *socket) queue(head, b []byte) {
	g := s.poller.loop.gate
	if len(s.unsent) == 0 {
		g.slow.Add(1)
	}
	g.unsent.Add(int64(len(head) + len(b)))
	s.unsent = append(append(s.unsent, head...), b...)
	s.most = max(s.most, uint8(bits.Len(uint(len(s.unsent)))))
}

// sendRest writes what has waited, as far as the kernel takes it.
func (s *socket) sendRest() {
	for len(s.unsent) > 0 {
		n, err := writeSocket(int(s.fd), nil, s.unsent)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			s.close()
			return
		}
		s.sent(n)
	}
	if s.finished {
		_ = unix.Shutdown(int(s.fd), unix.SHUT_WR) // the client may be gone already
		return
	}
	s.session.drained()
}

func (s *socket) sent(n int) {
	g := s.poller.loop.gate
	g.unsent.Add(-int64(n))
	s.unsent = s.unsent[n:]
	if len(s.unsent) == 0 {
		s.unsent, s.most = nil, 0
		g.slow.Add(-1)
		return
	}
	// A rest keeps all the memory that it is a part of, and only the rest is counted.
	if size := uint8(bits.Len(uint(len(s.unsent)))); size+1 < s.most {
		s.unsent, s.most = bytes.Clone(s.unsent), size
	}
}

func (s *socket) buffered() int { return len(s.unsent) }

func (s *socket) finish() {
	if s.fd < 0 {
		return
	}
	s.finished = true
	if s.secure != nil {
		s.send(nil, s.secure.Close(nil)) // says that this is the end
	}
	if s.fd >= 0 && len(s.unsent) == 0 {
		_ = unix.Shutdown(int(s.fd), unix.SHUT_WR)
	}
}

func (s *socket) close() {
	if s.fd < 0 {
		return
	}
	p := s.poller
	if fd := int(s.fd); fd < len(p.sockets) && p.sockets[fd] == s {
		p.sockets[fd] = nil
		p.open--
	}
	if s.secure != nil {
		s.secure.Close(nil)
		s.shaken()
		p.loop.gate.holds(int(s.sealed), 0)
		s.sealed = 0
	}
	_ = unix.Close(int(s.fd)) // which takes it out of the poller
	s.fd = -1
	if len(s.unsent) > 0 {
		s.sent(len(s.unsent))
	}
	s.session.disconnected()
}
