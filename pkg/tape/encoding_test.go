package tape

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/proto/tapepb"
)

// batchOf is a generated batch as this package writes it.
func batchOf(batch *tapepb.Batch) (b []byte) {
	for _, e := range batch.GetEntries() {
		b, _ = appendEntry(b, &Entry{
			Kind: Kind(e.GetKind()), Time: timeOf(uint64(e.GetTime())), Sent: timeOf(uint64(e.GetSent())), Worker: e.GetWorker(),
			Gate: e.GetGate(), Redelivered: e.GetRedelivered(), Masked: e.GetMasked(), Envelope: e.GetEnvelope(),
		})
	}
	return b
}

// generatedOf reads a batch with this package into a generated one.
func generatedOf(b []byte) (*tapepb.Batch, error) {
	batch := new(tapepb.Batch)
	err := ReadBatch(b, 0, func(e *Entry) error {
		one := &tapepb.Entry{
			Kind: uint32(e.Kind), Worker: e.Worker, Gate: e.Gate, Redelivered: e.Redelivered, Masked: e.Masked, Envelope: bytes.Clone(e.Envelope),
		}
		if !e.Time.IsZero() {
			one.Time = e.Time.UnixNano()
		}
		if !e.Sent.IsZero() {
			one.Sent = e.Sent.UnixNano()
		}
		batch.Entries = append(batch.Entries, one)
		return nil
	})
	return batch, err
}

func randomBatch(r *rand.Rand) *tapepb.Batch {
	text := func() string { return strings.Repeat("é世a", []int{0, 1, 5, 60, 4000}[r.IntN(5)]) }
	moment := func() int64 { return []int64{0, 1, -1, time.Now().UnixNano(), math.MaxInt64, math.MinInt64}[r.IntN(6)] }
	batch := new(tapepb.Batch)
	for range r.IntN(5) {
		batch.Entries = append(batch.Entries, &tapepb.Entry{
			Kind: uint32(r.IntN(256)), Time: moment(), Sent: moment(), Worker: text(), Gate: text(),
			Redelivered: r.IntN(2) == 0, Masked: r.IntN(2) == 0, Envelope: []byte(text()),
		})
	}
	return batch
}

// TestAgainstGenerated: what this package writes the generated code reads, and the
// other way round.
func TestAgainstGenerated(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		want := randomBatch(random)
		got := new(tapepb.Batch)
		if err := proto.Unmarshal(batchOf(want), got); err != nil || !proto.Equal(got, want) {
			t.Fatalf("written here: got %v, want %v; %v", got, want, err)
		}
		b, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := generatedOf(b); err != nil || !proto.Equal(got, want) {
			t.Fatalf("read here: got %v, want %v; %v", got, want, err)
		}
	}
}

// TestGolden: the bytes of the diagram.
func TestGolden(t *testing.T) {
	b, at := appendEntry(nil, &Entry{Kind: Replies, Time: time.Unix(0, 300), Worker: "echo", Gate: "g", Masked: true, Envelope: []byte("ab")})
	b = extend(b, at, []byte("c"))
	want := "\x0a\x98\x80\x80\x00" + "\x08\x02" + "\x10\xac\x02" + "\x22\x04echo" + "\x2a\x01g" + "\x38\x01" + "\x42\x83\x80\x80\x00abc"
	if string(b) != want {
		t.Errorf("got %q\nwant %q", b, want)
	}
}

