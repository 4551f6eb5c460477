package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/gobwas/ws"

	"github.com/motto123/minigate/codec"
)

// rawClient is a connection after its handshake, whose two directions have nothing
// to do with each other.
type rawClient struct {
	conn    net.Conn
	in      io.Reader
	web     bool
	decoder codec.Decoder
	left    int64         // of the WebSocket frame that is being read
	cut     chan struct{} // closed when writing has failed
}

// kickedError is what the gate said before it closed.
type kickedError struct{ code, reason string }

func (k *kickedError) Error() string { return "kicked: " + k.code + ": " + k.reason }

var errEnough = errors.New("enough")

// dialRaw connects. What waits in the kernel is kept small, since it is not the
// kernel's memory that is tested.
func dialRaw(address string) (*rawClient, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialTimeout("tcp", u.Host, patience)
	if err != nil {
		return nil, err
	}
	c := &rawClient{conn: conn, in: conn, web: u.Scheme == "ws", cut: make(chan struct{})}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if tcp, ok := conn.(*net.TCPConn); ok {
		err = errors.Join(tcp.SetWriteBuffer(64<<10), tcp.SetReadBuffer(64<<10))
	}
	if c.web && err == nil {
		var ahead *bufio.Reader
		ahead, _, err = ws.Dialer{}.Upgrade(conn, u)
		if ahead != nil {
			c.in = ahead
		}
	}
	if err == nil {
		err = c.handshake()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, conn.SetDeadline(time.Time{})
}

func (c *rawClient) handshake() error {
	hello, err := codec.AppendPacket(nil, codec.Handshake, 0, []byte(`{"sys":{"version":"1.0.0","fragment":true}}`))
	if err == nil {
		err = c.write(hello)
	}
	if err == nil {
		err = c.packets(0, func(p codec.Packet) error {
			if p.Type != codec.HandshakeAck || !bytes.Contains(p.Body, []byte(`"code":200`)) {
				return fmt.Errorf("handshake: %q", p.Body)
			}
			return errEnough
		})
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

func (c *rawClient) write(b []byte) error {
	if c.web {
		b = ws.MustCompileFrame(ws.MaskFrame(ws.NewBinaryFrame(b)))
	}
	_, err := c.conn.Write(b)
	return err
}

// packets reads packets until it fails, with a pause after each read.
func (c *rawClient) packets(pause time.Duration, each func(codec.Packet) error) error {
	b := make([]byte, 16<<10)
	for {
		n, err := c.some(b)
		if err == nil {
			err = c.decoder.Feed(b[:n], func(p codec.Packet) error {
				if p.Type == codec.Kick {
					var k struct{ Code, Reason string }
					return errors.Join(json.Unmarshal(p.Body, &k), &kickedError{k.Code, k.Reason})
				}
				return each(p)
			})
		}
		if err != nil {
			return err
		}
		if pause > 0 {
			time.Sleep(pause)
		}
	}
}

func (c *rawClient) some(b []byte) (int, error) {
	for c.web && c.left == 0 {
		h, err := ws.ReadHeader(c.in)
		if err != nil {
			return 0, err
		}
		if h.OpCode == ws.OpClose {
			return 0, io.EOF
		}
		c.left = h.Length
	}
	if !c.web {
		return c.in.Read(b)
	}
	n, err := c.in.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	return n, err
}

// close has the kernel forget what it still holds.
func (c *rawClient) close() {
	if tcp, ok := c.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.conn.Close()
}
