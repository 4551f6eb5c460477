package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/gobwas/ws"
)

// transport carries packets as a stream of bytes. One goroutine reads while
// another writes.
type transport interface {
	// Read reads bytes of packets.
	Read(b []byte) (int, error)
	// Write writes control as it is and then the packets; it may change both.
	Write(packets, control []byte) error
	// Goodbye tells the other side that the connection ends.
	Goodbye() error
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	Close() error
}

type tcp struct{ net.Conn }

func dialTCP(ctx context.Context, u *url.URL, opts Options) (transport, error) {
	conn, err := opts.Dialer.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "tls" {
		secure := tls.Client(conn, opts.tlsConfig(u.Hostname()))
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("TLS handshake: %w", err), conn.Close())
		}
		conn = secure
	}
	return tcp{conn}, nil
}

// tlsConfig is the configuration for a gate of this name.
func (o *Options) tlsConfig(host string) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.TLS != nil {
		cfg = o.TLS.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	return cfg
}

func (t tcp) Write(packets, _ []byte) error {
	_, err := t.Conn.Write(packets)
	return err
}

func (t tcp) Goodbye() error { return nil }

// webSocket carries the stream in binary frames (RFC 6455), whose borders mean
// nothing.
type webSocket struct {
	net.Conn
	source  *bufio.Reader      // the connection
	control func(frame []byte) // takes a frame to write
	header  [ws.MaxHeaderSize]byte
	frame   net.Buffers // control, header and payload in one write
	head    []byte

	remaining int64 // of the binary frame that is being read
}

func dialWebSocket(ctx context.Context, u *url.URL, opts Options, control func([]byte)) (transport, error) {
	address := u.String()
	dialer := ws.Dialer{NetDial: opts.Dialer.DialContext, TLSConfig: opts.tlsConfig(u.Hostname())}
	conn, ahead, _, err := dialer.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	if ahead == nil { // nothing came together with the answer
		ahead = bufio.NewReaderSize(conn, readBuffer)
	}
	return &webSocket{Conn: conn, source: ahead, control: control}, nil
}

func (w *webSocket) Read(b []byte) (int, error) {
	for w.remaining == 0 {
		if err := w.next(); err != nil {
			return 0, err
		}
	}
	n, err := w.source.Read(b[:min(int64(len(b)), w.remaining)])
	w.remaining -= int64(n)
	return n, err
}

// next reads the header of the next frame, and a control frame whole.
func (w *webSocket) next() error {
	h, err := ws.ReadHeaderBuffer(w.source, w.header[:])
	if err != nil {
		return err
	}
	switch {
	case h.Masked || h.Rsv != 0:
		return fmt.Errorf("%w: a masked frame or an extension nobody asked for", ErrProtocol)
	case h.OpCode == ws.OpBinary || h.OpCode == ws.OpContinuation:
		w.remaining = h.Length
		return nil
	case !h.OpCode.IsControl():
		return fmt.Errorf("%w: frame with opcode %d", ErrProtocol, h.OpCode)
	case h.Length > ws.MaxControlFramePayloadSize || !h.Fin:
		return fmt.Errorf("%w: control frame of %d bytes", ErrProtocol, h.Length)
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(w.source, payload); err != nil {
		return err
	}
	switch h.OpCode {
	case ws.OpPing:
		pong, err := ws.CompileFrame(ws.MaskFrameInPlace(ws.NewPongFrame(payload)))
		if err != nil {
			return err
		}
		w.control(pong)
	case ws.OpClose:
		return io.EOF
	}
	return nil
}

func (w *webSocket) Write(packets, control []byte) error {
	w.frame = w.frame[:0]
	if len(control) > 0 {
		w.frame = append(w.frame, control)
	}
	if len(packets) > 0 {
		mask := ws.NewMask()
		ws.Cipher(packets, mask, 0)
		w.head = appendHeader(w.head[:0], len(packets), mask)
		w.frame = append(w.frame, w.head, packets)
	}
	frames := w.frame // WriteTo takes it apart
	_, err := frames.WriteTo(w.Conn)
	return err
}

// appendHeader appends the header of a masked binary frame: ws.WriteHeader
// allocates.
func appendHeader(b []byte, n int, mask [4]byte) []byte {
	const final, masked = 0x80, 0x80
	b = append(b, final|byte(ws.OpBinary))
	switch {
	case n < 126:
		b = append(b, masked|byte(n))
	case n < 1<<16:
		b = append(b, masked|126, byte(n>>8), byte(n))
	default:
		b = append(b, masked|127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return append(b, mask[:]...)
}

func (w *webSocket) Goodbye() error {
	frame := ws.MaskFrameInPlace(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))
	return ws.WriteFrame(w.Conn, frame)
}
