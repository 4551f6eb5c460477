// Package tlsloop runs crypto/tls on an event loop: bytes of the peer go in as they
// come, cut anyhow, and plaintext and bytes for the peer come out. No connection has
// a goroutine, and one that is idle has no buffer.
//
// It refuses to know sockets, and to wait: who has the socket feeds what is there
// and writes what it gets. Records, keys and certificates are crypto/tls's alone.
//
// How it works. While a handshake goes on, crypto/tls can not be interrupted: an
// error of its connection is for good. So it runs in a coroutine (iter.Pull), which
// is resumed where it asks for bytes, and ends with the handshake. Afterwards an
// error that is Temporary leaves crypto/tls as it was, in the middle of a record,
// too, and the next call goes on there; so reading is an ordinary call. buffers.go
// says where the memory goes.
package tlsloop

import (
	"crypto/tls"
	"errors"
	"io"
	"iter"
	"net"
	"slices"
	"time"
)

// ErrHandshake says that there are no keys yet to write with.
var ErrHandshake = errors.New("the TLS handshake is not over")

// Conn is one end of a TLS connection. Its methods are called one at a time, from
// any goroutine; but a goroutine that is locked to its thread makes all calls of a
// handshake that it has begun.
type Conn struct {
	tls   *tls.Conn
	phase phase
	err   error // for good

	// Of a handshake only.
	resume func() (struct{}, bool)
	cancel func()
	yield  func(struct{}) bool

	// Of a call only; nothing is kept that a caller has given.
	in, out []byte
}

type phase uint8

const (
	fresh phase = iota
	handshaking
	established
	ended // err says how
)

// Server returns the end of a server. cfg is not changed by it, and serves any
// number of connections.
func Server(cfg *tls.Config) *Conn {
	c := new(Conn)
	c.tls = tls.Server((*wire)(c), cfg)
	return c
}

// Client returns the end of a client, which begins with a Feed of nothing.
func Client(cfg *tls.Config) *Conn {
	c := new(Conn)
	c.tls = tls.Client((*wire)(c), cfg)
	return c
}

// Feed takes bytes of the peer. It appends what they say to plain and what is to be
// sent to the peer to out, and returns both; in may be used again. An error is for
// good: what is in out is to be sent, and the connection to be ended. It is io.EOF
// where the peer has ended its side as it should, and net.ErrClosed after Close.
//
// Plaintext is never more than the ciphertext, of this call and of the record that
// it completes, 16 KiB at most. A handshake computes for about half a millisecond in
// one of the calls, or longer with RSA keys.
func (c *Conn) Feed(plain, out, in []byte) ([]byte, []byte, error) {
	c.in, c.out = in, out
	switch c.phase {
	case fresh, handshaking:
		if !c.handshake() {
			break
		}
		fallthrough
	case established:
		b := borrow(c.tls)
		plain = c.read(plain)
		b.giveBack()
	}
	out, c.in, c.out = c.out, nil, nil
	return plain, out, c.err
}

// handshake goes on with it, and reports whether it is over and was good.
func (c *Conn) handshake() bool {
	if c.phase == fresh {
		c.resume, c.cancel = iter.Pull(func(yield func(struct{}) bool) {
			c.yield = yield
			c.err = c.tls.Handshake()
		})
		c.phase = handshaking
	}
	if _, more := c.resume(); more {
		return false
	}
	c.resume, c.cancel, c.yield = nil, nil, nil
	c.phase = established
	if c.err != nil {
		c.phase = ended
	}
	return c.err == nil
}

// read appends to plain what the records say that are there.
func (c *Conn) read(plain []byte) []byte {
	for {
		if len(plain) == cap(plain) {
			plain = slices.Grow(plain, 512)
		}
		n, err := c.tls.Read(plain[len(plain):cap(plain)])
		plain = plain[:len(plain)+n]
		if errors.Is(err, errWouldBlock) {
			return plain
		}
		if err != nil {
			c.phase, c.err = ended, err
			return plain
		}
	}
}

// Write appends to out what tells the peer plain, and returns it. plain may be used
// again.
func (c *Conn) Write(out, plain []byte) ([]byte, error) {
	switch c.phase {
	case fresh, handshaking:
		return out, ErrHandshake // crypto/tls would wait for the handshake
	case ended:
		return out, c.err
	}
	c.out = out
	if _, err := c.tls.Write(plain); err != nil {
		c.phase, c.err = ended, err
	}
	out, c.out = c.out, nil
	return out, c.err
}

// Close appends to out what tells the peer that nothing more will come, and returns
// it; there is nothing to tell without a handshake, or after an error. Each Conn
// must be closed: a handshake that does not come to an end would stay for good.
func (c *Conn) Close(out []byte) []byte {
	if c.phase == handshaking {
		c.cancel()
		c.resume, c.cancel, c.yield = nil, nil, nil
	}
	if c.phase == established || c.phase == ended && errors.Is(c.err, io.EOF) {
		c.out = out
		_ = c.tls.Close() // wire does not fail
		out, c.out = c.out, nil
	}
	c.phase, c.err = ended, net.ErrClosed
	return out
}

// Buffered is how many bytes are held of a record, or of a message of TLS itself, whose
// rest has not come. A handshake holds more than that; it is not told.
func (c *Conn) Buffered() (n int) {
	if c.phase != established {
		return 0
	}
	for _, f := range [...]field{records, messages} {
		if b := f.of(c.tls); b != nil {
			n += b.Len()
		}
	}
	return n
}

// Established reports whether the handshake is over and the connection in use.
func (c *Conn) Established() bool { return c.phase == established }

// State is what crypto/tls knows of the connection, once it is established.
func (c *Conn) State() tls.ConnectionState { return c.tls.ConnectionState() }

// wire is the connection that crypto/tls sees.
type wire Conn

// errWouldBlock says that everything was read that is there.
var errWouldBlock net.Error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "no more bytes yet" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true } // by which crypto/tls goes on with the next call

func (w *wire) Read(p []byte) (int, error) {
	for len(w.in) == 0 {
		if w.phase != handshaking {
			return 0, errWouldBlock
		}
		if !w.yield(struct{}{}) {
			return 0, net.ErrClosed
		}
	}
	n := copy(p, w.in)
	w.in = w.in[n:]
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	w.out = append(w.out, p...)
	return len(p), nil
}

func (w *wire) Close() error                     { return nil }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
func (w *wire) LocalAddr() net.Addr              { return nowhere{} }
func (w *wire) RemoteAddr() net.Addr             { return nowhere{} }

// nowhere is the address of both ends: whoever has the socket knows better.
type nowhere struct{}

func (nowhere) Network() string { return "tls" }
func (nowhere) String() string  { return "an event loop" }
