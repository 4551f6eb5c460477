package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"github.com/motto123/minigate/codec"
)

// conn is one connection. It belongs to its loop. What an idle one takes is counted
// (TestAnIdleConnectionIsSmall): a machine that holds a million sessions has their
// clients on it too.
type conn struct {
	loop    *loop
	target  *target
	request *request
	traffic *traffic // nil for one that sends no requests
	partial *partial // nil while there is nothing in it

	seen      int64 // when anything came
	beat      int64 // when a heartbeat was sent, and before the handshake, when it was opened
	heartbeat int64 // interval

	fd       int32
	index    int32
	position int32 // in loop.conns
	state    state
	idle     bool
	waits    bool // for the poller to say that it can be written
}

// traffic is what a connection has that sends requests.
type traffic struct {
	slots  []slot
	free   []uint16 // slots that are not in use, with a rate
	left   int      // requests that are still to be sent
	busy   int
	queued bool // in pace.ready
}

// partial is what came or went only in part.
type partial struct {
	frames    frames
	decoder   codec.Decoder
	assembler codec.Assembler
	head      []byte // what came of the answer to the upgrade
	unsent    []byte
}

func (p *partial) empty() bool {
	return p.frames.empty() && p.decoder.Buffered() == 0 && p.assembler == (codec.Assembler{}) && len(p.head) == 0 && len(p.unsent) == 0
}

// parts gives c a partial for as long as something comes or goes.
func (c *conn) parts() *partial {
	if c.partial == nil {
		c.partial, c.loop.spare = c.loop.spare, nil
		if c.partial == nil {
			c.partial = new(partial)
		}
	}
	return c.partial
}

// settle takes it away again when there is nothing in it.
func (c *conn) settle() {
	if c.partial != nil && c.partial.empty() {
		c.loop.spare, c.partial = c.partial, nil
	}
}

// hasUnsent reports whether the socket has not taken everything yet.
func (c *conn) hasUnsent() bool { return c.partial != nil && len(c.partial.unsent) > 0 }

type state uint8

const (
	connecting state = iota
	upgrading
	shaking
	active
	closed
)

// silence is how many heartbeats may stay away, in halves.
const silence = 5

var errHandshake = errors.New("load: malformed handshake")

