package gate

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/certificates/certtest"
)

// secured has a gate serve TLS with a certificate of an authority, from files in a
// folder.
func secured(t testing.TB, a *certtest.Authority, dir string) func(*Config) {
	files := a.Write(t, dir, certtest.Options{Name: "gate"})
	return func(c *Config) {
		c.TLS.Cert, c.TLS.Key, c.TLS.Every = files.Cert, files.Key, 10*time.Millisecond
	}
}

// strict is a connection of which only TLS says that it ends: crypto/tls takes an end
// between two records for one, too, which could be anybody's doing.
type strict struct{ net.Conn }

var errCut = errors.New("the connection ends without a word of TLS")

func (s strict) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		err = errCut
	}
	return n, err
}

// overTLS is a client of a gate with TLS.
func (r *rig) overTLS(t testing.TB, over transport, cfg *tls.Config, before []byte) (*wire, *tls.Conn) {
	t.Helper()
	c, err := r.raw(t, over)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.conn.Write(before); err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(strict{c.conn}, cfg)
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	c.conn, c.in = conn, bufio.NewReader(conn)
	if over == overWebSocket {
		buffered, _, err := ws.Dialer{}.Upgrade(conn, mustURL("ws://gate"+webSocketPath))
		if err != nil {
			t.Fatal(err)
		}
		if buffered != nil {
			c.in = buffered
		}
	}
	return c, conn
}

// TestTLS: everything goes over TLS as it does without, also behind a proxy; and the
// end is said.
func TestTLS(t *testing.T) {
	a := certtest.NewAuthority(t, "authority")
	cfg := &tls.Config{RootCAs: a.Pool(t), ServerName: "gate", MinVersion: tls.VersionTLS12}
	old := cfg.Clone()
	old.MaxVersion = tls.VersionTLS12
	r := start(t, secured(t, a, t.TempDir()), trust, func(c *Config) { c.Limits.WriteQueue = 100_000 })
	s := serve(t, r.bus, "echo", echo)
	asks := serve(t, r.bus, "a", nil)
	header := []byte("PROXY TCP4 203.0.113.7 10.0.0.1 5000 7001\r\n")
	both(t, func(t *testing.T, over transport) {
		for _, cfg := range []*tls.Config{cfg, old} {
			c, _ := r.overTLS(t, over, cfg, header)
			if a := c.handshake(hi("")); a.Code != 200 {
				t.Fatalf("got %+v", a)
			}
			for i, size := range []int{0, 1, 16 << 10, 300_000} {
				body := strings.Repeat("x", size)
				if m := c.call(request(uint64(i), "echo.echo", body)); string(m.Body) != body {
					t.Fatalf("got %d bytes of %d", len(m.Body), size)
				}
			}
			c.send(request(9, "a.b", ""))
			q := asks.next()
			push := &bus.Reply{Session: q.Session, Route: "a.push", Data: make([]byte, 60_000)}
			kicked := r.gate.stats.KickedSlow.Load()
			eventually(t, "the session is kicked", func() bool {
				s.reply(q.gate, push)
				return r.gate.stats.KickedSlow.Load() == kicked+1
			})
			code := ""
			for {
				p, err := c.read()
				if err != nil {
					if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
						t.Errorf("the end is %v", err)
					}
					break
				}
				if p.Type == codec.Kick {
					code = kickOf(t, p)
				}
			}
			if code != kickSlow {
				t.Errorf("kick %q", code)
			}
			c.close()
		}
	})
	eventually(t, "all are gone", func() bool { return r.gate.stats.Connections.Load() == 0 && r.gate.unsent.Load() == 0 })
}

