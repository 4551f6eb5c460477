package gate

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
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
	conn := tls.Client(c.conn, cfg)
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

// TestTLSRefused: who does not speak TLS, or not to this certificate, ends with a line
// in the log; a handshake that does not go on, with its time.
func TestTLSRefused(t *testing.T) {
	a := certtest.NewAuthority(t, "authority")
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
			if !log.has(x.line) || !log.has("127.0.0.1") {
				t.Errorf("the log says %q", log.out.String())
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
	if !log.has("too many TLS handshakes") || r.gate.stats.HandshakesFull.Load() != 1 {
		t.Errorf("the log says %q", log.out.String())
	}
	for _, c := range []*wire{first, third} {
		c.close()
	}
	eventually(t, "there is room again", func() bool { return r.gate.secure.Load() == 0 })
	if a := second.handshake(hi("")); a.Code != 200 {
		t.Errorf("got %+v", a)
	}
}
