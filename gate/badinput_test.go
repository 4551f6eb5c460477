package gate

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
)

// witness is a client that behaves well while others do not: it must not notice.
func witness(t *testing.T, r *rig) {
	t.Helper()
	c := r.login(t, overTCP, "")
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := uint64(1); ; i++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if err := c.tryBytes(dataPackets(request(i, "echo.echo", "witness"))); err != nil {
				ended <- err
				return
			}
			p, err := c.read()
			m := new(codec.Message)
			if err == nil && p.Type == codec.Data {
				err = codec.DecodeMessage(p.Body, m)
			}
			if err != nil || m.ID != i || string(m.Body) != "witness" {
				ended <- fmt.Errorf("request %d: got a %v %q, %w", i, p.Type, p.Body, err)
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		if err := <-ended; err != nil {
			t.Errorf("the client that behaves well: %v", err)
		}
	})
}

// badPackets are what a client sends after its handshake, and must not.
var badPackets = []struct {
	name string
	sent []byte
}{
	{"unknown packet type 0", []byte{0, 0, 0, 0, 0}},
	{"unknown packet type 6", []byte{6}},
	{"oversize packet", []byte{4, 1, 0, 1, 0}},
	{"largest length", []byte{4, 255, 255, 255, 0}},
	{"kick from a client", packet(codec.Kick, 0, []byte(`{"code":"kicked"}`))},
	{"handshake's answer from a client", packet(codec.HandshakeAck, 0, []byte(`{"code":200}`))},
	{"empty message", packet(codec.Data, 0, nil)},
	{"truncated message: id", packet(codec.Data, 0, []byte{0, 8, 1})},
	{"truncated message: route", packet(codec.Data, 0, []byte{0, 0, 9, 'a'})},
	{"truncated message: name", packet(codec.Data, 0, []byte{0, 0, 1, 'a', 9, 'b'})},
	{"id of 9 bytes", packet(codec.Data, 0, []byte{0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0})},
	{"code of 0 bytes", packet(codec.Data, 0, []byte{4, 0, 0, 0})},
	{"code of 3 bytes", packet(codec.Data, 0, []byte{4, 0, 3, 1, 2, 3, 0})},
	{"reserved flag bit 7", packet(codec.Data, 0, []byte{0x80, 0, 1, 'a', 0})},
	{"reserved flag bit 6", packet(codec.Data, 0, []byte{0x40, 0, 1, 'a', 0})},
	{"data type 3", packet(codec.Data, 0, []byte{3, 0, 1, 'a', 0})},
	{"response from a client", packet(codec.Data, 0, []byte{2 << 3, 1, 1, 1, 'a', 0})},
	{"push from a client", packet(codec.Data, 0, []byte{3 << 3, 0, 1, 'a', 0})},
	{"message type 5", packet(codec.Data, 0, []byte{5 << 3, 0, 1, 'a', 0})},
	{"message type 7", packet(codec.Data, 0, []byte{7 << 3, 0, 1, 'a', 0})},
	{"route that is not UTF-8", packet(codec.Data, 0, []byte{0, 0, 1, 0xff, 0})},
	{"name that is not UTF-8", packet(codec.Data, 0, []byte{0, 0, 0, 1, 0xff})},
	{"first fragment is not 0", packet(codec.Data, 0x81, []byte{0})},
	{"fragments with a gap", append(packet(codec.Data, 0x80, []byte{0}), packet(codec.Data, 0x82, nil)...)},
	{"fragment twice", append(packet(codec.Data, 0x80, []byte{0}), packet(codec.Data, 0x80, nil)...)},
	{"message between fragments", append(packet(codec.Data, 0x80, []byte{0}), packet(codec.Data, 0, []byte{0, 0, 0, 0})...)},
	{"second handshake", packet(codec.Handshake, 0, []byte(hi("")))},
}

func TestBadPackets(t *testing.T) {
	r := start(t)
	serve(t, r.bus, "echo", echo)
	witness(t, r)
	for _, x := range badPackets {
		t.Run(x.name, func(t *testing.T) {
			both(t, func(t *testing.T, over transport) {
				c := r.login(t, over, "")
				before := r.gate.stats.KickedProtocol.Load()
				c.bytes(append(dataPackets(request(1, "no-route", "")), x.sent...))
				c.packet(codec.Heartbeat, 0, nil) // behind it: must not cost the client its kick
				if m := c.message(); failed(t, m) != codes.NotFound {
					t.Errorf("what came before: got %+v", m)
				}
				if kick := c.ends(); kick != kickProtocol {
					t.Errorf("kick %q", kick)
				}
				if over == overWebSocket && c.closed != ws.StatusNormalClosure {
					t.Errorf("closed with %d", c.closed)
				}
				if n := r.gate.stats.KickedProtocol.Load(); n != before+1 {
					t.Errorf("%d kicks are counted", n-before)
				}
			})
		})
	}
}

