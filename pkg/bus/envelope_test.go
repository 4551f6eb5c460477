package bus_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/proto/buspb"
)

// requests are those of a generated envelope, as pkg/bus writes them.
func requests(e *buspb.Requests) []byte {
	b := bus.AppendHeader(nil, bus.Header{Gate: e.GetGate(), GateAddress: e.GetGateAddress(), Route: e.GetRoute()})
	for _, r := range e.GetRequests() {
		b = bus.AppendRequest(b, &bus.Request{
			Session: r.GetSession(), Sequence: r.GetSequence(), User: r.GetUser(), Type: uint8(r.GetType()),
			DataType: uint8(r.GetDataType()), ID: r.GetId(), Name: []byte(r.GetName()), Data: r.GetData(),
			Deadline: r.GetDeadline(), Address: r.GetAddress(), Trace: r.GetTrace(),
		})
	}
	return b
}

// readRequests reads an envelope with pkg/bus into a generated one.
func readRequests(b []byte) (*buspb.Requests, error) {
	var h bus.Header
	e := new(buspb.Requests)
	err := bus.ReadRequests(b, &h, func(r *bus.Request) error {
		e.Requests = append(e.Requests, &buspb.Request{
			Session: r.Session, Sequence: r.Sequence, User: r.User, Type: uint32(r.Type), DataType: uint32(r.DataType),
			Id: r.ID, Name: string(r.Name), Data: r.Data, Deadline: r.Deadline, Address: r.Address, Trace: r.Trace,
		})
		return nil
	})
	e.Gate, e.GateAddress, e.Route = h.Gate, h.GateAddress, h.Route
	return e, err
}

func replies(e *buspb.Replies) []byte {
	var b []byte
	for _, r := range e.GetReplies() {
		b = bus.AppendReply(b, &bus.Reply{
			Session: r.GetSession(), Sequence: r.GetSequence(), User: r.GetUser(), Group: r.GetGroup(),
			Everyone: r.GetEveryone(), Route: r.GetRoute(), ID: r.GetId(), DataType: uint8(r.GetDataType()),
			Name: []byte(r.GetName()), Data: r.GetData(), JSON: r.GetJson(), Code: r.GetCode(), LatestOnly: r.GetLatestOnly(),
			Trace: r.GetTrace(),
		})
	}
	if a := e.GetAnnouncement(); a != nil {
		b = bus.AppendAnnouncement(b, &bus.Announcement{Service: a.GetService(), Routes: a.GetRoutes()})
	}
	return b
}

func readReplies(b []byte) (*buspb.Replies, error) {
	e := new(buspb.Replies)
	err := bus.ReadReplies(b, func(r *bus.Reply) error {
		e.Replies = append(e.Replies, &buspb.Reply{
			Session: r.Session, Sequence: r.Sequence, User: r.User, Group: r.Group, Everyone: r.Everyone, Route: r.Route,
			Id: r.ID, DataType: uint32(r.DataType), Name: string(r.Name), Data: r.Data, Json: r.JSON, Code: r.Code, LatestOnly: r.LatestOnly,
			Trace: r.Trace,
		})
		return nil
	}, func(a *bus.Announcement) error {
		e.Announcement = &buspb.Announcement{Service: a.Service, Routes: a.Routes}
		return nil
	})
	return e, err
}

// pick is a number of any size, 0 among them.
func pick(r *rand.Rand) uint64 {
	return []uint64{0, 1, 127, 128, 1 << 32, math.MaxUint64}[r.IntN(6)] >> (r.IntN(2) * 3)
}

func text(r *rand.Rand) string {
	return strings.Repeat("é世a", []int{0, 0, 1, 5, 60, 4000}[r.IntN(6)])
}

