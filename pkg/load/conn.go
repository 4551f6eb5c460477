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

// conn is one connection. It belongs to its loop.
type conn struct {
	loop     *loop
	target   *target
	fd       int
	index    int
	position int // in loop.conns
	state    state
	idle     bool
	waits    bool // for the poller to say that it can be written
	queued   bool // in pace.ready

	began     int64 // when it was opened
	seen      int64 // when anything came
	beat      int64 // when a heartbeat was sent
	heartbeat int64 // interval

	frames    frames
	decoder   codec.Decoder
	assembler codec.Assembler
	head      []byte // what came of the answer to the upgrade
	unsent    []byte

	request *request
	slots   []slot
	free    []uint16 // slots that are not in use, with a rate
	left    int      // requests that are still to be sent
	busy    int
}

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
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	c.fd = fd
	c.loop.keep(c)
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	// The end is a reset, which leaves no port behind in TIME_WAIT: the next run
	// needs them all again.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if n := c.loop.load.cfg.Addresses; n > 1 {
		local := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + c.index%n)}}
		if err := unix.Bind(fd, local); err != nil {
			return os.NewSyscallError("bind", err)
		}
	}
	var to unix.Sockaddr
	if family == unix.AF_INET {
		to = &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	} else {
		to = &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return os.NewSyscallError("connect", err)
	}
	c.waits = true
	return c.loop.poll(c, true)
}

// connected goes on when the socket has connected, or could not.
func (c *conn) connected() {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err == nil {
		c.waits = false
		err = c.loop.poll(c, false)
	}
	if err != nil {
		c.fail(os.NewSyscallError("connect", err).Error())
		return
	}
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
		c.head = append(c.head, b...)
		rest, whole, err := readUpgrade(c.head)
		if err != nil || !whole {
			return err
		}
		c.head = nil
		if c.loop.load.cfg.Bare {
			c.establish(c.loop.text, 0)
		} else {
			c.shake()
		}
		b = rest
	}
	if c.target.webSocket {
		return c.frames.feed(b, c.data, c.control)
	}
	return c.decoder.Feed(b, c.packet)
}

func (c *conn) data(b []byte) error { return c.decoder.Feed(b, c.packet) }

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
		b, whole, err := c.assembler.Add(p, codec.MaxMessage)
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
	c.seen, c.beat = l.now, l.now
	l.record(l.connecting, l.now-c.began)
	l.opening--
	l.counts.established.Add(1)
	l.counts.open.Add(1)
	l.open()
}

// look sends a heartbeat when it is time for one, and gives up who is silent.
func (c *conn) look() {
	l := c.loop
	switch {
	case c.state < active:
		if l.now-c.began > int64(l.load.cfg.Timeout) {
			c.fail("no handshake in time")
		}
	case c.heartbeat <= 0:
	case l.now-c.seen > c.heartbeat*silence/2:
		c.end("nothing came for two and a half heartbeats")
	case l.now-c.beat >= c.heartbeat-int64(lookRound)/2 && len(c.unsent) == 0:
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
	if len(c.unsent) > 0 {
		c.unsent = append(c.unsent, b...)
		return
	}
	n, err := unix.Write(c.fd, b)
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
	c.unsent = append(c.unsent, b[n:]...)
	if !c.waits {
		c.waits = true
		if err := c.loop.poll(c, true); err != nil {
			c.end(err.Error())
		}
	}
}

// flush writes what the socket did not take before.
func (c *conn) flush() {
	n, err := unix.Write(c.fd, c.unsent)
	if err != nil {
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			c.end(os.NewSyscallError("write", err).Error())
		}
		return
	}
	if c.unsent = c.unsent[n:]; len(c.unsent) > 0 {
		return
	}
	c.unsent, c.waits = nil, false
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
		_ = unix.Close(c.fd) // which takes it from the poller
	}
}
