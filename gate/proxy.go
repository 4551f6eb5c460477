package gate

import (
	"errors"
	"net/netip"

	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/proxyprotocol"
)

// proxied is a connection whose PROXY header has not come yet: from one of the
// trusted proxies, it has to begin with one.
type proxied struct {
	partial []byte // of the header, at most proxyprotocol.MaxHeader
}

// header reads the header and returns what is behind it. Without a whole one it
// returns nil.
func (s *socket) header(b []byte) []byte {
	p := s.proxied
	if p.partial != nil {
		b = append(p.partial, b...)
		p.partial = nil
	}
	source, n, err := proxyprotocol.Parse(b)
	if errors.Is(err, proxyprotocol.ErrShort) {
		p.partial = append([]byte(nil), b[:min(len(b), proxyprotocol.MaxHeader)]...)
		return nil
	}
	if err != nil {
		s.refuse("a trusted proxy sent no PROXY header that can be read", err)
		return nil
	}
	s.proxied = nil
	if source.IsValid() { // or the proxy speaks for itself
		s.session.address = source.Addr()
		if s.session.counted {
			admitted, counted := s.poller.loop.gate.admitAddress(source.Addr())
			s.session.counted, s.session.byAddress = counted, counted
			if !admitted {
				s.close()
				return nil
			}
		}
	}
	return b[n:]
}

// unexpected refuses the PROXY header of somebody who is not trusted to send one.
func (s *socket) unexpected(b []byte) bool {
	if b[0] != 'P' && b[0] != '\r' || !proxyprotocol.Announced(b) {
		return false
	}
	s.refuse("a PROXY header from an address that is not trusted to send one (proxy-from)", nil)
	return true
}

// refuse closes a connection that can not be told why, and logs it: the first of
// every second.
func (s *socket) refuse(why string, err error) {
	l := s.poller.loop
	g := l.gate
	g.stats.HandshakesRefused.Add(1)
	g.refused(s.session.address, why, err)
	s.session.end("refused")
	s.close()
}

// refused logs a connection that was refused before its session began, one in a
// second.
func (g *Gate) refused(address netip.Addr, why string, err error) {
	now := g.sinceBegan()
	last := g.refusedAt.Load()
	if last != 0 && now-last < 1000 || !g.refusedAt.CompareAndSwap(last, now) {
		g.refusedUnsaid.Add(1)
		return
	}
	log := g.log.WithFields(logrus.Fields{"address": address.String()})
	if err != nil {
		log = log.WithError(err)
	}
	if n := g.refusedUnsaid.Swap(0); n > 0 {
		log = log.WithField("and_others", n)
	}
	log.Warn("refused a connection: " + why)
}
