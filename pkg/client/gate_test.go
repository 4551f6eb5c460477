package client_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"go.uber.org/goleak"

	"github.com/motto123/minigate/codec"
)

// What runs already was begun by the packages of the real gate.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreCurrent()) }

// gate is a server that says what a test wants.
type gate struct {
	t        testing.TB
	listener net.Listener
	web      bool
	welcome  string // the answer to the handshake
	// serve handles each message that comes; nil echoes.
	serve func(c *conn, m *codec.Message)

	mu    sync.Mutex
	hello map[string]any // the last handshake
	next  []string       // answers to the next handshakes, before welcome
	conns []*conn
	wait  sync.WaitGroup
	ready chan *conn // each connection, after its handshake
}

const welcome = `{"code":200,"sys":{"dict":{"test.coded":7,"chat.message":300},"heartbeat":30,"session":"secret","max_message":1048576},"user":{"id":42}}`

func newGate(t testing.TB, web bool, serve func(*conn, *codec.Message)) *gate {
	t.Helper()
	g := listen(web, serve)
	g.t = t
	t.Cleanup(g.close)
	return g
}

// listen returns a gate that its caller closes.
func listen(web bool, serve func(*conn, *codec.Message)) *gate {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	g := &gate{listener: l, web: web, welcome: welcome, serve: serve, ready: make(chan *conn, 16)}
	g.wait.Go(g.accept)
	return g
}

func (g *gate) close() {
	_ = g.listener.Close()
	g.mu.Lock()
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.mu.Unlock()
	g.wait.Wait()
}

// restart listens again where a gate did that was closed.
func (g *gate) restart() {
	g.t.Helper()
	l, err := net.Listen("tcp", g.listener.Addr().String())
	if err != nil {
		g.t.Fatal(err)
	}
	g.listener = l
	g.wait.Go(g.accept)
}

// answers are to the next handshakes.
func (g *gate) answers(next ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next = next
}

// connections is how many were made.
func (g *gate) connections() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// token is of the last handshake.
func (g *gate) token() string {
	user, _ := g.lastHello()["user"].(map[string]any)
	token, _ := user["token"].(string)
	return token
}

func (g *gate) address() string {
	if g.web {
		return fmt.Sprintf("ws://%s/ws", g.listener.Addr())
	}
	return fmt.Sprintf("tcp://%s", g.listener.Addr())
}

func (g *gate) accept() {
	for {
		raw, err := g.listener.Accept()
		if err != nil {
			return
		}
		c := &conn{Conn: raw, gate: g}
		g.mu.Lock()
		g.conns = append(g.conns, c)
		g.mu.Unlock()
		g.wait.Go(func() {
			defer c.Close()
			c.run()
		})
	}
}

func (g *gate) lastHello() map[string]any {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hello
}

// connected waits for the next connection.
func (g *gate) connected() *conn {
	g.t.Helper()
	select {
	case c := <-g.ready:
		return c
	case <-time.After(10 * time.Second):
		g.t.Fatal("nobody connects")
		return nil
	}
}

// conn is the gate's end of a connection.
type conn struct {
	net.Conn
	gate *gate

	mu        sync.Mutex
	fragments codec.Assembler
	beats     int
}

func (c *conn) run() {
	if c.gate.web {
		if _, err := (ws.Upgrader{}).Upgrade(c.Conn); err != nil {
			return
		}
	}
	var packets codec.Decoder
	buffer := make([]byte, 64<<10)
	for {
		n, err := c.readSome(buffer)
		if err != nil {
			return
		}
		if err := packets.Feed(buffer[:n], c.packet); err != nil {
			return
		}
	}
}

func (c *conn) readSome(b []byte) (int, error) {
	if !c.gate.web {
		return c.Conn.Read(b)
	}
	for {
		h, err := ws.ReadHeader(c.Conn)
		if err != nil {
			return 0, err
		}
		if !h.Masked || h.Length > int64(len(b)) && h.OpCode.IsControl() {
			return 0, errors.New("a client masks")
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(c.Conn, payload); err != nil {
			return 0, err
		}
		ws.Cipher(payload, h.Mask, 0)
		switch h.OpCode {
		case ws.OpBinary:
			if len(payload) > len(b) { // big ones are a stream as well
				var packets codec.Decoder
				return 0, packets.Feed(payload, c.packet)
			}
			return copy(b, payload), nil
		case ws.OpPong:
			c.mu.Lock()
			c.beats++
			c.mu.Unlock()
		case ws.OpClose:
			return 0, io.EOF
		}
	}
}

func (c *conn) packet(p codec.Packet) error {
	switch p.Type {
	case codec.Handshake:
		hello := map[string]any{}
		if err := json.Unmarshal(p.Body, &hello); err != nil {
			return err
		}
		c.gate.mu.Lock()
		c.gate.hello = hello
		answer := c.gate.welcome
		if len(c.gate.next) > 0 {
			answer, c.gate.next = c.gate.next[0], c.gate.next[1:]
		}
		c.gate.mu.Unlock()
		c.send(codec.HandshakeAck, 0, []byte(answer))
		select {
		case c.gate.ready <- c:
		default:
		}
	case codec.Heartbeat:
		c.mu.Lock()
		c.beats++
		c.mu.Unlock()
		c.send(codec.Heartbeat, 0, nil)
	case codec.Data:
		b, whole, err := c.fragments.Add(p, codec.MaxMessage)
		if err != nil || !whole {
			return err
		}
		var m codec.Message
		if err := codec.DecodeMessage(b, &m); err != nil {
			return err
		}
		if c.gate.serve != nil {
			c.gate.serve(c, &m)
			return nil
		}
		c.reply(&m, string(m.Name), m.Data, m.Body)
	}
	return nil
}

// reply answers m.
func (c *conn) reply(m *codec.Message, name string, data codec.DataType, body []byte) {
	answer := *m
	answer.Type, answer.Name, answer.Data, answer.Body = codec.Response, []byte(name), data, body
	c.message(&answer)
}

func (c *conn) message(m *codec.Message) {
	b, err := codec.AppendMessage(nil, m)
	if err != nil {
		panic(err)
	}
	b, err = codec.AppendFragments(nil, b)
	if err != nil {
		panic(err)
	}
	c.raw(b)
}

func (c *conn) send(t codec.PacketType, sub uint8, body []byte) {
	b, err := codec.AppendPacket(nil, t, sub, body)
	if err != nil {
		panic(err)
	}
	c.raw(b)
}

// raw writes bytes of the stream; a client that is gone is no fault here.
func (c *conn) raw(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gate.web {
		_, _ = c.Conn.Write(b)
		return
	}
	// In two frames, cut anywhere, with a ping between them.
	half := len(b) / 3
	_ = wsutil.WriteServerBinary(c.Conn, b[:half])
	_ = wsutil.WriteServerMessage(c.Conn, ws.OpPing, []byte("?"))
	_ = wsutil.WriteServerBinary(c.Conn, b[half:])
}

func (c *conn) heard() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.beats
}
