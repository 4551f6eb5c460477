package worker

import (
	"context"
	"net/netip"

	"github.com/motto123/minigate/pkg/tracing"
)

// MessageType is what kind of message a client sent, as on the wire.
type MessageType uint8

// The message types that reach a worker.
const (
	Request MessageType = 0 // waits for an answer
	Notify  MessageType = 1 // waits for none
	Ack     MessageType = 4 // says that a push has arrived
)

// DataType is the form of data, as on the wire. A handler given to Handle gets
// its message from any of them:
//
//	protobuf  the message
//	JSON      protojson; members that the message does not have are passed over,
//	          so that newer clients work. Empty data is an empty message
//	text      protojson where it begins with '{'; any other text is the
//	          message's first string field outside a oneof, and INVALID_ARGUMENT
//	          where there is none. Empty data is an empty message
//
// Answers to JSON and text are protojson.
type DataType uint8

// The data types.
const (
	Text     DataType = 0
	JSON     DataType = 1
	Protobuf DataType = 2
)

// Session names one client's connection, wherever it is. It is comparable.
type Session struct {
	Gate        string // the gate's id
	GateAddress string // host:port of the gate's gRPC service
	ID          uint64 // the gate's number of the session
}

// Caller is who sent a request, and what it says of itself.
type Caller struct {
	Session  Session
	User     int64      // 0 is nobody
	Address  netip.Addr // the client's; invalid where the gate did not say
	Route    string
	Type     MessageType
	DataType DataType
	ID       uint64 // the client's id of the message; of an Ack, the push's
	// Sequence is the gate's number of the request within the session: with Session
	// it names one request among all.
	Sequence uint32
	// Redelivered says that this request may have been handled before.
	Redelivered bool

	trace *traced // nil for most
}

// Fields are what a line in the log says of a request, for logrus' WithFields: by
// gate, session and request, all lines of one are found, and by trace_id those of
// everything that it led to. The zero Caller has none. tracing.Fields says the same
// of a handler's context, and of those that have no Caller.
func (c Caller) Fields() map[string]any {
	if c == (Caller{}) {
		return map[string]any{}
	}
	fields := map[string]any{
		"route": c.Route, "gate": c.Session.Gate, "session": c.Session.ID, "request": c.Sequence, "user": c.User,
	}
	if c.trace != nil {
		fields[tracing.TraceField] = c.trace.id.String()
	}
	return fields
}

// From returns who sent the request that a handler's context belongs to; the
// zero Caller for any other context.
func From(ctx context.Context) Caller {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c.caller
	}
	return Caller{}
}