// TestByteByByte: a client whose bytes come one at a time is served like any other.
func TestByteByByte(t *testing.T) {
	r := start(t)
	serve(t, r.bus, "echo", echo)
	c := r.connect(t, overTCP)
	b := append(packet(codec.Handshake, 0, []byte(hi(""))), dataPackets(request(1, "echo.echo", "slow"))...)
	for i := range b {
		c.bytes(b[i : i+1])
	}
	if a := c.answer(); a.Code != 200 {
		t.Fatalf("got %+v", a)
	}
	if m := c.message(); string(m.Body) != "slow" {
		t.Errorf("got %+v", m)
	}

	w, err := r.raw(t, overWebSocket)
	if err != nil {
		t.Fatal(err)
	}
	var frames bytes.Buffer
	if err := ws.WriteFrame(&frames, ws.MaskFrame(ws.NewBinaryFrame(b))); err != nil {
		t.Fatal(err)
	}
	for _, c := range append([]byte(upgradeRequest(webSocketPath)), frames.Bytes()...) {
		if _, err := w.conn.Write([]byte{c}); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := http.ReadResponse(w.in, nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %+v, %v", answer, err)
	}
	if a := w.answer(); a.Code != 200 {
		t.Fatalf("got %+v", a)
	}
	if m := w.message(); string(m.Body) != "slow" {
		t.Errorf("got %+v", m)
	}
}

// TestTrickle: a handshake that comes too slowly is none, whatever keeps coming.
func TestTrickle(t *testing.T) {
	r := start(t, func(c *Config) { c.HandshakeTimeout = 100 * time.Millisecond })
	serve(t, r.bus, "echo", echo)
	witness(t, r)
	both(t, func(t *testing.T, over transport) {
		c := r.connect(t, over)
		b := packet(codec.Handshake, 0, bytes.Repeat([]byte{' '}, 60_000))
		stop, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			ticker := time.NewTicker(10 * time.Millisecond)
			defer ticker.Stop()
			for i := range b {
				select {
				case <-ticker.C:
				case <-stop:
					return
				}
				if c.tryBytes(b[i:i+1]) != nil {
					return
				}
			}
		}()
		if p := c.next(); p.Type != codec.Kick || kickOf(t, p) != kickHeartbeat {
			t.Errorf("got a %v %q", p.Type, p.Body)
		}
		close(stop)
		<-ended
	})
}

// TestMemoryOfBadClients: thousands of bad clients leave nothing behind.
func TestMemoryOfBadClients(t *testing.T) {
	r := start(t)
	serve(t, r.bus, "echo", echo)
	witness(t, r)
	garbage := strings.Repeat("garbage!", 8<<10)
	round := func(n int) {
		for i := range n {
			over := transport(i % 2)
			c := r.connect(t, over)
			if i%8 == 0 {
				c.packet(codec.Handshake, 0, []byte(garbage))
			} else {
				c.packet(codec.Handshake, 0, []byte(hi("")))
				// Half a message, which the gate has to keep until the client is gone.
				c.packet(codec.Data, 0x80, make([]byte, codec.MaxBody))
				c.bytes(badPackets[i%20].sent) // of which none can be a further fragment
			}
			if i%3 == 0 { // without a word
				c.close()
				continue
			}
			for err := error(nil); err == nil; {
				_, err = c.read()
			}
			c.close()
		}
		eventually(t, "the bad clients are gone", func() bool { return r.gate.stats.Connections.Load() == 1 })
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	round(100)
	before := heap()
	const n = 1000
	round(n)
	// What the clients sent is 64 MiB and more; cleanups of this test hold some too.
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("the heap has grown by %d bytes over %d bad clients", grown, n)
	}
	for _, l := range r.gate.loops {
		_, err := onLoop(t.Context(), l, func() (int, error) {
			if len(l.users)+len(l.groups) != 0 || len(l.sessions) > 1 || l.busy.first != nil && len(l.sessions) == 0 {
				t.Errorf("loop %d holds %d sessions, %d users, %d groups", l.index, len(l.sessions), len(l.users), len(l.groups))
			}
			return 0, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// readAll reads what comes until the connection ends, which must not be a reset.
func readAll(t testing.TB, c *wire) string {
	t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c.in)
	if err != nil {
		t.Fatalf("after %q: %v", b, err)
	}
	return string(b)
}

func upgradeRequest(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: gate\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
}

func parseResponse(t testing.TB, s string) *http.Response {
	t.Helper()
	answer, err := http.ReadResponse(bufio.NewReader(strings.NewReader(s)), nil)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	return answer
}

// TestEveryVersionIsAnswered: also a request whose version is none of HTTP's.
func TestEveryVersionIsAnswered(t *testing.T) {
	r := start(t)
	for version, want := range map[string]int{"HTTP/1.0": 505, "HTTP/3.0": 505, "HTTP/2": 400, "HTTP/x.y": 400, "FTP/1.1": 400} {
		c, err := r.raw(t, overWebSocket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.conn.Write([]byte(strings.Replace(upgradeRequest(webSocketPath), "HTTP/1.1", version, 1))); err != nil {
			t.Fatal(err)
		}
		if a := parseResponse(t, readAll(t, c)); a.StatusCode != want {
			t.Errorf("%s: got %d, want %d", version, a.StatusCode, want)
		}
	}
}
