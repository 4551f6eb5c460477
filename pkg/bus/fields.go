package bus

import (
	"fmt"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// fields reads the fields of a protobuf message, one after the other: a varint's
// value, or the bytes of a field with a length; the other of the two is empty then, so
// that a field of another kind than was expected does not have the last one's. Fields
// of other kinds, which a later version may have, are number 0.
type fields struct {
	b      []byte // what is not read yet
	number protowire.Number
	v      uint64
	bytes  []byte
	err    error
}

// next reads one field. It returns false at the end, or with err.
func (f *fields) next() bool {
	b := f.b
	if len(b) == 0 {
		return false
	}
	tag, n := uint64(b[0]), 1
	if tag >= 0x80 || tag < 1<<3 {
		var number protowire.Number
		var kind protowire.Type
		if number, kind, n = protowire.ConsumeTag(b); n < 0 {
			return f.fail(n)
		}
		tag = protowire.EncodeTag(number, kind)
	}
	f.number = protowire.Number(tag >> 3)
	b = b[n:]
	switch kind := protowire.Type(tag & 7); kind {
	case protowire.VarintType:
		f.v, n = varint(b)
		f.bytes = nil
	case protowire.BytesType:
		f.v = 0
		if len(b) > 0 && int(b[0]) < min(0x80, len(b)) { // a short one, all there
			n = 1 + int(b[0])
			f.bytes = b[1:n:n]
		} else {
			f.bytes, n = protowire.ConsumeBytes(b)
		}
	default:
		n = protowire.ConsumeFieldValue(f.number, kind, b)
		f.number = 0
	}
	if n < 0 {
		return f.fail(n)
	}
	f.b = b[n:]
	return true
}

func (f *fields) fail(n int) bool {
	f.err = fmt.Errorf("%w: %w", ErrEnvelope, protowire.ParseError(n))
	return false
}

// varint is protowire.ConsumeVarint, with the short ones, which most are, in line.
func varint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return protowire.ConsumeVarint(b)
}

func appendUint(b []byte, number protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), v)
}

func appendBytes(b []byte, number protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), v)
}

func appendString(b []byte, number protowire.Number, v string) []byte {
	if v == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), v)
}

// All field numbers of the envelopes are under 16, so a tag is one byte.

func sizeUint(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func sizeBytes(n int) int {
	if n == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(n)
}

func boolUint(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// alias is a string over bytes that nobody changes: a delivery's body belongs
// to its receiver, and is garbage when nothing points into it any more.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
