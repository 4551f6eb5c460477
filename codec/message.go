package codec

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"unicode/utf8"
)

// MessageType says what a message is for.
type MessageType uint8

// The five message types.
const (
	Request  MessageType = 0 // from the client, wants one Response with the same id
	Notify   MessageType = 1 // from the client, wants none; with an id it wants an Ack
	Response MessageType = 2 // from the server, answers the Request of that id
	Push     MessageType = 3 // from the server, unasked; with an id it wants an Ack
	Ack      MessageType = 4 // from both, received and safe
)

// FromClient says whether a client may send messages of this type.
func (t MessageType) FromClient() bool { return t == Request || t == Notify || t == Ack }

// FromServer says whether a server may send messages of this type.
func (t MessageType) FromServer() bool { return t == Response || t == Push || t == Ack }

func (t MessageType) String() string {
	switch t {
	case Request:
		return "request"
	case Notify:
		return "notify"
	case Response:
		return "response"
	case Push:
		return "push"
	case Ack:
		return "ack"
	}
	return "unknown"
}

// DataType says in what form the body of a message is.
type DataType uint8

// The three data types.
const (
	Text     DataType = 0
	JSON     DataType = 1
	Protobuf DataType = 2
)

func (t DataType) String() string {
	switch t {
	case Text:
		return "text"
	case JSON:
		return "json"
	case Protobuf:
		return "protobuf"
	}
	return "unknown"
}

// Message is one message. As decoded, its slices alias the input.
type Message struct {
	Type MessageType
	Data DataType
	// Compressed says that Code stands for the route, and Route is not used.
	Compressed bool
	Code       uint16
	ID         uint64 // 0 is none
	Route      []byte // service.method in UTF-8, up to 255 bytes
	Name       []byte // protobuf full name of what Body holds, up to 255 bytes; may be empty
	Body       []byte
}

// The flag of a message: two empty bits, and then
//
//	  7 6   5 4 3          2                     1 0
//	+-----+--------------+---------------------+-----------+
//	| 0 0 | message type | the route is a code | data type |
//	+-----+--------------+---------------------+-----------+
const (
	flagEmpty     = 0xc0
	flagType      = 0x07 // after flagTypeShift
	flagTypeShift = 3
	flagCode      = 0x04
	flagDataType  = 0x03
)

// MaxName is the longest route and the longest name, in bytes.
const MaxName = 255

// DecodeMessage reads a message, which b holds from its first byte to its last.
// m aliases b, and is left as it was after an error.
//
//	+------+--------+------+-----------+-------+----------+--------+------+
//	| flag | id len | id   | route len | route | name len | name   | body |
//	| 1 B  | 1 B    | 0..8 | 1 B       | 0..255| 1 B      | 0..255 | rest |
//	+------+--------+------+-----------+-------+----------+--------+------+
//
// An id of any length up to 8 is taken, and a code of length 1 or 2, with
// leading zeros or without. A code of any other length is ErrCodeLength: there
// is no code to be read from nothing, and none over 65535. Code 0 is well-formed,
// and a code that no dictionary holds.
//
// Route and name must be UTF-8. Behind the gate they are strings of a protobuf
// envelope, in which a single one that is not UTF-8 would make the requests of
// all others unreadable too.
//
// Hot path: BenchmarkDecodeMessage.
func DecodeMessage(b []byte, m *Message) error {
	if len(b) < 2 {
		return ErrTruncated
	}
	flag := b[0]
	if flag&flagEmpty != 0 {
		return ErrFlag
	}
	kind := MessageType(flag >> flagTypeShift & flagType)
	if kind > Ack {
		return ErrMessageType
	}
	data := DataType(flag & flagDataType)
	if data > Protobuf {
		return ErrDataType
	}

	n := int(b[1])
	if n > 8 {
		return ErrIDLength
	}
	b = b[2:]
	if len(b) <= n { // the length of the route must be there, too
		return ErrTruncated
	}
	var id uint64
	for _, c := range b[:n] {
		id = id<<8 | uint64(c)
	}

	size := int(b[n])
	compressed := flag&flagCode != 0
	if compressed && size != 1 && size != 2 {
		return ErrCodeLength
	}
	b = b[n+1:]
	if len(b) <= size { // the length of the name must be there, too
		return ErrTruncated
	}
	var code uint16
	route := b[:size:size]
	switch {
	case !compressed:
		if !isText(route) {
			return ErrRouteText
		}
	case size == 1:
		code, route = uint16(route[0]), nil
	default:
		code, route = binary.BigEndian.Uint16(route), nil
	}

	n = int(b[size])
	b = b[size+1:]
	if len(b) < n {
		return ErrTruncated
	}
	name := b[:n:n]
	if !isText(name) {
		return ErrNameText
	}

	m.Type, m.Data = kind, data
	m.Compressed, m.Code, m.ID = compressed, code, id
	m.Route, m.Name, m.Body = route, name, b[n:len(b):len(b)]
	return nil
}

