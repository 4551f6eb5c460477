package dead

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/sensitive"
)

// Payload is what is in a letter, as far as it can be read and may be seen: values
// of sensitive fields are masked.
type Payload struct {
	// Of an event.
	Type string          `json:"type,omitempty"`
	Data json.RawMessage `json:"data,omitempty"`
	// Of an envelope of requests.
	Gate        string    `json:"gate,omitempty"`
	GateAddress string    `json:"gate_address,omitempty"`
	Route       string    `json:"route,omitempty"`
	Requests    []Request `json:"requests,omitempty"`
	// Problem says what is not shown, and why.
	Problem string `json:"problem,omitempty"`
}

// Request is one request of an envelope.
type Request struct {
	Session  uint64          `json:"session"`
	Sequence uint32          `json:"sequence,omitempty"`
	User     int64           `json:"user,omitempty"`
	ID       uint64          `json:"id,omitempty"`
	Kind     string          `json:"kind"` // request, notify, ack
	DataType string          `json:"data_type"`
	Type     string          `json:"type,omitempty"`
	Deadline *time.Time      `json:"deadline,omitempty"`
	Address  string          `json:"address,omitempty"`
	Size     int             `json:"size"`
	Data     json.RawMessage `json:"data,omitempty"`
	Problem  string          `json:"problem,omitempty"`
}

// maxShown bounds the requests of an envelope that are shown: as many as one may
// have, of those that can be read.
const maxShown = 512

var errTooMany = errors.New("more requests than an envelope may have")

// readPayload reads the payload of a letter. An event says of what type it is; all
// else that is on the bus is an envelope.
func readPayload(l *Letter, body []byte) Payload {
	if l.Type != "" || l.Event != "" {
		p := Payload{Type: l.Type}
		p.Data, p.Problem = decoded(l.Type, body)
		return p
	}
	return readEnvelope(body)
}

func readEnvelope(body []byte) (p Payload) {
	var h bus.Header
	err := bus.ReadRequests(body, &h, func(r *bus.Request) error {
		if len(p.Requests) == maxShown {
			return errTooMany
		}
		p.Requests = append(p.Requests, newRequest(r))
		return nil
	})
	p.Gate, p.GateAddress, p.Route = h.Gate, h.GateAddress, h.Route
	switch {
	case err != nil && len(p.Requests) > 0:
		p.Problem = fmt.Sprintf("what is behind the last of these requests can not be read: %v", err)
	case err != nil:
		p.Problem = fmt.Sprintf("no envelope of requests: %v", err)
	case h.Gate == "" || h.Route == "":
		p.Problem = "no envelope of requests: it names no gate or no route"
	case len(p.Requests) == 0:
		p.Problem = "an envelope without requests"
	}
	return p
}

func newRequest(r *bus.Request) Request {
	out := Request{
		Session: r.Session, Sequence: r.Sequence, User: r.User, ID: r.ID,
		Kind: named(codec.MessageType(r.Type)), DataType: named(codec.DataType(r.DataType)), Type: string(r.Name), Size: len(r.Data),
	}
	if r.Deadline != 0 {
		at := time.UnixMilli(r.Deadline).UTC()
		out.Deadline = &at
	}
	if address, ok := netip.AddrFromSlice(r.Address); ok {
		out.Address = address.String()
	}
	switch {
	case len(r.Data) == 0:
	case r.DataType == uint8(codec.Protobuf):
		out.Data, out.Problem = decoded(out.Type, r.Data)
	case r.DataType == uint8(codec.JSON):
		out.Data, out.Problem = maskedJSON(out.Type, r.Data)
	default:
		out.Problem = "text is not shown: whether it is a secret is not known"
	}
	return out
}

// named is a type's name, or its number where it has none: that may be what is wrong.
func named[T interface {
	~uint8
	fmt.Stringer
}](t T) string {
	if name := t.String(); name != T(255).String() {
		return name
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// decoded is a protobuf message in JSON without what is sensitive, or why not. A
// payload of a type that is not known may be anything, and is not shown.
func decoded(name string, b []byte) (json.RawMessage, string) {
	if name == "" {
		return nil, "not shown: nothing says of what type it is"
	}
	m, problem := newMessage(name)
	if problem != "" {
		return nil, problem
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Sprintf("no %s: %v", name, err)
	}
	return masked(m)
}

func newMessage(name string) (proto.Message, string) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		return nil, "not shown: this program has no type of that name"
	}
	return t.New().Interface(), ""
}

// masked is m in JSON; its sensitive fields are overwritten.
func masked(m proto.Message) (json.RawMessage, string) {
	unknown := len(m.ProtoReflect().GetUnknown())
	sensitive.Mask(m)
	b, err := protojson.MarshalOptions{Resolver: closed{protoregistry.GlobalTypes}}.Marshal(m)
	if err != nil {
		return nil, fmt.Sprintf("not shown: %v", err)
	}
	var compact bytes.Buffer // protojson's own spaces differ from program to program
	if err := json.Compact(&compact, b); err != nil {
		return nil, fmt.Sprintf("not shown: %v", err)
	}
	problem := ""
	if unknown > 0 {
		problem = fmt.Sprintf("and %s of fields that this program does not know", count(unknown, "byte"))
	}
	return compact.Bytes(), problem
}

// maskedJSON is a document without what is sensitive: read as the message that it is
// said to be, or, where that can not be, without the members that are named as any
// sensitive field is.
func maskedJSON(name string, b []byte) (json.RawMessage, string) {
	if m, problem := newMessage(name); problem == "" {
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err == nil {
			return masked(m)
		}
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, "not shown: it is no JSON"
	}
	if _, ok := v.(map[string]any); !ok {
		return nil, "not shown: a value without a name may be a secret"
	}
	out, err := json.Marshal(maskMembers(v, sensitiveNames()))
	if err != nil {
		return nil, fmt.Sprintf("not shown: %v", err)
	}
	return out, ""
}
