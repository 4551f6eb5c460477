package gate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
)

// session is one client's connection and who it is. It does not know its
// transport, and belongs to its loop's thread: no other may touch it.
type session struct {
	id   uint64
	loop *loop
	conn conn

	state     state
	transport transport
	fragment  bool           // the client takes fragments
	data      codec.DataType // of the client's last message: what it speaks
	known     uint16         // codes of the dictionary that the client has
	user      int64

	decoder   codec.Decoder
	assembler codec.Assembler
	held      []byte // packets that came while the token was being verified

	sequence uint32    // of the last request
	half     int32     // bytes of what has only begun, as counted: see unfinished.go
	envelope uint64    // that holds the last request, so that the order is kept
	pending  []pending // requests that wait for their replies; nil while none does
	tokens   float32   // of the rate limit
	tokensAt int64     // when tokens was counted

	lastSeen    int64 // when anything came from the client
	connectedAt int64
	out         []byte // to be written at the end of this turn at the latest; nil while nothing is

	latest     *latest // nil unless the client is slow
	groups     []string
	secret     [16]byte // the session as the client knows it
	address    netip.Addr
	clientType string

	wheelNext, wheelPrevious *session
	busyNext, busyPrevious   *session
	wheelSlot                int16
	inWheel, isBusy, isDirty bool
	counted, byAddress       bool // against the limits of connections, and of those of one address
	// Why nothing is read from the client: see backpressure.
	isFull, isRefused, isHeld, isLeaving bool
}

// state is how far a session has come.
type state uint8

const (
	opened    state = iota // waits for the handshake
	verifying              // waits for whose token it is
	active
	closing // all is said and it is nobody's: what comes is thrown away until the client closes
	closed
)

// transport names what carries a session, for people.
type transport uint8

const (
	overTCP transport = iota
	overWebSocket
)

func (t transport) String() string {
	if t == overWebSocket {
		return "websocket"
	}
	return "tcp"
}

// conn is what a session needs of its transport. Its methods are called on the
// session's loop.
type conn interface {
	// write takes all of b, which may be used again afterwards; what the socket
	// does not take now waits in buffered.
	write(b []byte)
	buffered() int
	// resume goes on reading, which stops while the session is not wanted.
	resume()
	// finish closes the sending side once all is written, so that the client gets
	// to read the last words instead of a reset.
	finish()
	// close closes at once. It ends in a call of session.disconnected.
	close()
}

// errStop ends the decoding of what a session does not want any more.
var errStop = errors.New("gate: session takes no more")

// lingerMillis is how long a finished session may take to close its side.
const lingerMillis = 2000

// flushBytes is how much may wait for the end of the turn: a turn can bring many
// large messages, to many sessions.
const flushBytes = 64 << 10

// init begins the session of a connection that was opened.
func (s *session) init(l *loop, c conn, t transport, address netip.Addr) {
	*s = session{
		loop: l, conn: c, transport: t, address: address, data: codec.Protobuf,
		lastSeen: l.now, connectedAt: l.now, tokensAt: l.now,
		tokens: float32(l.gate.cfg.Limits.RequestsPerSecond),
	}
	l.add(s)
	l.wheel.put(s, l.now+l.gate.cfg.HandshakeTimeout.Milliseconds())
}

// received takes bytes from the transport, in any cut. b is not kept.
func (s *session) received(b []byte) {
	if s.state >= closing {
		return
	}
	s.lastSeen = s.loop.now
	err := s.decoder.Feed(b, s.packet)
	if err == nil && !s.holdsHalf(s.decoder.Buffered()) {
		err = errUnfinished
	}
	if err != nil && !errors.Is(err, errStop) {
		s.kick(kickProtocol, err.Error())
	}
}

// packet handles one packet. An error ends the decoding.
func (s *session) packet(p codec.Packet) error {
	switch s.state {
	case opened:
		if p.Type != codec.Handshake {
			return fmt.Errorf("the first packet is a %v, not a handshake", p.Type)
		}
		s.handshake(p.Body)
		return s.stopped()
	case verifying:
		return s.hold(p)
	case active:
		if s.isFull || len(s.held) > 0 {
			if s.mayHold(p) {
				return s.hold(p)
			}
			if p.Type == codec.Data && p.Sub != 0 { // what belongs to it waits, or will
				s.loop.gate.measures.hit(limitUnfinished)
				return errUnfinished
			}
		}
		return s.activePacket(p)
	default:
		return errStop
	}
}

func (s *session) activePacket(p codec.Packet) error {
	switch p.Type {
	case codec.Heartbeat:
		s.write(codec.Heartbeat, nil)
	case codec.Data:
		g := s.loop.gate
		held := s.assembler.Buffered()
		message, done, err := s.assembler.Add(p, g.cfg.Limits.Message)
		room := g.holds(held, s.assembler.Buffered())
		if err != nil {
			if errors.Is(err, codec.ErrMessageSize) {
				g.measures.hit(limitMessage)
			}
			return err
		}
		if done {
			return s.message(message)
		}
		if !room {
			return errUnfinished
		}
	case codec.Handshake:
		return errors.New("a second handshake")
	default:
		return fmt.Errorf("a %v packet from a client", p.Type)
	}
	return s.stopped()
}

