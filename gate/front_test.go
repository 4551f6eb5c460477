package gate

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/logging/loggingtest"
)

// logged has a gate log where the test can look.
func logged() (*loggingtest.Lines, func(*Config)) {
	log, l := loggingtest.New()
	return l, func(c *Config) { c.Log = log }
}

func trust(c *Config) { c.ProxyFrom = append(c.ProxyFrom, netip.MustParsePrefix("127.0.0.0/8")) }

// TestProxyHeader: behind a proxy that is trusted, a client has the address that the
// proxy says, however the header is cut.
func TestProxyHeader(t *testing.T) {
	r := start(t, withUsers(t), trust, func(c *Config) { c.Limits.Connections, c.Limits.ConnectionsPerIP = 100, 2 })
	seen := serve(t, r.bus, "seen", nil)
	header := func(source string) []byte {
		return []byte("PROXY TCP4 " + source + " 10.0.0.1 5000 7001\r\n")
	}
	both(t, func(t *testing.T, over transport) {
		for _, cut := range []int{0, 1, 10, len(header("203.0.113.7"))} {
			c, err := r.raw(t, over)
			if err != nil {
				t.Fatal(err)
			}
			sent := header("203.0.113.7")
			if over == overWebSocket {
				sent = append(sent, upgradeRequest(webSocketPath)...)
			}
			if _, err := c.conn.Write(sent[:cut]); err != nil {
				t.Fatal(err)
			}
			if _, err := c.conn.Write(sent[cut:]); err != nil {
				t.Fatal(err)
			}
			if over == overWebSocket {
				answer, err := http.ReadResponse(c.in, nil)
				if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
					t.Fatalf("got %+v, %v", answer, err)
				}
			}
			if a := c.handshake(hi("")); a.Code != 200 {
				t.Fatalf("got %+v", a)
			}
			c.send(request(1, "seen.it", ""))
			if a := seen.next(); netip.AddrFrom4([4]byte(a.Address)) != netip.MustParseAddr("203.0.113.7") {
				t.Errorf("the service sees %v", a.Address)
			}
			c.close()
			eventually(t, "it is gone", func() bool { return r.gate.stats.Connections.Load() == 0 })
		}
	})
	// The limit of connections of one address is of the client's.
	tcp := func(source string) welcomed {
		c, err := r.raw(t, overTCP)
		if err != nil {
			t.Fatal(err)
		}
		c.bytes(header(source))
		return c.handshake(hi(""))
	}
	for i, want := range []int{200, 200, 503} {
		if a := tcp("203.0.113.9"); a.Code != want {
			t.Errorf("connection %d of one address: got %+v", i, a)
		}
	}
	if a := tcp("203.0.113.10"); a.Code != 200 {
		t.Errorf("another address: got %+v", a)
	}
}

// TestProxyHeaderRefused: a header from somebody who is not trusted, and none from
// somebody who is, end the connection, and the log says why.
func TestProxyHeaderRefused(t *testing.T) {
	for name, x := range map[string]struct {
		change func(*Config)
		sent   string
		line   string
	}{
		"not trusted, v1": {func(*Config) {}, "PROXY TCP4 203.0.113.7 10.0.0.1 5000 7001\r\n", "not trusted to send one"},
		"not trusted, v2": {func(*Config) {}, "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + strings.Repeat("x", 12), "not trusted to send one"},
		"none":            {trust, string(packet(codec.Handshake, 0, []byte(hi("")))), "sent no PROXY header"},
		"malformed":       {trust, "PROXY TCP4 203.0.113.777 10.0.0.1 5000 7001\r\n", "sent no PROXY header"},
	} {
		t.Run(name, func(t *testing.T) {
			log, logs := logged()
			r := start(t, x.change, logs)
			both(t, func(t *testing.T, over transport) {
				c, err := r.raw(t, over)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.conn.Write([]byte(x.sent)); err != nil {
					t.Fatal(err)
				}
				_ = c.conn.SetReadDeadline(time.Now().Add(patience))
				if b, _ := io.ReadAll(c.conn); len(b) > 0 { // or a reset
					t.Errorf("got %q", b)
				}
			})
			if !log.Has(x.line) || !log.Has("127.0.0.1") {
				t.Errorf("the log says %q", log.String())
			}
			eventually(t, "they are gone", func() bool { return r.gate.stats.Connections.Load() == 0 })
		})
	}
}

// TestOrigins: pages of other hosts may connect only where it is said.
func TestOrigins(t *testing.T) {
	log, logs := logged()
	strict := start(t, logs, func(c *Config) { c.Origins = Origins{"https://chat.example.org"} })
	loose := start(t, func(c *Config) { c.Origins = Origins{"*"} })
	for _, x := range []struct {
		rig    *rig
		origin string
		status int
	}{
		{strict, "", http.StatusSwitchingProtocols},
		{strict, "https://gate", http.StatusSwitchingProtocols}, // the Host of upgradeRequest
		{strict, "https://CHAT.example.org", http.StatusSwitchingProtocols},
		{strict, "http://chat.example.org", http.StatusForbidden},
		{strict, "https://evil.example", http.StatusForbidden},
		{strict, "https://gate.evil.example", http.StatusForbidden},
		{strict, "null", http.StatusForbidden},
		{loose, "https://evil.example", http.StatusSwitchingProtocols},
	} {
		c, err := x.rig.raw(t, overWebSocket)
		if err != nil {
			t.Fatal(err)
		}
		sent := upgradeRequest(webSocketPath)
		if x.origin != "" {
			sent = strings.Replace(sent, "\r\n\r\n", "\r\nOrigin: "+x.origin+"\r\n\r\n", 1)
		}
		if _, err := c.conn.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		_ = c.conn.SetReadDeadline(time.Now().Add(patience))
		answer, err := http.ReadResponse(c.in, nil)
		if err != nil || answer.StatusCode != x.status {
			t.Errorf("from %q: got %+v, %v", x.origin, answer, err)
		}
		c.close()
	}
	if !log.Has("chat.example.org") || !log.Has("may not connect") {
		t.Errorf("the log says %q", log.String())
	}
	for text, ok := range map[string]bool{
		"": true, "*": true, "https://a.example, http://b.example:8080": true,
		"a.example": false, "https://a.example/path": false, "https://": false, ",": false,
	} {
		if err := new(Origins).Set(text); (err == nil) != ok {
			t.Errorf("Set(%q): %v", text, err)
		}
	}
}