// connect begins to connect.
func (c *conn) connect() error {
	a := c.target.address
	family := unix.AF_INET6
	if a.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := newSocket(family)
	if err != nil {
		return err
	}
	c.fd = int32(fd)
	c.loop.keep(c)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if n := c.loop.load.cfg.Addresses; n > 1 {
		if err := bind(fd, [4]byte{127, 0, 0, byte(1 + int(c.index)%n)}); err != nil {
			return err
		}
	}
	var to unix.Sockaddr
	if family == unix.AF_INET {
		to = &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	} else {
		to = &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	err = unix.Connect(fd, to)
	if errors.Is(err, unix.EINPROGRESS) {
		c.waits = true
		return c.loop.poll(c, true)
	}
	if err != nil {
		return os.NewSyscallError("connect", err)
	}
	// To this machine it is done at once.
	if err := c.loop.poll(c, false); err != nil {
		return err
	}
	c.greet()
	return nil
}

// connected goes on when the socket has connected, or could not.
func (c *conn) connected() {
	code, err := unix.GetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err == nil {
		err = c.loop.poll(c, false)
	}
	if err != nil {
		c.fail(os.NewSyscallError("connect", err).Error())
		return
	}
	c.greet()
}

// greet sends the first bytes.
func (c *conn) greet() {
	c.waits = false
	l := c.loop
	l.out = l.out[:0]
	switch {
	case c.target.webSocket:
		c.state = upgrading
		l.out = appendUpgrade(l.out, c.target)
	case l.load.cfg.Bare:
		c.establish(l.text, 0)
		return
	default:
		c.shake()
	}
	c.write(l.out)
}

// shake appends the handshake.
func (c *conn) shake() {
	c.state = shaking
	l := c.loop
	l.scratch = append(l.scratch[:0], l.load.hello...)
	l.appendPackets(c, l.scratch)
}

// appendPackets leaves packets to be written to c.
func (l *loop) appendPackets(c *conn, packets []byte) {
	if c.target.webSocket {
		l.out = appendFrame(l.out, ws.OpBinary, packets)
	} else {
		l.out = append(l.out, packets...)
	}
}

// received takes what came, in any cut.
func (c *conn) received(b []byte) error {
	if c.state == upgrading {
		p := c.parts()
		p.head = append(p.head, b...)
		rest, whole, err := readUpgrade(p.head)
		if err != nil || !whole {
			return err
		}
		p.head = nil
		if c.loop.load.cfg.Bare {
			c.establish(c.loop.text, 0)
		} else {
			c.shake()
		}
		b = rest
	}
	if c.target.webSocket {
		return c.parts().frames.feed(b, c.data, c.control)
	}
	return c.data(b)
}

func (c *conn) data(b []byte) error { return c.parts().decoder.Feed(b, c.packet) }

func (c *conn) control(op ws.OpCode, payload []byte) error {
	switch op {
	case ws.OpPing:
		c.loop.out = appendFrame(c.loop.out, ws.OpPong, payload)
	case ws.OpClose:
		code, _ := ws.ParseCloseFrameData(payload)
		return fmt.Errorf("closed by the gate with %d", code)
	}
	return nil
}

func (c *conn) packet(p codec.Packet) error {
	l := c.loop
	switch {
	case p.Type == codec.Kick:
		var kick struct {
			Code string `json:"code"`
		}
		if err := json.Unmarshal(p.Body, &kick); err != nil {
			return fmt.Errorf("malformed kick: %w", err)
		}
		l.kicks[kick.Code]++
		return fmt.Errorf("kicked: %s", kick.Code)
	case c.state == shaking:
		return c.welcome(p)
	case p.Type == codec.Heartbeat:
	case p.Type == codec.Data:
		b, whole, err := c.parts().assembler.Add(p, codec.MaxMessage)
		if err != nil || !whole {
			return err
		}
		return c.message(b)
	default:
		return fmt.Errorf("unexpected %v packet", p.Type)
	}
	return nil
}

// welcome reads the answer to the handshake.
func (c *conn) welcome(p codec.Packet) error {
	if p.Type != codec.HandshakeAck {
		return errHandshake
	}
	var in struct {
		Code int `json:"code"`
		Sys  struct {
			Dictionary json.RawMessage `json:"dict"`
			Heartbeat  float64         `json:"heartbeat"` // seconds
		} `json:"sys"`
	}
	if err := json.Unmarshal(p.Body, &in); err != nil {
		return errors.Join(errHandshake, err)
	}
	if in.Code != 200 {
		return fmt.Errorf("handshake answered with %d", in.Code)
	}
	r := c.loop.text
	if len(in.Sys.Dictionary) > 0 {
		var err error
		if r, err = c.loop.routeOf(in.Sys.Dictionary); err != nil {
			return errors.Join(errHandshake, err)
		}
	}
	c.establish(r, int64(in.Sys.Heartbeat*float64(time.Second)))
	return nil
}

func (c *conn) establish(r *request, heartbeat int64) {
	l := c.loop
	c.state, c.request, c.heartbeat = active, r, heartbeat
	l.record(l.connecting, l.now-c.beat)
	c.seen, c.beat = l.now, l.now
	l.heartbeats(heartbeat)
	l.opening--
	l.counts.established.Add(1)
	l.counts.open.Add(1)
}

// look sends a heartbeat when it is time for one, and gives up who is silent.
func (c *conn) look() {
	l := c.loop
	switch {
	case c.state < active:
		if l.now-c.beat > int64(l.load.cfg.Timeout) {
			c.fail("no handshake in time")
		}
	case c.heartbeat <= 0:
	case l.now-c.seen > c.heartbeat*silence/2:
		c.end("nothing came for two and a half heartbeats")
	case l.now-c.beat >= c.heartbeat-int64(l.round)/2 && !c.hasUnsent():
		c.beat = l.now
		l.scratch = codec.BeginPacket(l.scratch[:0], codec.Heartbeat, 0)
		l.out = l.out[:0]
		l.appendPackets(c, l.scratch)
		c.write(l.out)
	}
}

// write writes b; what the socket does not take is kept. That is bounded by what
// may be in flight, and heartbeats wait for it.
func (c *conn) write(b []byte) {
	if c.hasUnsent() {
		c.partial.unsent = append(c.partial.unsent, b...)
		return
	}
	n, err := unix.Write(int(c.fd), b)
	if err != nil {
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			c.end(os.NewSyscallError("write", err).Error())
			return
		}
		n = 0
	}
	if n == len(b) {
		return
	}
	p := c.parts()
	p.unsent = append(p.unsent, b[n:]...)
	if !c.waits {
		c.waits = true
		if err := c.loop.poll(c, true); err != nil {
			c.end(err.Error())
		}
	}
}

// flush writes what the socket did not take before.
func (c *conn) flush() {
	p := c.partial
	n, err := unix.Write(int(c.fd), p.unsent)
	if err != nil {
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			c.end(os.NewSyscallError("write", err).Error())
		}
		return
	}
	if p.unsent = p.unsent[n:]; len(p.unsent) > 0 {
		return
	}
	p.unsent, c.waits = nil, false
	c.settle()
	if err := c.loop.poll(c, false); err != nil {
		c.end(err.Error())
	}
}

// end counts a connection that the other side has ended.
func (c *conn) end(reason string) {
	if c.state < active {
		c.fail(reason)
		return
	}
	if c.state == active {
		c.loop.ends[reason]++
		c.close()
	}
}

// fail counts a connection that did not come to be.
func (c *conn) fail(reason string) {
	l := c.loop
	l.refusals[reason]++
	l.opening--
	l.counts.failed.Add(1)
	c.close()
}

func (c *conn) close() {
	if c.state == closed {
		return
	}
	l := c.loop
	if c.state == active {
		l.counts.open.Add(-1)
	}
	c.state = closed
	l.abandon(c)
	if c.fd > 0 {
		l.forget(c)
		// The end is a reset, which leaves no port behind in TIME_WAIT: the next run
		// needs them all again.
		_ = unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		_ = unix.Close(int(c.fd)) // which takes it from the poller
	}
	c.partial = nil
}