func (s *session) message(b []byte) error {
	var m codec.Message
	if err := codec.DecodeMessage(b, &m); err != nil {
		return err
	}
	if !m.Type.FromClient() {
		return fmt.Errorf("a %v message from a client", m.Type)
	}
	if m.Type != codec.Ack { // an Ack has no data, and so nothing to say of its form
		s.data = m.Data
	}
	s.publish(&m)
	return s.stopped()
}

// stopped is errStop when the last packet ended the session.
func (s *session) stopped() error {
	if s.state >= closing {
		return errStop
	}
	return nil
}

// write puts one packet behind what this turn already leaves to be written. Its
// body is never over codec.MaxBody.
func (s *session) write(t codec.PacketType, body []byte) {
	out, err := codec.AppendPacket(s.begin(), t, 0, body)
	if err != nil {
		s.log().WithError(err).Error("write " + t.String())
		return
	}
	s.out = out
}

// begin is the write buffer of this turn. Whoever appends to it sets s.out.
func (s *session) begin() []byte {
	if s.out == nil {
		s.out = s.loop.buffer()
	}
	if !s.isDirty {
		s.isDirty = true
		s.loop.dirty = append(s.loop.dirty, s)
	}
	return s.out
}

// flushLarge does not wait for the end of the turn with very much. Whoever calls it
// may find the session closed afterwards.
func (s *session) flushLarge() {
	if len(s.out) >= flushBytes {
		s.flush()
	}
}

// flush gives the transport what this turn left to be written. What may wait there
// is the write queue and one flush: a client that reads is not cut off because of
// one large message.
func (s *session) flush() {
	s.isDirty = false
	if s.out == nil {
		return
	}
	if s.state < closing && s.tooSlow() {
		s.cutOff()
	}
	out := s.out
	if out == nil { // cutOff has closed it
		return
	}
	s.out = nil
	if len(out) > 0 {
		s.conn.write(out)
	}
	s.loop.recycle(out)
	if s.state == closing { // and not closed, if the write failed
		s.conn.finish()
	}
}

// expired is called by the wheel when something was to have come by now.
func (s *session) expired() {
	g := s.loop.gate
	switch s.state {
	case opened, verifying:
		due := s.connectedAt + g.cfg.HandshakeTimeout.Milliseconds()
		if s.state == verifying {
			// Verify has a deadline of its own; this one only guards the loop.
			due += g.cfg.RequestTimeout.Milliseconds()
		}
		if s.loop.now < due {
			s.loop.wheel.put(s, due)
			return
		}
		g.measures.hit(limitHandshakeTime)
		// Not a fault of the client's, who may come back.
		s.kick(kickHeartbeat, fmt.Sprintf("no handshake within %v", g.cfg.HandshakeTimeout))
	case active:
		if !s.wanted() { // what it says now is not read
			s.lastSeen = s.loop.now
		}
		due := s.lastSeen + g.silence.Milliseconds()
		if s.loop.now < due {
			s.loop.wheel.put(s, due)
			return
		}
		s.kick(kickHeartbeat, fmt.Sprintf("nothing came within %v", g.silence))
	case closing:
		s.conn.close()
	}
}

// end makes the session one that only waits for its client to go. The reason is for
// session.closed.
func (s *session) end(reason string) {
	if s.state >= closing {
		return
	}
	if s.isFull || s.isRefused || s.isHeld || s.isLeaving {
		s.loop.answered = append(s.loop.answered, s) // its end is to be read
	}
	s.state = closing
	s.leave(reason)
	s.loop.wheel.put(s, s.loop.now+lingerMillis)
}

// leave makes the session nobody's, and lets go of all that it held.
func (s *session) leave(reason string) {
	l := s.loop
	if user := s.user; user != 0 {
		l.unbind(s)
		l.gate.users.unbound(user)
		l.gate.sessionClosed(context.Background(), s.id, user, reason)
	}
	s.leaveGroups()
	s.forgetLatest()
	l.busy.remove(s)
	l.gate.holds(s.assembler.Buffered()+len(s.held)+int(s.half), 0)
	for i := range s.pending {
		s.endTrace(&s.pending[i], codes.Canceled)
	}
	s.pending, s.held, s.half = nil, nil, 0
	s.decoder, s.assembler = codec.Decoder{}, codec.Assembler{}
}

func (s *session) leaveGroups() {
	for _, group := range s.groups {
		s.loop.leave(s, group)
	}
	s.groups = nil
}

// disconnected is called by the transport, once, when the connection is gone.
func (s *session) disconnected() {
	if s.state == closed {
		return
	}
	if s.state < closing {
		s.leave("closed")
	}
	s.state = closed
	s.loop.remove(s)
	s.loop.gate.forget(s.address, s.counted, s.byAddress)
}