// An envelope may be as long as its length can say.
func TestLongEnvelope(t *testing.T) {
	for _, n := range []int{0, 127, 128, 1<<14 - 1, 1 << 14, 1 << 21, 3 << 21} {
		b, at := appendEntry(nil, &Entry{Kind: Requests, Envelope: make([]byte, n)})
		b = extend(b, at, []byte{1})
		if err := ReadBatch(b, 0, func(e *Entry) error {
			if len(e.Envelope) != n+1 || e.Envelope[n] != 1 {
				t.Errorf("%d bytes, want %d", len(e.Envelope), n+1)
			}
			return nil
		}); err != nil {
			t.Errorf("%d: %v", n, err)
		}
		if size := sizeOf(&Entry{Envelope: make([]byte, n)}); size < len(b)-1 {
			t.Errorf("sizeOf says %d of %d bytes", size, len(b)-1)
		}
	}
	last := time.Unix(0, math.MinInt64)
	longest := Entry{Kind: math.MaxUint8, Time: last, Sent: last, Worker: "worker", Gate: "gate", Redelivered: true, Masked: true, Envelope: []byte("x")}
	if b, _ := appendEntry(nil, &longest); len(b) > sizeOf(&longest) {
		t.Errorf("sizeOf says %d of %d bytes", sizeOf(&longest), len(b))
	}
}

// TestUnknownFields: fields of a later version, of every kind, are passed over.
func TestUnknownFields(t *testing.T) {
	later := []byte{
		15 << 3, 5, // a varint
		15<<3 | 1, 1, 2, 3, 4, 5, 6, 7, 8, // eight bytes
		14<<3 | 2, 2, 'x', 'y', // bytes
		15<<3 | 5, 1, 2, 3, 4, // four bytes
		15<<3 | 3, 15<<3 | 4, // a group
		2<<3 | 2, 1, 'x', // of another type than ours
	}
	want := &tapepb.Batch{Entries: []*tapepb.Entry{{Kind: 1, Worker: "echo"}, {Kind: 2, Gate: "g"}}}
	inner := append([]byte{8, 1, 4<<3 | 2, 4, 'e', 'c', 'h', 'o'}, later...)
	b := append([]byte{tagEntry, byte(len(inner))}, inner...)
	b = append(b, later...)
	b, _ = appendEntry(b, &Entry{Kind: Replies, Gate: "g"})
	if got, err := generatedOf(b); err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, want %v; %v", got, want, err)
	}
}

func TestReadBatchStops(t *testing.T) {
	var b []byte
	for range 3 {
		b, _ = appendEntry(b, &Entry{Kind: Requests})
	}
	stop, n := errors.New("stop"), 0
	err := ReadBatch(b, 7, func(e *Entry) error {
		if want := (Position{Offset: 7, Index: n}); e.Position != want {
			t.Errorf("at %v, want %v", e.Position, want)
		}
		if n++; n == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 2 {
		t.Errorf("got %v after %d entries, want its own error after 2", err, n)
	}
}

// FuzzReadBatch: whatever comes is read as the generated code reads it, or is an error;
// and what was read is written and read again as the same.
func FuzzReadBatch(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		b, err := proto.Marshal(randomBatch(random))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(batchOf(randomBatch(random)))
	}
	f.Add([]byte{tagEntry, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := generatedOf(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("the error is %v", err)
			}
			return
		}
		for _, e := range got.GetEntries() { // what Kind can not say
			if e.GetKind() == math.MaxUint8 {
				return
			}
		}
		generated := new(tapepb.Batch) // which also wants texts to be UTF-8
		if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, generated); err == nil && !reflect.DeepEqual(flat(got), flat(generated)) {
			t.Errorf("read as %v, want %v", got, generated)
		}
		again, err := generatedOf(batchOf(got))
		if err != nil || !reflect.DeepEqual(flat(again), flat(got)) {
			t.Errorf("read again as %v, %v; was %v", again, err, got)
		}
	})
}

// flat is a batch in values that can be compared, whatever bytes are in its texts.
func flat(batch *tapepb.Batch) (all []Entry) {
	for _, e := range batch.GetEntries() {
		all = append(all, Entry{
			Kind: Kind(e.GetKind()), Time: timeOf(uint64(e.GetTime())), Sent: timeOf(uint64(e.GetSent())), Worker: e.GetWorker(), Gate: e.GetGate(),
			Redelivered: e.GetRedelivered(), Masked: e.GetMasked(), Envelope: append([]byte{}, e.GetEnvelope()...),
		})
	}
	return all
}