// TestEndOverTLS: a gate that ends answers what it has read, sends its clients away and
// says that this is the end, in TLS's words too: who is cut off finds none of it.
func TestEndOverTLS(t *testing.T) {
	a := certtest.NewAuthority(t, "authority")
	cfg := &tls.Config{RootCAs: a.Pool(t), ServerName: "gate", MinVersion: tls.VersionTLS12}
	old := cfg.Clone()
	old.MaxVersion = tls.VersionTLS12
	r := start(t, secured(t, a, t.TempDir()), func(c *Config) { c.RetryAfter = time.Second })
	s := serve(t, r.bus, "a", nil)
	var clients []*wire
	for _, over := range []transport{overTCP, overWebSocket} {
		for _, cfg := range []*tls.Config{cfg, old} {
			for range 2 {
				c, _ := r.overTLS(t, over, cfg, nil)
				if a := c.handshake(hi("")); a.Code != 200 {
					t.Fatalf("got %+v", a)
				}
				clients = append(clients, c)
			}
		}
	}
	busy, idle := 0, 1 // of each two
	for i := busy; i < len(clients); i += 2 {
		clients[i].send(request(7, "a.b", "in flight"))
	}
	var requests []asked
	for range len(clients) / 2 {
		requests = append(requests, s.next())
	}
	half, err := r.raw(t, overTCP) // in its TLS handshake
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are connected", func() bool { return r.gate.secure.Load() == 1 })
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	for i := idle; i < len(clients); i += 2 {
		sentAway(t, clients[i])
	}
	for _, q := range requests {
		echo(s, q)
	}
	for i := busy; i < len(clients); i += 2 {
		if m := clients[i].message(); m.ID != 7 || string(m.Body) != "in flight" {
			t.Errorf("client %d: got %+v", i, m)
		}
		sentAway(t, clients[i])
	}
	if b, err := io.ReadAll(half.conn); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("who has no keys yet got %q, %v", b, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// sentAway: the next is a Kick with a time to come back, and then nothing but the end.
func sentAway(t *testing.T, c *wire) {
	t.Helper()
	p := c.next()
	var k kickBody
	if err := json.Unmarshal(p.Body, &k); err != nil || p.Type != codec.Kick || k.Code != kickDraining || k.RetryAfterMS <= 0 {
		t.Errorf("got a %v %q, %v", p.Type, p.Body, err)
	}
	if p, err := c.read(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the kick: got a %v, %v", p.Type, err)
	}
	if c.over == overWebSocket && c.closed != ws.StatusNormalClosure {
		t.Errorf("the close frame has status %d", c.closed)
	}
	c.close()
}

// TestTLSRefused: who does not speak TLS, or not to this certificate, ends with a line
// in the log; a handshake that does not go on, with its time.
func TestTLSRefused(t *testing.T) {
	a := certtest.NewAuthority(t, "authority")
	later := func() time.Time { return time.Now().Add(2 * time.Hour) }
	for name, x := range map[string]struct {
		talk func(net.Conn) error
		line string
	}{
		"a plain client": {func(c net.Conn) error {
			_, err := c.Write(packet(codec.Handshake, 0, []byte(hi(""))))
			return err
		}, "does not look like a TLS handshake"},
		"plain HTTP": {func(c net.Conn) error {
			_, err := c.Write([]byte(upgradeRequest(webSocketPath)))
			return err
		}, "TLS handshake"},
		"another authority": {func(c net.Conn) error {
			other := certtest.NewAuthority(t, "another")
			err := tls.Client(c, &tls.Config{RootCAs: other.Pool(t), ServerName: "gate"}).Handshake()
			if err == nil {
				return errors.New("a certificate of another authority is taken")
			}
			return nil
		}, "bad certificate"},
		"an expired certificate": {func(c net.Conn) error {
			err := tls.Client(c, &tls.Config{RootCAs: a.Pool(t), ServerName: "gate", Time: later}).Handshake()
			if err == nil || !strings.Contains(err.Error(), "expired") {
				return fmt.Errorf("a certificate that is over: %w", err)
			}
			return nil
		}, "bad certificate"},
		"an old version": {func(c net.Conn) error {
			err := tls.Client(c, &tls.Config{RootCAs: a.Pool(t), ServerName: "gate", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).Handshake()
			if err == nil {
				return errors.New("TLS 1.1 is taken")
			}
			return nil
		}, "unsupported versions"},
	} {
		t.Run(name, func(t *testing.T) {
			log, logs := logged()
			r := start(t, secured(t, a, t.TempDir()), logs)
			both(t, func(t *testing.T, over transport) {
				c, err := r.raw(t, over)
				if err != nil {
					t.Fatal(err)
				}
				_ = c.conn.SetDeadline(time.Now().Add(patience))
				if err := x.talk(c.conn); err != nil {
					t.Error(err)
				}
				if b, err := io.ReadAll(c.conn); len(b) > 100 || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %q, %v", b, err)
				}
			})
			if !log.Has(x.line) || !log.Has("127.0.0.1") {
				t.Errorf("the log says %q", log.String())
			}
			eventually(t, "they are gone", func() bool { return r.gate.stats.Connections.Load() == 0 })
		})
	}
	t.Run("silence", func(t *testing.T) {
		r := start(t, secured(t, a, t.TempDir()), func(c *Config) { c.HandshakeTimeout = 50 * time.Millisecond })
		both(t, func(t *testing.T, over transport) {
			for _, sent := range []string{"", "\x16\x03\x01\x02\x00\x01\x00"} {
				c, err := r.raw(t, over)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.conn.Write([]byte(sent)); err != nil {
					t.Fatal(err)
				}
				_ = c.conn.SetDeadline(time.Now().Add(patience))
				if _, err := io.ReadAll(c.conn); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("it goes on")
				}
			}
		})
		eventually(t, "they are gone", func() bool { return r.gate.stats.Connections.Load() == 0 })
	})
}

// TestRenewedUnderLoad: a renewed certificate is shown to who connects, and whoever
// is connected notices nothing.
func TestRenewedUnderLoad(t *testing.T) {
	a := certtest.NewAuthority(t, "authority")
	cfg := &tls.Config{RootCAs: a.Pool(t), ServerName: "gate", MinVersion: tls.VersionTLS12}
	dir := t.TempDir()
	r := start(t, secured(t, a, dir))
	serve(t, r.bus, "echo", echo)
	stop := make(chan struct{})
	var load sync.WaitGroup
	var first *tls.Conn
	for i := range 8 {
		c, conn := r.overTLS(t, transport(i%2), cfg, nil)
		first = conn
		if a := c.handshake(hi("")); a.Code != 200 {
			t.Fatalf("got %+v", a)
		}
		load.Go(func() {
			for n := uint64(0); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := c.tryBytes(dataPackets(request(n, "echo.echo", "under load"))); err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				p, err := c.read()
				if err != nil || !bytes.Contains(p.Body, []byte("under load")) {
					t.Errorf("client %d: %v", i, err)
					return
				}
			}
		})
	}
	serial := first.ConnectionState().PeerCertificates[0].SerialNumber
	a.Write(t, dir, certtest.Options{Name: "gate"})
	eventually(t, "a new connection sees the new certificate", func() bool {
		c, conn := r.overTLS(t, overTCP, cfg, nil)
		defer c.close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Cmp(serial) != 0
	})
	close(stop)
	load.Wait()
}

