package codec

import "errors"

// Decoder reads packets from a byte stream that comes in any cut. The zero
// value is ready to use; it is not safe to call at once.
//
// Between packets it holds nothing, so that an idle connection costs the three
// words of the Decoder alone. Within a packet it holds what has come of it, in a
// buffer that grows with what came and never beyond that one packet: a header
// that announces 65,536 bytes reserves none of them.
type Decoder struct {
	// partial is the beginning of a packet; nil between packets. A beginning that
	// can not become a packet stays here, so that each later Feed fails as well.
	partial []byte
}

// Feed takes the next bytes of the stream and calls each with every packet that
// they complete, in order. The packet's body is valid only during that call: it
// aliases b where the whole packet lies in b.
//
// It returns ErrPacketType or ErrPacketLength when the stream is malformed, after
// the packets before that point, and so does every later call. An error of each
// is returned at once, and the rest of b is lost; the connection is then to be
// closed.
func (d *Decoder) Feed(b []byte, each func(Packet) error) error {
	if d.partial != nil {
		rest, p, err := d.complete(b)
		if errors.Is(err, ErrShort) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(p); err != nil {
			return err
		}
		b = rest
	}
	for len(b) > 0 {
		p, n, err := DecodePacket(b)
		if errors.Is(err, ErrShort) {
			d.partial = keep(nil, b)
			return nil
		}
		if err != nil {
			// The header is all that it takes to fail again.
			d.partial = keep(nil, b[:min(len(b), HeaderSize)])
			return err
		}
		if err := each(p); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Buffered is how many bytes of a packet that is not complete the Decoder holds;
// at the end of a stream anything but 0 says that it was cut off.
func (d *Decoder) Buffered() int { return len(d.partial) }

// complete adds to the partial packet what b has of it. It returns the packet
// and the rest of b, having let go of the buffer, or ErrShort.
func (d *Decoder) complete(b []byte) (rest []byte, p Packet, err error) {
	if missing := HeaderSize - len(d.partial); missing > 0 {
		n := min(missing, len(b))
		d.partial = keep(d.partial, b[:n])
		b = b[n:]
	}
	size, err := packetSize(d.partial)
	if err != nil {
		return nil, Packet{}, err
	}
	n := min(size-len(d.partial), len(b))
	d.partial = keep(d.partial, b[:n])
	p, _, err = DecodePacket(d.partial)
	if err != nil {
		return nil, Packet{}, err
	}
	d.partial = nil
	return b[n:], p, nil
}

// keep appends more to the partial packet. The buffer doubles, as append's does,
// but never beyond the packet.
func keep(partial, more []byte) []byte {
	need := len(partial) + len(more)
	if need <= cap(partial) {
		return append(partial, more...)
	}
	grown := max(need, 2*cap(partial), HeaderSize)
	if size, err := packetSize(partial); err == nil {
		grown = min(grown, size)
	}
	return append(append(make([]byte, 0, grown), partial...), more...)
}
