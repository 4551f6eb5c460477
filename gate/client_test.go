package gate

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/failure"
)

// wire is a client that sends and sees bytes as they are.
type wire struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
	over transport

	decoder   codec.Decoder
	packets   []codec.Packet // read and not yet asked for
	assembler codec.Assembler
	closed    ws.StatusCode // of the close frame that came
	pongs     []string
}

// connect opens a connection, upgraded where it is a WebSocket.
func (r *rig) connect(t testing.TB, over transport) *wire {
	t.Helper()
	c, err := r.tryConnect(t, over)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (r *rig) tryConnect(t testing.TB, over transport) (*wire, error) {
	c, err := r.raw(t, over)
	if err != nil || over == overTCP {
		return c, err
	}
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	buffered, _, err := ws.Dialer{}.Upgrade(c.conn, mustURL("ws://"+r.gate.WebSocketAddress()+webSocketPath))
	if buffered != nil {
		c.in = buffered
	}
	return c, err
}

// raw opens a connection and says nothing.
func (r *rig) raw(t testing.TB, over transport) (*wire, error) {
	address := r.gate.TCPAddress()
	if over == overWebSocket {
		address = r.gate.WebSocketAddress()
	}
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &wire{t: t, conn: conn, in: bufio.NewReader(conn), over: over}, nil
}

// login is a connection after its handshake.
func (r *rig) login(t testing.TB, over transport, token string) *wire {
	t.Helper()
	c := r.connect(t, over)
	if a := c.handshake(hi(token)); a.Code != 200 {
		t.Fatalf("handshake: %+v", a)
	}
	return c
}

// hi is a handshake's JSON.
func hi(token string) string {
	user, _ := json.Marshal(map[string]string{"token": token})
	return fmt.Sprintf(`{"sys":{"version":"1.0.1","client_type":"test","fragment":true},"user":%s}`, user)
}

// welcomed is a handshake's answer.
type welcomed struct {
	Code int `json:"code"`
	Sys  struct {
		Dict       map[string]uint16 `json:"dict"`
		Heartbeat  int               `json:"heartbeat"`
		Session    string            `json:"session"`
		Resumed    bool              `json:"resumed"`
		MaxMessage int               `json:"max_message"`
	} `json:"sys"`
	User struct {
		ID int64 `json:"id"`
	} `json:"user"`
	RetryAfterMS int64 `json:"retry_after_ms"`
}

func (c *wire) handshake(body string) welcomed {
	c.t.Helper()
	c.packet(codec.Handshake, 0, []byte(body))
	return c.answer()
}

func (c *wire) answer() (a welcomed) {
	c.t.Helper()
	p := c.next()
	if p.Type != codec.HandshakeAck {
		c.t.Fatalf("got a %v %q, want the handshake's answer", p.Type, p.Body)
	}
	if err := json.Unmarshal(p.Body, &a); err != nil {
		c.t.Fatalf("%q: %v", p.Body, err)
	}
	return a
}

// bytes sends bytes: over a WebSocket in one binary frame.
func (c *wire) bytes(b []byte) {
	c.t.Helper()
	if err := c.tryBytes(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *wire) tryBytes(b []byte) error {
	_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
	if c.over == overWebSocket {
		return ws.WriteFrame(c.conn, ws.MaskFrame(ws.NewBinaryFrame(b)))
	}
	_, err := c.conn.Write(b)
	return err
}

func (c *wire) packet(t codec.PacketType, sub byte, body []byte) {
	c.t.Helper()
	c.bytes(packet(t, sub, body))
}

func packet(t codec.PacketType, sub byte, body []byte) []byte {
	b, err := codec.AppendPacket(nil, t, sub, body)
	if err != nil {
		panic(err)
	}
	return b
}

func dataPackets(m *codec.Message) []byte {
	b, err := codec.AppendMessage(nil, m)
	if err == nil {
		b, err = codec.AppendFragments(nil, b)
	}
	if err != nil {
		panic(err)
	}
	return b
}

func (c *wire) send(ms ...*codec.Message) {
	c.t.Helper()
	var b []byte
	for _, m := range ms {
		b = append(b, dataPackets(m)...)
	}
	c.bytes(b)
}

// next is the next packet. The connection's end before it fails the test.
func (c *wire) next() codec.Packet {
	c.t.Helper()
	p, err := c.read()
	if err != nil {
		c.t.Fatalf("no packet: %v", err)
	}
	return p
}

func (c *wire) read() (codec.Packet, error) {
	for len(c.packets) == 0 {
		b, err := c.some()
		if err != nil {
			return codec.Packet{}, err
		}
		err = c.decoder.Feed(b, func(p codec.Packet) error {
			p.Body = append([]byte(nil), p.Body...)
			c.packets = append(c.packets, p)
			return nil
		})
		if err != nil {
			return codec.Packet{}, err
		}
	}
	p := c.packets[0]
	c.packets = c.packets[1:]
	return p, nil
}

// some reads what is there, but not nothing.
func (c *wire) some() ([]byte, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	if c.over == overTCP {
		b := make([]byte, 64<<10)
		n, err := c.in.Read(b)
		if n > 0 { // with TLS the end may come with the last bytes, and comes again
			err = nil
		}
		return b[:n], err
	}
	for {
		h, err := ws.ReadHeader(c.in)
		if err != nil {
			return nil, err
		}
		b := make([]byte, h.Length)
		if _, err := io.ReadFull(c.in, b); err != nil {
			return nil, err
		}
		switch {
		case h.Masked || !h.Fin || h.Rsv != 0:
			return nil, fmt.Errorf("frame header %+v", h)
		case h.OpCode == ws.OpBinary:
			return b, nil
		case h.OpCode == ws.OpPong:
			c.pongs = append(c.pongs, string(b))
			return nil, nil
		case h.OpCode == ws.OpClose:
			c.closed, _ = ws.ParseCloseFrameData(b)
		default:
			return nil, fmt.Errorf("frame header %+v", h)
		}
	}
}

// message is the next message; heartbeats are passed over.
func (c *wire) message() *codec.Message {
	c.t.Helper()
	for {
		p := c.next()
		if p.Type == codec.Heartbeat {
			continue
		}
		b, done, err := c.assembler.Add(p, codec.MaxMessage)
		if err != nil || p.Type != codec.Data {
			c.t.Fatalf("got a %v %q: %v", p.Type, p.Body, err)
		}
		if !done {
			continue
		}
		m := new(codec.Message)
		if err := codec.DecodeMessage(b, m); err != nil {
			c.t.Fatal(err)
		}
		return m
	}
}

// call sends a request and returns the next message.
func (c *wire) call(m *codec.Message) *codec.Message {
	c.t.Helper()
	c.send(m)
	return c.message()
}

// failed is the code of an error, or OK.
func failed(t testing.TB, m *codec.Message) codes.Code {
	t.Helper()
	if string(m.Name) != failure.Name {
		return codes.OK
	}
	e, err := failure.Decode(m.Body, m.Data)
	if err != nil {
		t.Fatalf("%q: %v", m.Body, err)
	}
	return codes.Code(e.GetCode())
}

// ends reads on until the gate has closed, and returns the code of its Kick. It
// fails the test if that was not the last of all, or if the connection was reset.
func (c *wire) ends() string {
	c.t.Helper()
	code := ""
	for {
		p, err := c.read()
		if errors.Is(err, io.EOF) {
			return code
		}
		if err != nil {
			c.t.Fatalf("the connection ends with %v, after the kick %q", err, code)
		}
		if code != "" {
			c.t.Fatalf("a %v after the kick %q", p.Type, code)
		}
		if p.Type == codec.Kick {
			code = kickOf(c.t, p)
		}
	}
}

func kickOf(t testing.TB, p codec.Packet) string {
	t.Helper()
	var k struct {
		Code   string
		Reason string
	}
	if err := json.Unmarshal(p.Body, &k); err != nil || k.Code == "" || k.Reason == "" {
		t.Fatalf("kick %q: %v", p.Body, err)
	}
	return k.Code
}

func (c *wire) close() { _ = c.conn.Close() }