// TestTLSHandshakesAtOnce: more TLS handshakes at once than there may be are closed,
// and those that are over, or gone, make room.
func TestTLSHandshakesAtOnce(t *testing.T) {
	a := certtest.NewAuthority(t, "authority")
	cfg := &tls.Config{RootCAs: a.Pool(t), ServerName: "gate", MinVersion: tls.VersionTLS12}
	log, logs := logged()
	r := start(t, secured(t, a, t.TempDir()), logs, func(c *Config) { c.Limits.Handshakes = 2 })
	first, err := r.raw(t, overTCP)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first is in its handshake", func() bool { return r.gate.secure.Load() == 1 })
	second, _ := r.overTLS(t, overTCP, cfg, nil)
	eventually(t, "the second is over it", func() bool { return r.gate.secure.Load() == 1 })
	third, err := r.raw(t, overTCP)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "two are in their handshake", func() bool { return r.gate.secure.Load() == 2 })
	fourth, err := r.raw(t, overTCP)
	if err != nil {
		t.Fatal(err)
	}
	_ = fourth.conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadAll(fourth.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("one too many goes on")
	}
	if !log.Has("too many TLS handshakes") || r.gate.stats.HandshakesFull.Load() != 1 {
		t.Errorf("the log says %q", log.String())
	}
	for _, c := range []*wire{first, third} {
		c.close()
	}
	eventually(t, "there is room again", func() bool { return r.gate.secure.Load() == 0 })
	if a := second.handshake(hi("")); a.Code != 200 {
		t.Errorf("got %+v", a)
	}
}