// AppendMessage appends a message, with id and code in the fewest bytes: code 0,
// which answers a request that had it, in one. It returns dst as it was and an
// error for what DecodeMessage would not take: ErrMessageType, ErrDataType,
// ErrRouteLength, ErrRouteText, ErrNameLength or ErrNameText. The size of the
// whole is EndPacket's and EndFragments' to judge.
//
// Hot path: BenchmarkAppendMessage.
func AppendMessage(dst []byte, m *Message) ([]byte, error) {
	if err := m.check(); err != nil {
		return dst, err
	}
	dst = slices.Grow(dst, m.Size())
	flag := byte(m.Type)<<flagTypeShift | byte(m.Data)
	if m.Compressed {
		flag |= flagCode
	}

	n := idSize(m.ID)
	dst = append(dst, flag, byte(n))
	for shift := 8 * (n - 1); shift >= 0; shift -= 8 {
		dst = append(dst, byte(m.ID>>shift))
	}

	switch {
	case !m.Compressed:
		dst = append(dst, byte(len(m.Route)))
		dst = append(dst, m.Route...)
	case m.Code <= 0xff:
		dst = append(dst, 1, byte(m.Code))
	default:
		dst = append(dst, 2, byte(m.Code>>8), byte(m.Code))
	}

	dst = append(dst, byte(len(m.Name)))
	dst = append(dst, m.Name...)
	return append(dst, m.Body...), nil
}

// Size is how many bytes AppendMessage appends.
func (m *Message) Size() int {
	const fixed = 4 // flag and three lengths
	route := len(m.Route)
	if m.Compressed {
		route = 1
		if m.Code > 0xff {
			route = 2
		}
	}
	return fixed + idSize(m.ID) + route + len(m.Name) + len(m.Body)
}

func (m *Message) check() error {
	switch {
	case m.Type > Ack:
		return ErrMessageType
	case m.Data > Protobuf:
		return ErrDataType
	case !m.Compressed && len(m.Route) > MaxName:
		return ErrRouteLength
	case !m.Compressed && !isText(m.Route):
		return ErrRouteText
	case len(m.Name) > MaxName:
		return ErrNameLength
	case !isText(m.Name):
		return ErrNameText
	}
	return nil
}

func idSize(id uint64) int { return (bits.Len64(id) + 7) / 8 }

// isText is utf8.Valid, made faster for what routes and names are: some ten to
// thirty bytes of ASCII, which utf8.Valid looks at one by one for a large part.
// In DecodeMessage it was 30 ns of 50 (BenchmarkDecodeMessage).
func isText(b []byte) bool {
	const word, high = 8, 0x8080808080808080
	if len(b) < word {
		return utf8.Valid(b)
	}
	// The last word overlaps the one before it where the length is no multiple.
	all := binary.LittleEndian.Uint64(b[len(b)-word:])
	for i := 0; i < len(b)-word; i += word {
		all |= binary.LittleEndian.Uint64(b[i:])
	}
	return all&high == 0 || utf8.Valid(b)
}