func randomRequests(r *rand.Rand) *buspb.Requests {
	e := &buspb.Requests{Gate: text(r), GateAddress: text(r), Route: text(r)}
	for range r.IntN(5) {
		e.Requests = append(e.Requests, &buspb.Request{
			Session: pick(r), Sequence: uint32(pick(r)), User: int64(pick(r)), Type: uint32(r.IntN(5)), DataType: uint32(r.IntN(3)),
			Id: pick(r), Name: text(r), Data: []byte(text(r)), Deadline: int64(pick(r)), Address: []byte(text(r)),
			Trace: []byte(text(r)),
		})
	}
	return e
}

func randomReplies(r *rand.Rand) *buspb.Replies {
	e := new(buspb.Replies)
	for range r.IntN(5) {
		e.Replies = append(e.Replies, &buspb.Reply{
			Session: pick(r), Sequence: uint32(pick(r)), User: int64(pick(r)), Group: text(r), Everyone: r.IntN(2) == 0, Route: text(r),
			Id: pick(r), DataType: uint32(r.IntN(3)), Name: text(r), Data: []byte(text(r)), Json: []byte(text(r)), Code: uint32(r.IntN(17)), LatestOnly: r.IntN(2) == 0,
			Trace: []byte(text(r)),
		})
	}
	if r.IntN(3) == 0 {
		e.Announcement = &buspb.Announcement{Service: text(r), Routes: []string{text(r), "a.b", ""}[:r.IntN(4)]}
	}
	return e
}

