package codec

const (
	// MaxFragments is how many fragments a message may have: the index has 7 bits.
	MaxFragments = 128
	// MaxMessage is therefore the largest message there can be, in bytes.
	MaxMessage = MaxFragments * MaxBody
)

// The subpackage of a Data packet. 0x00 is a whole message.
//
//	  7      6 5 4 3 2 1 0
//	+------+---------------+
//	| more | index, from 0 |
//	+------+---------------+
const (
	fragmentMore  = 0x80
	fragmentIndex = 0x7f
)

// AppendFragments appends message as Data packets: one with subpackage 0 where
// it fits into one, fragments where it does not. For a message over MaxMessage
// it returns dst as it was and ErrMessageSize.
func AppendFragments(dst, message []byte) ([]byte, error) {
	if len(message) > MaxMessage {
		return dst, ErrMessageSize
	}
	start := len(dst)
	dst = BeginPacket(dst, Data, 0)
	dst = append(dst, message...)
	return EndFragments(dst, start)
}

// EndFragments is EndPacket for a Data packet with a body of any length: it
// makes fragments of a body over MaxBody, in place. It returns dst[:start] and
// ErrMessageSize for a body over MaxMessage.
func EndFragments(dst []byte, start int) ([]byte, error) {
	size := len(dst) - start - HeaderSize
	if size <= MaxBody {
		putLength(dst[start:], size)
		return dst, nil
	}
	if size > MaxMessage {
		return dst[:start], ErrMessageSize
	}
	last := (size - 1) / MaxBody
	dst = append(dst, make([]byte, last*HeaderSize)...)
	packets := dst[start:]
	// From the last to the first: each moves back by the headers before it, over
	// the place from which the next has already moved.
	for i := last; i >= 0; i-- {
		from := HeaderSize + i*MaxBody
		n := min(MaxBody, size-i*MaxBody)
		at := i * (HeaderSize + MaxBody)
		copy(packets[at+HeaderSize:], packets[from:from+n])
		sub := byte(i)
		if i < last {
			sub |= fragmentMore
		}
		packets[at], packets[at+4] = byte(Data), sub
		putLength(packets[at:], n)
	}
	return dst, nil
}

// Assembler puts the fragments of a connection's messages together. The zero
// value is ready to use, it holds one word while no message is being assembled,
// and it is not safe to call at once.
type Assembler struct {
	state *assembly // nil between messages
}

// assembly is a message that is not complete.
type assembly struct {
	message []byte
	next    int // index of the fragment that must come now
}

// Add takes the next packet of a connection, and returns a message when p
// completes one: of up to limit bytes, be it whole or in fragments. A whole
// message aliases p.Body; one of fragments belongs to the caller. Packets that
// are not Data, such as heartbeats, may come between fragments and pass by.
//
// After an error nothing is held, and the connection is to be closed.
func (a *Assembler) Add(p Packet, limit int) (message []byte, done bool, err error) {
	if p.Type != Data {
		return nil, false, nil
	}
	if p.Sub == 0 && a.state == nil {
		if len(p.Body) > limit {
			return nil, false, ErrMessageSize
		}
		return p.Body, true, nil
	}
	if err := a.check(p, limit); err != nil {
		a.state = nil
		return nil, false, err
	}
	if a.state == nil {
		a.state = new(assembly)
	}
	s := a.state
	s.add(p.Body, limit)
	if p.Sub&fragmentMore != 0 {
		return nil, false, nil
	}
	a.state = nil
	return s.message, true, nil
}

// Buffered is how many bytes of a message that is not complete are held.
func (a *Assembler) Buffered() int {
	if a.state == nil {
		return 0
	}
	return len(a.state.message)
}

func (a *Assembler) check(p Packet, limit int) error {
	next, held := 0, 0
	if a.state != nil {
		next, held = a.state.next, len(a.state.message)
	}
	index := int(p.Sub & fragmentIndex)
	switch {
	case p.Sub == 0:
		return ErrFragmentInterrupted
	case next == 0 && index != 0:
		return ErrFragmentFirst
	case index > next:
		return ErrFragmentGap
	case index < next:
		return ErrFragmentRepeat
	case p.Sub == fragmentMore|fragmentIndex:
		return ErrFragmentCount
	case len(p.Body) > limit-held:
		return ErrMessageSize
	}
	return nil
}

// add appends a fragment. The buffer doubles, but never beyond the limit.
func (s *assembly) add(body []byte, limit int) {
	need := len(s.message) + len(body)
	if need > cap(s.message) {
		grown := min(max(need, 2*cap(s.message)), limit)
		s.message = append(make([]byte, 0, grown), s.message...)
	}
	s.message = append(s.message, body...)
	s.next++
}
