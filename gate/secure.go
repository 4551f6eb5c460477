package gate

import (
	"errors"
	"io"

	"github.com/motto123/minigate/pkg/tlsloop"
)

// decrypt takes bytes of a TLS connection, and gives the session what they say.
func (s *socket) decrypt(b []byte) {
	p := s.poller
	secure := s.secure
	established := secure.Established()
	plain, out, err := secure.Feed(p.plain[:0], p.cipher[:0], b)
	p.plain, p.cipher = scratch(plain), scratch(out)
	if !established && secure.Established() {
		s.shaken()
	}
	if len(out) > 0 {
		s.send(nil, out)
		// A client may have keys updated again and again, and read no answer (RFC 8446,
		// 4.6.3). The session knows nothing of these.
		if established && s.session.state < closing && s.session.tooSlow() {
			s.session.cutOff()
		}
	}
	if s.fd < 0 {
		return
	}
	if len(plain) > 0 {
		s.deliver(plain)
	}
	if s.fd >= 0 && !s.holdsSealed(secure.Buffered()) && s.session.state < closing {
		s.session.kick(kickProtocol, errUnfinished.Error())
	}
	switch {
	case err == nil || s.fd < 0:
	case !established && !secure.Established() && !errors.Is(err, io.EOF):
		s.refuse("the TLS handshake failed", err)
	default: // the client has ended its side, or what came is not what it sent
		s.close()
	}
}

// holdsSealed counts n bytes of a TLS record that has only begun, as holds does.
func (s *socket) holdsSealed(n int) bool {
	had := int(s.sealed)
	s.sealed = int32(n)
	return s.poller.loop.gate.holds(had, n)
}

// encrypt is head and b as TLS records.
func (s *socket) encrypt(head, b []byte) ([]byte, error) {
	p := s.poller
	if len(head) > 0 { // one record, usually
		p.joined = append(append(p.joined[:0], head...), b...)
		b = p.joined
		p.joined = scratch(p.joined)
	}
	out, err := s.secure.Write(p.cipher[:0], b)
	p.cipher = scratch(out)
	return out, err
}

// scratch is a buffer to use again, unless it is large.
func scratch(b []byte) []byte {
	if cap(b) > keepScratch {
		return nil
	}
	return b[:0]
}

// keepScratch is what reading as much as a loop reads at once needs.
const keepScratch = readBytes + 32<<10

// startTLS has a connection begin with a TLS handshake.
func (s *socket) startTLS() {
	g := s.poller.loop.gate
	if g.tls != nil {
		s.secure, s.shaking = tlsloop.Server(g.tls), true
		g.secure.Add(1)
	}
}

// tooManyHandshakes reports whether the connection is one too many of those that are
// in their TLS handshake, which takes memory by the 20 KB.
func (s *socket) tooManyHandshakes() bool {
	g := s.poller.loop.gate
	return s.shaking && g.secure.Load() > int64(g.cfg.Limits.Handshakes)
}

// shaken says that the TLS handshake is over.
func (s *socket) shaken() {
	if s.shaking {
		s.shaking = false
		s.poller.loop.gate.secure.Add(-1)
	}
}
