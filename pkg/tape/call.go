package tape

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

// Call is one message of a client to a service, with what became of it.
type Call struct {
	Place Place

	// What is known when it is taken.
	Worker      string // the service
	Gate        string
	GateAddress string
	Route       string
	Session     uint64 // only with the gate it is unique
	Sequence    uint32 // the gate's number of it within the session
	User        int64  // 0 is nobody
	Type        uint8  // as on the wire: 0 request, 1 notify, 2 ack
	DataType    uint8  // as on the wire: 0 text, 1 JSON, 2 protobuf
	ID          uint64 // the client's
	Name        string // protobuf full name of what Data holds; may be empty
	Data        []byte
	Address     netip.Addr
	Sent        time.Time // when the gate published it; zero where nobody said so
	Taken       time.Time // when a worker took it
	Deadline    time.Time // zero where it has none
	Redelivered bool      // may have been taken before
	Repeated    bool      // has been taken before: the tape has it twice
	Masked      bool      // sensitive fields were taken out of Data

	// What is known at its end.
	Outcome Outcome
	Reply   *Reply // of an answered one
}

// Reply is the answer to a call.
type Reply struct {
	Time     time.Time // when the worker sent it
	Code     uint32    // gRPC's; 0 is success
	DataType uint8
	Name     string
	Data     []byte
	Masked   bool
}

// Outcome is what became of a call.
type Outcome uint8

// The outcomes.
const (
	// Open: nobody knows. The tape ends before an answer was due, or too many calls
	// waited for theirs.
	Open Outcome = iota
	// Answered: see Call.Reply.
	Answered
	// Unanswered: its deadline passed without an answer.
	Unanswered
	// Silent: a notify or an ack, to which there is no answer.
	Silent
)

// Latency is from the gate's publishing of a call to its answer, by the clocks of
// both; where the former is not known, it is Handling. False where there is no
// answer.
func (c *Call) Latency() (time.Duration, bool) {
	if c.Outcome != Answered || c.Sent.IsZero() {
		return c.Handling()
	}
	return max(0, c.Reply.Time.Sub(c.Sent)), true
}

// Handling is from the worker's taking a call to its answer. False where there is
// no answer.
func (c *Call) Handling() (time.Duration, bool) {
	if c.Outcome != Answered {
		return 0, false
	}
	return max(0, c.Reply.Time.Sub(c.Taken)), true
}

// Failed reports whether the call was answered with an error, or not at all.
func (c *Call) Failed() bool {
	return c.Outcome == Unanswered || c.Outcome == Answered && c.Reply.Code != 0
}

// Request is the call as it travelled on the bus. It shares Data and Address.
func (c *Call) Request() bus.Request {
	r := bus.Request{
		Session: c.Session, Sequence: c.Sequence, User: c.User, Type: c.Type, DataType: c.DataType, ID: c.ID,
		Name: []byte(c.Name), Data: c.Data,
	}
	if !c.Deadline.IsZero() {
		r.Deadline = c.Deadline.UnixMilli()
	}
	if c.Address.IsValid() {
		r.Address = c.Address.AsSlice()
	}
	return r
}

// Entries are the call as it stands on a tape: its request, and its answer where
// there is one.
func (c *Call) Entries() []*Entry {
	request := c.Request()
	all := []*Entry{{
		Kind: Requests, Time: c.Taken, Sent: c.Sent, Worker: c.Worker, Gate: c.Gate, Redelivered: c.Redelivered, Masked: c.Masked,
		Envelope: bus.AppendRequest(bus.AppendHeader(nil, bus.Header{Gate: c.Gate, GateAddress: c.GateAddress, Route: c.Route}), &request),
	}}
	if r := c.Reply; r != nil {
		all = append(all, &Entry{
			Kind: Replies, Time: r.Time, Worker: c.Worker, Gate: c.Gate, Masked: r.Masked,
			Envelope: bus.AppendReply(nil, &bus.Reply{
				Session: c.Session, Sequence: c.Sequence, DataType: r.DataType, Name: []byte(r.Name), Data: r.Data, Code: r.Code,
			}),
		})
	}
	return all
}

// Place is where a call stands: the position of the entry that it was taken with,
// and its number in that entry's envelope. It is written OFFSET.INDEX.ITEM.
type Place struct {
	Position
	Item int
}

// ErrPlace: a text that names no place.
var ErrPlace = errors.New("tape: no position: want OFFSET, OFFSET.INDEX or OFFSET.INDEX.ITEM")

// ParsePlace reads what String wrote. What is left out is 0.
func ParsePlace(text string) (Place, error) {
	parts := strings.Split(text, ".")
	if len(parts) > 3 {
		return Place{}, ErrPlace
	}
	var numbers [3]int64
	for i, part := range parts {
		n, err := strconv.ParseInt(part, 10, 64)
		if err != nil || n < 0 || i > 0 && n > maxIndex {
			return Place{}, ErrPlace
		}
		numbers[i] = n
	}
	return Place{Position{numbers[0], int(numbers[1])}, int(numbers[2])}, nil
}

// maxIndex is far over what fits into a message.
const maxIndex = 1 << 30

func (p Place) String() string { return fmt.Sprintf("%d.%d.%d", p.Offset, p.Index, p.Item) }

// Before reports whether p comes before q on a tape.
func (p Place) Before(q Place) bool {
	switch {
	case p.Offset != q.Offset:
		return p.Offset < q.Offset
	case p.Index != q.Index:
		return p.Index < q.Index
	}
	return p.Item < q.Item
}

// Next is the first place behind p: that of the next call of the same envelope, or
// where there is none, of what comes behind it.
func (p Place) Next() Place {
	p.Item++
	return p
}
