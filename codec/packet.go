package codec

const (
	// HeaderSize is what stands before the body of a packet, in bytes.
	HeaderSize = 5
	// MaxBody is the largest body of a packet, in bytes.
	MaxBody = 65536
)

// PacketType says what the body of a packet is.
type PacketType uint8

// The five packet types.
const (
	Handshake    PacketType = 1 // JSON, client to server, first of all
	HandshakeAck PacketType = 2 // JSON, the answer
	Heartbeat    PacketType = 3 // empty, both ways
	Data         PacketType = 4 // a message or a fragment of one, both ways
	Kick         PacketType = 5 // JSON, server to client, last of all
)

func (t PacketType) valid() bool { return t-Handshake <= Kick-Handshake }

func (t PacketType) String() string {
	switch t {
	case Handshake:
		return "handshake"
	case HandshakeAck:
		return "handshake_ack"
	case Heartbeat:
		return "heartbeat"
	case Data:
		return "data"
	case Kick:
		return "kick"
	}
	return "unknown"
}

// Packet is one packet. Body aliases what it was decoded from.
type Packet struct {
	Type PacketType
	// Sub carries the fragments of Data packets (see Assembler). It means nothing
	// in the other types: there it is written as 0, and not looked at.
	Sub  uint8
	Body []byte
}

// DecodePacket reads the packet that b begins with, and says how many bytes it
// takes. It returns ErrShort while all of b may be the beginning of a packet,
// ErrPacketType as soon as the first byte is there, and ErrPacketLength as soon
// as the fourth is: nobody waits for the rest of what is refused anyway.
//
//	+------+----------------+------------+------------------+
//	| type | length of body | subpackage | body             |
//	| 1 B  | 3 B            | 1 B        | 0 .. 65,536 B    |
//	+------+----------------+------------+------------------+
//
// Hot path: BenchmarkDecodePacket.
func DecodePacket(b []byte) (p Packet, n int, err error) {
	n, err = packetSize(b)
	if err != nil {
		return Packet{}, 0, err
	}
	if len(b) < n {
		return Packet{}, 0, ErrShort
	}
	return Packet{Type: PacketType(b[0]), Sub: b[4], Body: b[HeaderSize:n:n]}, n, nil
}

// packetSize is the size of the packet that b begins with, header included. It
// needs the type and the length, and reports them as soon as they are there.
func packetSize(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, ErrShort
	}
	if !PacketType(b[0]).valid() {
		return 0, ErrPacketType
	}
	if len(b) < 4 {
		return 0, ErrShort
	}
	length := int(b[1])<<16 | int(b[2])<<8 | int(b[3])
	if length > MaxBody {
		return 0, ErrPacketLength
	}
	return HeaderSize + length, nil
}

// AppendPacket appends a packet. It returns dst as it was, and ErrPacketLength,
// for a body over MaxBody: the text of a Kick or the dictionary of a handshake
// may come from elsewhere, and a length that does not fit must not be written.
func AppendPacket(dst []byte, t PacketType, sub uint8, body []byte) ([]byte, error) {
	n := len(body)
	if n > MaxBody {
		return dst, ErrPacketLength
	}
	dst = append(dst, byte(t), byte(n>>16), byte(n>>8), byte(n), sub)
	return append(dst, body...), nil
}

// BeginPacket appends the header of a packet whose body is appended next,
// without knowing its length before and without a copy; EndPacket fills the
// length in. A packet without a body, such as a Heartbeat, is complete without
// EndPacket.
//
//	start := len(dst)
//	dst = codec.BeginPacket(dst, codec.Data, 0)
//	dst, err = codec.AppendMessage(dst, m)
//	…
//	dst, err = codec.EndPacket(dst, start)
func BeginPacket(dst []byte, t PacketType, sub uint8) []byte {
	return append(dst, byte(t), 0, 0, 0, sub)
}

// EndPacket ends the packet that BeginPacket began when dst had start bytes. It
// returns dst[:start], without the packet, and ErrPacketLength when the body is
// over MaxBody; EndFragments makes fragments of it instead.
func EndPacket(dst []byte, start int) ([]byte, error) {
	n := len(dst) - start - HeaderSize
	if n > MaxBody {
		return dst[:start], ErrPacketLength
	}
	putLength(dst[start:], n)
	return dst, nil
}

func putLength(header []byte, n int) {
	_ = header[HeaderSize-1]
	header[1], header[2], header[3] = byte(n>>16), byte(n>>8), byte(n)
}
