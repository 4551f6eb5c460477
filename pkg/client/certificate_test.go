package client_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/certificates/certtest"
	"github.com/motto123/minigate/pkg/client"
)

// front speaks TLS before a gate that does not.
type front struct {
	address     string
	certificate atomic.Pointer[tls.Certificate]
	came        atomic.Int32 // connections
	bad         atomic.Int32 // connections that see other before certificate
	other       *tls.Certificate
}

func newFront(t *testing.T, g *gate, certificate *tls.Certificate) *front {
	t.Helper()
	f := new(front)
	f.certificate.Store(certificate)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if f.bad.Add(-1) >= 0 {
			return f.other, nil
		}
		return f.certificate.Load(), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	f.address = strings.Replace(g.address(), "tcp://", "tls://", 1)
	f.address = strings.Replace(f.address, "ws://", "wss://", 1)
	plain := g.listener.Addr().String()
	f.address = strings.Replace(f.address, plain, l.Addr().String(), 1)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			f.came.Add(1)
			running.Go(func() {
				defer func() { _ = near.Close() }()
				_ = near.SetDeadline(time.Now().Add(time.Minute))
				secure, ok := near.(*tls.Conn)
				if !ok || secure.HandshakeContext(t.Context()) != nil {
					return
				}
				far, err := net.Dial("tcp", plain)
				if err != nil {
					return
				}
				defer func() { _ = far.Close() }()
				running.Go(func() {
					_, _ = io.Copy(far, near) // until either side ends
					_ = far.Close()
				})
				_, _ = io.Copy(near, far)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		g.close()
		running.Wait()
	})
	return f
}

func issue(t *testing.T, a *certtest.Authority, o certtest.Options) *tls.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair(a.Issue(t, o))
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

// untrusted are certificates that a client of the authority does not take, and what
// it says of them.
func untrusted(t *testing.T, a *certtest.Authority) map[string]*tls.Certificate {
	now := time.Now()
	return map[string]*tls.Certificate{
		"has expired":                 issue(t, a, certtest.Options{NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)}),
		"signed by unknown authority": issue(t, certtest.NewAuthority(t, "another"), certtest.Options{}),
		"127.0.0.1":                   issue(t, a, certtest.Options{Name: "another.example.org"}),
	}
}

// TestDialOfUntrusted: who is not trusted is said so, once, and the next address is
// tried.
func TestDialOfUntrusted(t *testing.T) {
	a := certtest.NewAuthority(t, "one")
	trust := &tls.Config{RootCAs: a.Pool(t), MinVersion: tls.VersionTLS12}
	both(t, func(t *testing.T, web bool) {
		good := newFront(t, newGate(t, web, nil), issue(t, a, certtest.Options{}))
		for why, certificate := range untrusted(t, a) {
			f := newFront(t, newGate(t, web, nil), certificate)
			for _, r := range []*client.Reconnect{nil, {}} {
				_, err := client.Dial(t.Context(), f.address, client.Options{TLS: trust, Reconnect: r})
				if !errors.Is(err, client.ErrCertificate) || !strings.Contains(err.Error(), "certificate is not trusted: ") || !strings.Contains(err.Error(), why) {
					t.Errorf("%s: got %v", why, err)
				}
			}
			if n := f.came.Load(); n != 2 {
				t.Errorf("%s: %d attempts of two clients", why, n)
			}
			c, err := client.Dial(t.Context(), f.address, client.Options{TLS: trust, Reconnect: &client.Reconnect{Addresses: []string{good.address}}})
			if err != nil {
				t.Errorf("%s, with a good one behind it: %v", why, err)
				continue
			}
			_ = c.Close()
		}
	})
}

// TestNotTrustedAnyMore: a client whose gate comes back with a certificate that is not
// trusted ends, and says why, after few attempts.
func TestNotTrustedAnyMore(t *testing.T) {
	a := certtest.NewAuthority(t, "one")
	trust := &tls.Config{RootCAs: a.Pool(t), MinVersion: tls.VersionTLS12}
	both(t, func(t *testing.T, web bool) {
		for why, certificate := range untrusted(t, a) {
			for addresses, attempts := range map[int]int32{1: 3, 5: 5} {
				s, g := newStates(), newGate(t, web, nil)
				f := newFront(t, g, issue(t, a, certtest.Options{}))
				r := s.quick()
				for range addresses - 1 {
					r.Addresses = append(r.Addresses, f.address)
				}
				c := dialTo(t, f.address, client.Options{TLS: trust, Reconnect: r})
				s.wait(t, client.Connected)
				f.certificate.Store(certificate)
				_ = g.connected().Close()
				end := s.wait(t, client.Ended)
				if !errors.Is(end.Err, client.ErrCertificate) || !errors.Is(c.Err(), client.ErrCertificate) || !strings.Contains(end.Err.Error(), why) {
					t.Errorf("%s: ended with %v, %v", why, end.Err, c.Err())
				}
				if n := f.came.Load() - 1; n != attempts {
					t.Errorf("%s: %d attempts at %d addresses, want %d", why, n, addresses, attempts)
				}
				if err := c.Call(t.Context(), "test.late", nil, nil); !errors.Is(err, client.ErrCertificate) {
					t.Errorf("%s: a call at the end: %v", why, err)
				}
			}
		}
	})
}

// TestOneOfSeveralIsNotTrusted: one gate behind an address, or at one of them, whose
// certificate is wrong does not end a client, however often it is met.
func TestOneOfSeveralIsNotTrusted(t *testing.T) {
	a := certtest.NewAuthority(t, "one")
	trust := &tls.Config{RootCAs: a.Pool(t), MinVersion: tls.VersionTLS12}
	both(t, func(t *testing.T, web bool) {
		s, g := newStates(), newGate(t, web, nil)
		f := newFront(t, g, issue(t, a, certtest.Options{}))
		f.other = issue(t, a, certtest.Options{Name: "another.example.org"})
		dialTo(t, f.address, client.Options{TLS: trust, Reconnect: s.quick()})
		for range 3 {
			s.wait(t, client.Connected)
			f.bad.Store(2)
			_ = g.connected().Close()
			s.wait(t, client.Reconnecting)
		}
		s.wait(t, client.Connected)

		// Here one address is wrong, and nobody is at the other for a while.
		s, g = newStates(), newGate(t, web, nil)
		bad := newFront(t, newGate(t, web, nil), f.other)
		r := s.quick()
		r.Addresses = []string{bad.address}
		dialTo(t, newFront(t, g, issue(t, a, certtest.Options{})).address, client.Options{TLS: trust, Reconnect: r})
		s.wait(t, client.Connected)
		g.close()
		for bad.came.Load() < 5 {
			s.wait(t, client.Reconnecting)
		}
		g.restart()
		s.wait(t, client.Connected)
	})
}
