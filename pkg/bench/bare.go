package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/gobwas/ws"
	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"

	"github.com/motto123/minigate/codec"
)

// bare is the least that a server on gnet can be: over TCP it writes back what it
// reads, over WebSocket it does so frame by frame. What a gate does beside that is
// what it costs. At a line on its input it writes one push to all connections.
type bare struct {
	gnet.BuiltinEventEngine
	webSocket bool
	address   string
	engine    gnet.Engine

	buffers sync.Pool

	mu    sync.Mutex
	conns map[gnet.EventLoop]map[gnet.Conn]struct{}
}

// serveBare serves on a port of its own, which it prints, until ctx ends.
func serveBare(ctx context.Context, webSocket bool, in io.Reader) error {
	// gnet does not say which port it was given.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("bench: bare server: %w", err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return fmt.Errorf("bench: bare server: %w", err)
	}
	b := &bare{webSocket: webSocket, address: address, conns: make(map[gnet.EventLoop]map[gnet.Conn]struct{})}
	b.buffers.New = func() any { return new(bytes.Buffer) }
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = b.engine.Stop(context.WithoutCancel(ctx))
	})
	go func() { // ends with the process: nothing else ends a read
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			b.push()
		}
		cancel() // so that no server outlives the one who started it
	}()
	err = gnet.Run(b, "tcp://"+address, gnet.WithMulticore(true), gnet.WithLogLevel(logging.ErrorLevel))
	if !stop() {
		<-stopped
	}
	return err
}

// listening is what a bare server prints before its address.
const listening = "listening on "

func (b *bare) OnBoot(e gnet.Engine) gnet.Action {
	b.engine = e
	if _, err := fmt.Fprintln(os.Stdout, listening+b.address); err != nil {
		return gnet.Shutdown
	}
	return gnet.None
}

func (b *bare) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.conns[c.EventLoop()]
	if of == nil {
		of = make(map[gnet.Conn]struct{})
		b.conns[c.EventLoop()] = of
	}
	of[c] = struct{}{}
	return nil, gnet.None
}

func (b *bare) OnClose(c gnet.Conn, _ error) gnet.Action {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns[c.EventLoop()], c)
	return gnet.None
}

func (b *bare) OnTraffic(c gnet.Conn) gnet.Action {
	in, err := c.Peek(-1)
	if err != nil {
		return gnet.Close
	}
	n := len(in)
	if b.webSocket {
		n, err = b.frames(c, in)
	} else {
		_, err = c.Write(in)
	}
	if err == nil {
		_, err = c.Discard(n)
	}
	if err != nil {
		return gnet.Close
	}
	return gnet.None
}

// upgraded marks a connection on which frames come.
type upgraded struct{}

// frames answers the whole frames at the beginning of in, and says how much of it
// they are.
func (b *bare) frames(c gnet.Conn, in []byte) (done int, err error) {
	out, ok := b.buffers.Get().(*bytes.Buffer)
	if !ok {
		out = new(bytes.Buffer)
	}
	defer b.buffers.Put(out)
	out.Reset()
	if c.Context() == nil {
		end := bytes.Index(in, []byte("\r\n\r\n"))
		if end < 0 {
			return 0, nil
		}
		done = end + 4
		if _, err := ws.Upgrade(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(in[:done]), out}); err != nil {
			return 0, err
		}
		c.SetContext(upgraded{})
	}
	r := bytes.NewReader(in[done:])
	for r.Len() > 0 {
		h, err := ws.ReadHeader(r)
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || err == nil && int64(r.Len()) < h.Length {
			break
		}
		if err != nil {
			return 0, err
		}
		at := len(in) - r.Len()
		payload := in[at : at+int(h.Length)]
		ws.Cipher(payload, h.Mask, 0)
		if err := ws.WriteHeader(out, ws.Header{Fin: true, OpCode: h.OpCode, Length: h.Length}); err != nil {
			return 0, err
		}
		_, _ = out.Write(payload) // a bytes.Buffer
		done = at + len(payload)
		r.Reset(in[done:])
	}
	if out.Len() > 0 {
		_, err = c.Write(out.Bytes())
	}
	return done, err
}

// push writes a push to all connections, on their loops.
func (b *bare) push() {
	packet := pushPacket()
	if b.webSocket {
		header := []byte{0x82, 126}
		packet = append(binary.BigEndian.AppendUint16(header, uint16(len(packet))), packet...)
	}
	b.mu.Lock()
	loops := make(map[gnet.EventLoop][]gnet.Conn)
	for loop, conns := range b.conns {
		for c := range conns {
			loops[loop] = append(loops[loop], c)
		}
	}
	b.mu.Unlock()
	for loop, conns := range loops {
		_ = loop.Execute(context.Background(), task(func() {
			for _, c := range conns {
				_, _ = c.Write(packet) // an error closes the connection by itself
			}
		}))
	}
}

type task func()

func (f task) Run(context.Context) error { f(); return nil }

// pushPacket is a push of 200 bytes, as a gate would write it.
func pushPacket() []byte {
	m := codec.Message{Type: codec.Push, Data: codec.Protobuf, Route: []byte(pushRoute), Body: make([]byte, payload)}
	b := codec.BeginPacket(nil, codec.Data, 0)
	b, err := codec.AppendMessage(b, &m)
	if err == nil {
		b, err = codec.EndPacket(b, 0)
	}
	if err != nil {
		return nil // a constant message: a test would see it
	}
	return b
}