// TestAgainstGenerated: what pkg/bus writes the generated code reads, and the other
// way round.
func TestAgainstGenerated(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		want := randomRequests(random)
		got := new(buspb.Requests)
		if err := proto.Unmarshal(requests(want), got); err != nil || !proto.Equal(got, want) {
			t.Fatalf("written by pkg/bus: got %v, want %v; %v", got, want, err)
		}
		b, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := readRequests(b); err != nil || !proto.Equal(got, want) {
			t.Fatalf("read by pkg/bus: got %v, want %v; %v", got, want, err)
		}

		answer := randomReplies(random)
		back := new(buspb.Replies)
		if err := proto.Unmarshal(replies(answer), back); err != nil || !proto.Equal(back, answer) {
			t.Fatalf("written by pkg/bus: got %v, want %v; %v", back, answer, err)
		}
		if b, err = proto.Marshal(answer); err != nil {
			t.Fatal(err)
		}
		if got, err := readReplies(b); err != nil || !proto.Equal(got, answer) {
			t.Fatalf("read by pkg/bus: got %v, want %v; %v", got, answer, err)
		}
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
	}
	want := &buspb.Requests{Gate: "g", Route: "a.b", Requests: []*buspb.Request{{Session: 5}}}
	b := append(append([]byte(nil), later...), requests(want)...)
	b = append(b, later...)
	if got, err := readRequests(b); err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestMalformedEnvelope(t *testing.T) {
	whole := requests(&buspb.Requests{Gate: "gate", Route: "a.b", Requests: []*buspb.Request{{Session: 300, Data: []byte("data")}}})
	for n := range len(whole) {
		// A cut between two fields is a shorter envelope; all others are errors.
		var p buspb.Requests
		if _, err := readRequests(whole[:n]); (err != nil) != (proto.Unmarshal(whole[:n], &p) != nil) || err != nil && !errors.Is(err, bus.ErrEnvelope) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	for _, b := range [][]byte{{0xff}, {4<<3 | 2, 200, 1}, {4<<3 | 2, 1, 1 << 3}, {0, 1}, {4<<3 | 4}, {1<<3 | 7}} {
		if _, err := readRequests(b); !errors.Is(err, bus.ErrEnvelope) {
			t.Errorf("%v: %v", b, err)
		}
	}
}

// TestReadStops: an error of the reader's own ends the reading and comes back.
func TestReadStops(t *testing.T) {
	b := requests(&buspb.Requests{Requests: []*buspb.Request{{Session: 1}, {Session: 2}, {Session: 3}}})
	stop := errors.New("stop")
	var seen []uint64
	var h bus.Header
	err := bus.ReadRequests(b, &h, func(r *bus.Request) error {
		if seen = append(seen, r.Session); r.Session == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || !reflect.DeepEqual(seen, []uint64{1, 2}) {
		t.Errorf("got %v, %v", seen, err)
	}
}

// TestEnvelopeAllocations: the hot path allocates nothing.
func TestEnvelopeAllocations(t *testing.T) {
	r := &bus.Request{Session: 1 << 40, Sequence: 7, User: 42, ID: 9, Name: []byte("a.B"), Data: make([]byte, 200), Deadline: 1 << 41, Address: make([]byte, 4)}
	reply := &bus.Reply{Session: 1 << 40, Sequence: 7, Name: []byte("a.B"), Data: make([]byte, 200)}
	buffer := make([]byte, 0, 4096)
	head := bus.Header{Gate: "g", GateAddress: "h:1", Route: "a.b"}
	if n := testing.AllocsPerRun(100, func() {
		buffer = bus.AppendRequest(bus.AppendHeader(buffer[:0], head), r)
		buffer = bus.AppendReply(buffer, reply)
	}); n != 0 {
		t.Errorf("writing allocates %v times", n)
	}
	envelope := bus.AppendHeader(nil, head)
	var answers []byte
	for range 100 {
		envelope, answers = bus.AppendRequest(envelope, r), bus.AppendReply(answers, reply)
	}
	var h bus.Header
	sum := 0
	each := func(r *bus.Request) error { sum += len(r.Data); return nil }
	answer := func(r *bus.Reply) error { sum += len(r.Data); return nil }
	none := func(*bus.Announcement) error { return nil }
	// A few an envelope, whatever the number of its items.
	if n := testing.AllocsPerRun(100, func() {
		if bus.ReadRequests(envelope, &h, each) != nil || bus.ReadReplies(answers, answer, none) != nil {
			t.Error("not read")
		}
	}); n > 8 {
		t.Errorf("reading 200 items allocates %v times", n)
	}
}

func FuzzReadRequests(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		f.Add(requests(randomRequests(random)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readRequests(b)
		if err != nil {
			return
		}
		// What is read is written again and read as the same.
		if again, err := readRequests(requests(got)); err != nil || !proto.Equal(again, got) {
			t.Errorf("got %v, then %v, %v", got, again, err)
		}
	})
}

func FuzzReadReplies(f *testing.F) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		f.Add(replies(randomReplies(random)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readReplies(b)
		if err != nil {
			return
		}
		if again, err := readReplies(replies(got)); err != nil || !proto.Equal(again, got) {
			t.Errorf("got %v, then %v, %v", got, again, err)
		}
	})
}

// BenchmarkEnvelope writes and reads an envelope of 64 requests of 200 bytes.
func BenchmarkEnvelope(b *testing.B) {
	r := &bus.Request{Session: 1 << 40, Sequence: 7, User: 42, ID: 9, Name: []byte("a.B"), Data: make([]byte, 200), Deadline: 1 << 41, Address: make([]byte, 4)}
	var envelope []byte
	var h bus.Header
	b.ReportAllocs()
	for b.Loop() {
		envelope = bus.AppendHeader(envelope[:0], bus.Header{Gate: "g", Route: "a.b"})
		for range 64 {
			envelope = bus.AppendRequest(envelope, r)
		}
		if err := bus.ReadRequests(envelope, &h, func(*bus.Request) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(envelope)))
}

// A field of another kind than it should be has nothing of the field before it.
func TestFieldsOfAnotherKind(t *testing.T) {
	number := func(b []byte, n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
	}
	text := func(b []byte, n protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
	}
	var request []byte
	request = number(request, 6, 5)                // the id
	request = text(request, 3, []byte("the user")) // a number, elsewhere
	request = text(request, 7, []byte("the name"))
	request = number(request, 8, 9) // the data, which are bytes
	b := text(bus.AppendHeader(nil, bus.Header{Gate: "g", Route: "a.b"}), 4, request)
	var h bus.Header
	err := bus.ReadRequests(b, &h, func(r *bus.Request) error {
		if len(r.Data) > 0 || r.User != 0 {
			t.Errorf("the data are %q, the user is %d, want neither", r.Data, r.User)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
