package worker

import (
	"time"

	"github.com/pkg/errors"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/sensitive"
	"github.com/motto123/minigate/pkg/tape"
)

// Tape takes a copy of each envelope of requests that a worker takes, and of each
// reply, as *tape.Recorder does. Record is called from many goroutines at once, and
// must not block. Fields with the option (common.sensitive) are masked before; what a
// handler given to HandleRaw takes and answers is recorded as it is.
type Tape interface {
	Record(tape.Entry)
}

// secrets says what of a route has sensitive fields in it, and how to find them. A nil
// one is of a route that has none.
type secrets struct {
	codec   *codec
	in, out bool
}

// secretsOf looks at the types of a route.
func secretsOf(c *codec) *secrets {
	s := &secrets{
		codec: c,
		in:    sensitive.Has(c.newIn().ProtoReflect().Descriptor()),
		out:   sensitive.Has(c.nothing.ProtoReflect().Descriptor()),
	}
	if !s.in && !s.out {
		return nil
	}
	return s
}

// record puts an envelope on the tape that was read without an error.
//
// Hot path (BenchmarkServe): one copy, which the tape makes.
func (w *Worker) record(e *envelope, r *route) {
	entry := tape.Entry{
		Kind: tape.Requests, Time: e.taken, Sent: e.delivery.Sent, Worker: w.service,
		Redelivered: e.delivery.Redelivered, Envelope: e.delivery.Body,
	}
	if r.unknown || r.secrets != nil && r.secrets.in {
		entry.Envelope, entry.Masked = r.masked(e.delivery.Body)
	}
	w.cfg.Tape.Record(entry)
}

// masked is an envelope of requests without what is sensitive in it, and whether there
// was any. Of a route that has no handler nobody knows what is sensitive: all of
// its data is left out.
func (r *route) masked(body []byte) (envelope []byte, masked bool) {
	var header bus.Header
	// It was read before: there is no error.
	_ = bus.ReadRequests(body, &header, func(one *bus.Request) error {
		if envelope == nil {
			envelope = bus.AppendHeader(make([]byte, 0, len(body)), header)
		}
		switch {
		case len(one.Data) == 0:
		case r.unknown:
			one.Data, masked = blank(one.Data), true
		default:
			data, some := r.secrets.request(one)
			one.Data, masked = data, masked || some
		}
		envelope = bus.AppendRequest(envelope, one)
		return nil
	})
	return envelope, masked
}

// blank stands for data that nobody may read: as many zeros, which are neither
// protobuf nor JSON.
func blank(data []byte) []byte { return make([]byte, len(data)) }

// request is the data of a request, masked, and whether there was anything to mask.
func (s *secrets) request(r *bus.Request) ([]byte, bool) {
	m, err := s.codec.decode(&Raw{DataType: DataType(r.DataType), Name: string(r.Name), Data: r.Data})
	if err != nil {
		return blank(r.Data), true
	}
	data, masked := encodeMasked(m, DataType(r.DataType), r.Data)
	if !masked && DataType(r.DataType) == JSON {
		// What the message does not know is left out: a misspelt password, it may be.
		masked = protojson.Unmarshal(r.Data, m.ProtoReflect().New().Interface()) != nil
	}
	return data, masked
}

// reply is the same for an answer that is no error.
func (s *secrets) reply(r *bus.Reply) ([]byte, bool) {
	m := s.codec.nothing.ProtoReflect().New().Interface()
	var err error
	if DataType(r.DataType) == Protobuf {
		err = proto.Unmarshal(r.Data, m)
	} else {
		err = protojson.Unmarshal(r.Data, m)
	}
	if err != nil {
		return blank(r.Data), true
	}
	return encodeMasked(m, DataType(r.DataType), r.Data)
}

// encodeMasked encodes again also what had nothing sensitive in it: JSON may have fields
// that nobody knows, which are not in m.
func encodeMasked(m proto.Message, as DataType, instead []byte) ([]byte, bool) {
	masked := sensitive.Mask(m)
	data, err := encode(new(buffer), as, m)
	if err != nil {
		return blank(instead), true
	}
	return data, masked
}

// recordReply puts the answer to a request on the tape; item is an envelope with
// nothing else in it. err is what the handler returned, if it was one.
func (w *Worker) recordReply(c *call, at time.Time, r *bus.Reply, item []byte, err error) {
	entry := tape.Entry{Kind: tape.Replies, Time: at, Worker: w.service, Gate: c.caller.Session.Gate, Envelope: item}
	if s := c.route.secrets; s != nil && len(r.Data) > 0 {
		masked := *r
		switch {
		case err != nil && errors.As(err, new(*quoting)):
			masked.Data, entry.Masked = blank(r.Data), true
			entry.Envelope = bus.AppendReply(nil, &masked)
		case r.Code == 0 && s.out:
			masked.Data, entry.Masked = s.reply(r)
			entry.Envelope = bus.AppendReply(nil, &masked)
		}
	}
	w.cfg.Tape.Record(entry)
}

// quoting is an error whose text may have a part of a sensitive request in it, which
// the client gets that sent it, and nobody else.
type quoting struct{ error }

func (q *quoting) Unwrap() error { return q.error }
