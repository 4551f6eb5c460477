package gate

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/motto123/minigate/codec"
)

// TestNoUpgrade: what is no WebSocket gets an HTTP answer that can be read.
func TestNoUpgrade(t *testing.T) {
	r := start(t)
	serve(t, r.bus, "echo", echo)
	witness(t, r)
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: gate\r\n\r\n" }
	for _, x := range []struct {
		name, sent string
		status     int
	}{
		{"no upgrade", get("/ws"), http.StatusBadRequest},
		{"wrong path", upgradeRequest("/other"), http.StatusNotFound},
		{"longer path", upgradeRequest("/ws/more"), http.StatusNotFound},
		{"root", get("/"), http.StatusNotFound},
		{"request over HTTP", "POST /v1/auth.login HTTP/1.1\r\nHost: gate\r\nContent-Length: 2\r\n\r\n{}", http.StatusNotImplemented},
		{"stream", get("/v1/stream"), http.StatusNotImplemented},
		{"POST", "POST /ws HTTP/1.1\r\nHost: gate\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", http.StatusMethodNotAllowed},
		{"not HTTP", "hello\r\n\r\n", http.StatusBadRequest},
		{"a packet", string(packet(codec.Handshake, 0, []byte("\r\n\r\n"))), http.StatusBadRequest},
		{"old version", strings.Replace(upgradeRequest("/ws"), "13", "8", 1), http.StatusUpgradeRequired},
		{"no key", strings.Replace(upgradeRequest("/ws"), "Sec-WebSocket-Key", "X-Key", 1), http.StatusBadRequest},
		{"no host", strings.Replace(upgradeRequest("/ws"), "Host", "X-Host", 1), http.StatusBadRequest},
		{"long header", "GET /ws HTTP/1.1\r\nX: " + strings.Repeat("x", 10<<10), http.StatusRequestHeaderFieldsTooLarge},
		{"long whole header", "GET /ws HTTP/1.1\r\nX: " + strings.Repeat("x", 10<<10) + "\r\n\r\n", http.StatusRequestHeaderFieldsTooLarge},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, err := r.raw(t, overWebSocket)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.conn.Write([]byte(x.sent)); err != nil {
				t.Fatal(err)
			}
			answer := parseResponse(t, readAll(t, c))
			if answer.StatusCode != x.status {
				t.Errorf("status %d, want %d", answer.StatusCode, x.status)
			}
			if answer.Header.Get("Content-Type") != "application/json" {
				return
			}
			var body struct {
				Code    int
				Message string
			}
			if err := json.NewDecoder(answer.Body).Decode(&body); err != nil || body.Code != x.status || body.Message == "" {
				t.Errorf("body %+v, %v", body, err)
			}
		})
	}
	t.Run("501 is JSON", func(t *testing.T) {
		c, err := r.raw(t, overWebSocket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.conn.Write([]byte("POST /v1/x HTTP/1.1\r\nHost: gate\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if a := parseResponse(t, readAll(t, c)); a.Header.Get("Content-Type") != "application/json" {
			t.Errorf("got %+v", a)
		}
	})
}

// TestNoRequest: a connection on which no HTTP request comes ends in an HTTP answer.
func TestNoRequest(t *testing.T) {
	r := start(t, func(c *Config) { c.HandshakeTimeout = 50 * time.Millisecond })
	for _, sent := range []string{"", "GET /ws HT"} {
		c, err := r.raw(t, overWebSocket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.conn.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		if a := parseResponse(t, readAll(t, c)); a.StatusCode != http.StatusRequestTimeout {
			t.Errorf("after %q: got %+v", sent, a)
		}
	}
}

// frameBytes is a frame of a client, masked, with a changed header.
func frameBytes(op ws.OpCode, payload []byte, change func(*ws.Header)) []byte {
	f := ws.MaskFrame(ws.NewFrame(op, true, payload))
	if change != nil {
		change(&f.Header)
	}
	var b bytes.Buffer
	if err := ws.WriteFrame(&b, f); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func TestBadFrames(t *testing.T) {
	r := start(t)
	serve(t, r.bus, "echo", echo)
	witness(t, r)
	unmasked := func(h *ws.Header) { h.Masked = false }
	notFinal := func(h *ws.Header) { h.Fin = false }
	for _, x := range []struct {
		name string
		sent []byte
		code ws.StatusCode
	}{
		{"text", frameBytes(ws.OpText, []byte(`{"type":"handshake"}`), nil), ws.StatusUnsupportedData},
		{"unmasked", frameBytes(ws.OpBinary, []byte("x"), unmasked), ws.StatusProtocolError},
		{"unmasked ping", frameBytes(ws.OpPing, nil, unmasked), ws.StatusProtocolError},
		{"reserved bit 1", frameBytes(ws.OpBinary, nil, func(h *ws.Header) { h.Rsv = ws.Rsv(true, false, false) }), ws.StatusProtocolError},
		{"reserved bit 3", frameBytes(ws.OpBinary, nil, func(h *ws.Header) { h.Rsv = ws.Rsv(false, false, true) }), ws.StatusProtocolError},
		{"reserved code 3", frameBytes(3, nil, nil), ws.StatusProtocolError},
		{"reserved code 11", frameBytes(11, nil, nil), ws.StatusProtocolError},
		{"oversized ping", frameBytes(ws.OpPing, make([]byte, 126), nil), ws.StatusProtocolError},
		{"ping in parts", frameBytes(ws.OpPing, nil, notFinal), ws.StatusProtocolError},
		{"continuation of nothing", frameBytes(ws.OpContinuation, nil, nil), ws.StatusProtocolError},
		{"new frame between parts", append(frameBytes(ws.OpBinary, nil, notFinal), frameBytes(ws.OpBinary, nil, nil)...), ws.StatusProtocolError},
		{"length with its highest bit", []byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, ws.StatusProtocolError},
		{"close of one byte", frameBytes(ws.OpClose, []byte{3}, nil), ws.StatusProtocolError},
		{"close with code 1005", frameBytes(ws.OpClose, []byte{0x03, 0xed}, nil), ws.StatusProtocolError},
		{"close", frameBytes(ws.OpClose, nil, nil), ws.StatusNormalClosure},
		{"close with 1001", frameBytes(ws.OpClose, ws.NewCloseFrameBody(ws.StatusGoingAway, "bye"), nil), ws.StatusGoingAway},
		{"close with 4000", frameBytes(ws.OpClose, ws.NewCloseFrameBody(4000, ""), nil), 4000},
	} {
		t.Run(x.name, func(t *testing.T) {
			for _, active := range []bool{false, true} {
				c := r.connect(t, overWebSocket)
				if active {
					c.handshake(hi(""))
				}
				if _, err := c.conn.Write(append(x.sent, frameBytes(ws.OpPing, nil, nil)...)); err != nil {
					t.Fatal(err)
				}
				if kick := c.ends(); kick != "" || c.closed != x.code || len(c.pongs) != 0 {
					t.Errorf("kick %q, closed with %d, want %d; pongs %q", kick, c.closed, x.code, c.pongs)
				}
			}
		})
	}
}

// TestFrames: packets in frames in every cut, with control frames between.
func TestFrames(t *testing.T) {
	r := start(t)
	serve(t, r.bus, "echo", echo)
	stream := packet(codec.Handshake, 0, []byte(hi("")))
	stream = append(stream, dataPackets(request(1, "echo.echo", "one"))...)
	stream = append(stream, dataPackets(request(2, "echo.echo", strings.Repeat("two", 30_000)))...)
	stream = append(stream, packet(codec.Heartbeat, 0, nil)...)
	for _, size := range []int{1, 7, 100, 125, 126, 127, 4096, len(stream)} {
		if size == 1 && testing.Short() {
			continue
		}
		c := r.connect(t, overWebSocket)
		var b []byte
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			// One message of three frames: RFC 6455, 5.4 lets control frames between.
			third := n / 3
			b = append(b, frameBytes(ws.OpBinary, rest[:third], func(h *ws.Header) { h.Fin = false })...)
			b = append(b, frameBytes(ws.OpPong, []byte("unasked"), nil)...)
			b = append(b, frameBytes(ws.OpContinuation, rest[third:2*third], func(h *ws.Header) { h.Fin = false })...)
			b = append(b, frameBytes(ws.OpContinuation, rest[2*third:n], nil)...)
			rest = rest[n:]
		}
		b = append(b, frameBytes(ws.OpPing, []byte("are you there"), nil)...)
		go func() { _, _ = c.conn.Write(b) }()
		if a := c.answer(); a.Code != 200 {
			t.Fatalf("frames of %d: %+v", size, a)
		}
		for range 2 {
			if m := c.message(); failed(t, m) != 0 || m.ID == 2 && len(m.Body) != 90_000 {
				t.Errorf("frames of %d: got %+v", size, m)
			}
		}
		for len(c.pongs) == 0 {
			if _, err := c.some(); err != nil {
				t.Fatal(err)
			}
		}
		if c.pongs[0] != "are you there" {
			t.Errorf("pongs %q", c.pongs)
		}
		c.close()
	}
}
