package tape

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// A batch is a protobuf message as proto/tapepb/tape.proto says: entries, one after
// the other. It is written and read here by hand, since it grows entry by entry under
// the eyes of a worker's handlers (BenchmarkRecord):
//
//	0x0a  length  fields 1 to 7  0x42  length  envelope  0x0a …
//
// Both lengths are varints of four bytes whatever their value, so that the envelope of
// the last entry can grow, too.

const lengthBytes = 4

// maxEntry is what such a length can say.
const maxEntry = 1<<(7*lengthBytes) - 1

// Tags of a batch and of an entry: field and wire type.
const (
	tagEntry       = 1<<3 | byte(protowire.BytesType)
	tagKind        = 1<<3 | byte(protowire.VarintType)
	tagTime        = 2<<3 | byte(protowire.VarintType)
	tagSent        = 3<<3 | byte(protowire.VarintType)
	tagWorker      = 4<<3 | byte(protowire.BytesType)
	tagGate        = 5<<3 | byte(protowire.BytesType)
	tagRedelivered = 6<<3 | byte(protowire.VarintType)
	tagMasked      = 7<<3 | byte(protowire.VarintType)
	tagEnvelope    = 8<<3 | byte(protowire.BytesType)
)

// ErrMalformed is of bytes that are no batch.
var ErrMalformed = errors.New("tape: not a batch of entries")

// place is where the last entry of a batch has its lengths.
type place struct{ entry, envelope int }

// appendEntry adds an entry, whose Position nobody writes down, to a batch.
func appendEntry(b []byte, e *Entry) ([]byte, place) {
	var at place
	b = append(b, tagEntry)
	at.entry = len(b)
	b = append(b, make([]byte, lengthBytes)...)
	b = protowire.AppendVarint(append(b, tagKind), uint64(e.Kind))
	b = appendTime(b, tagTime, e.Time)
	b = appendTime(b, tagSent, e.Sent)
	b = appendText(b, tagWorker, e.Worker)
	b = appendText(b, tagGate, e.Gate)
	b = appendFlag(b, tagRedelivered, e.Redelivered)
	b = appendFlag(b, tagMasked, e.Masked)
	b = append(b, tagEnvelope)
	at.envelope = len(b)
	b = append(b, make([]byte, lengthBytes)...)
	return extend(b, at, e.Envelope), at
}

// extend adds to the envelope of the last entry.
func extend(b []byte, at place, more []byte) []byte {
	b = append(b, more...)
	putLength(b[at.entry:], len(b)-at.entry-lengthBytes)
	putLength(b[at.envelope:], len(b)-at.envelope-lengthBytes)
	return b
}

func putLength(b []byte, n int) {
	_ = b[lengthBytes-1]
	b[0], b[1], b[2], b[3] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)|0x80, byte(n>>21)&0x7f
}

func appendTime(b []byte, tag byte, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return protowire.AppendVarint(append(b, tag), uint64(t.UnixNano()))
}

func appendText(b []byte, tag byte, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(append(b, tag), s)
}

func appendFlag(b []byte, tag byte, v bool) []byte {
	if !v {
		return b
	}
	return append(b, tag, 1)
}

// sizeOf is at least what appendEntry adds.
func sizeOf(e *Entry) int { return len(e.Envelope) + len(e.Worker) + len(e.Gate) + 64 }

// ReadBatch calls each with every entry of the batch at an offset, in order; the Entry
// is reused, and its Envelope aliases b. An error of each ends the reading and is
// returned.
func ReadBatch(b []byte, offset int64, each func(*Entry) error) error {
	var e Entry
	for index := 0; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed(n)
		}
		b = b[n:]
		if number != 1 || kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return malformed(n)
			}
			b = b[n:]
			continue
		}
		entry, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return malformed(n)
		}
		b = b[n:]
		if err := e.read(entry); err != nil {
			return err
		}
		e.Position = Position{Offset: offset, Index: index}
		index++
		if err := each(&e); err != nil {
			return err
		}
	}
	return nil
}

// read reads one entry. Texts that are those of the entry before are not made again.
func (e *Entry) read(b []byte) error {
	worker, gate := e.Worker, e.Gate
	*e = Entry{}
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed(n)
		}
		b = b[n:]
		var v uint64
		var bytes []byte
		switch kind {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return malformed(n)
		}
		b = b[n:]
		switch protowire.EncodeTag(number, kind) {
		case uint64(tagKind):
			e.Kind = Kind(min(v, math.MaxUint8))
		case uint64(tagTime):
			e.Time = timeOf(v)
		case uint64(tagSent):
			e.Sent = timeOf(v)
		case uint64(tagWorker):
			e.Worker = same(worker, bytes)
		case uint64(tagGate):
			e.Gate = same(gate, bytes)
		case uint64(tagRedelivered):
			e.Redelivered = v != 0
		case uint64(tagMasked):
			e.Masked = v != 0
		case uint64(tagEnvelope):
			e.Envelope = bytes
		}
	}
	return nil
}

func timeOf(v uint64) time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(v))
}

// same is a string of b, without an allocation where that is the one there was.
func same(before string, b []byte) string {
	if string(b) == before {
		return before
	}
	return string(b)
}

func malformed(n int) error { return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n)) }
