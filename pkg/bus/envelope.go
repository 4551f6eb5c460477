package bus

import "google.golang.org/protobuf/encoding/protowire"

// The envelopes are protobuf messages as proto/buspb/bus.proto says. They are
// written and read here by hand: this is the hot path (BenchmarkEnvelope), and
// an envelope grows item by item while the one before it is on its way.

// Request is one message of one client, as buspb.Request. Name, Data, Address and
// Trace alias the envelope that they were read from.
type Request struct {
	Session  uint64 // the gate's own id; unique only together with the gate's id
	Sequence uint32 // the gate's number of this request within the session
	User     int64  // 0 is nobody
	Type     uint8  // message type as on the wire
	DataType uint8  // data type as on the wire
	ID       uint64 // the client's id; of an ack: the push's
	Name     []byte
	Data     []byte
	Deadline int64  // Unix milliseconds
	Address  []byte // 4 or 16 bytes
	Trace    []byte // as package tracing has it; empty where the request is not traced
}

// Reply is one Response or Push, as buspb.Reply. Its bytes and strings alias
// the envelope that they were read from.
type Reply struct {
	Session  uint64
	Sequence uint32 // 0 makes it a push
	User     int64
	Group    string
	Everyone bool
	Route    string
	ID       uint64
	DataType uint8
	Name     []byte
	Data     []byte
	JSON     []byte
	Code     uint32
	// LatestOnly lets a slow client miss this push when a later one of its route
	// and group has come meanwhile.
	LatestOnly bool
	Trace      []byte // as a Request's
}

// Announcement says which routes a service serves, as buspb.Announcement.
type Announcement struct {
	Service string
	Routes  []string
}

// Header is what stands before the requests of an envelope.
type Header struct {
	Gate        string
	GateAddress string // host:port of the gate's gRPC service
	Route       string
}

// AppendHeader begins an envelope of requests.
func AppendHeader(b []byte, h Header) []byte {
	b = appendString(b, 1, h.Gate)
	b = appendString(b, 2, h.GateAddress)
	return appendString(b, 3, h.Route)
}

// AppendRequest adds one request to an envelope.
func AppendRequest(b []byte, r *Request) []byte {
	b = protowire.AppendTag(b, 4, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(r.size()))
	b = appendUint(b, 1, r.Session)
	b = appendUint(b, 2, uint64(r.Sequence))
	b = appendUint(b, 3, uint64(r.User))
	b = appendUint(b, 4, uint64(r.Type))
	b = appendUint(b, 5, uint64(r.DataType))
	b = appendUint(b, 6, r.ID)
	b = appendBytes(b, 7, r.Name)
	b = appendBytes(b, 8, r.Data)
	b = appendUint(b, 9, uint64(r.Deadline))
	b = appendBytes(b, 10, r.Address)
	return appendBytes(b, 11, r.Trace)
}

func (r *Request) size() int {
	return sizeUint(r.Session) + sizeUint(uint64(r.Sequence)) + sizeUint(uint64(r.User)) +
		sizeUint(uint64(r.Type)) + sizeUint(uint64(r.DataType)) + sizeUint(r.ID) +
		sizeBytes(len(r.Name)) + sizeBytes(len(r.Data)) + sizeUint(uint64(r.Deadline)) + sizeBytes(len(r.Address)) +
		sizeBytes(len(r.Trace))
}

// AppendReply adds one reply to an envelope of replies; such an envelope has no
// header.
func AppendReply(b []byte, r *Reply) []byte {
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(r.size()))
	b = appendUint(b, 1, r.Session)
	b = appendUint(b, 2, uint64(r.Sequence))
	b = appendUint(b, 3, uint64(r.User))
	b = appendString(b, 4, r.Group)
	b = appendUint(b, 5, boolUint(r.Everyone))
	b = appendString(b, 6, r.Route)
	b = appendUint(b, 7, r.ID)
	b = appendUint(b, 8, uint64(r.DataType))
	b = appendBytes(b, 9, r.Name)
	b = appendBytes(b, 10, r.Data)
	b = appendBytes(b, 11, r.JSON)
	b = appendUint(b, 12, uint64(r.Code))
	b = appendUint(b, 13, boolUint(r.LatestOnly))
	return appendBytes(b, 14, r.Trace)
}

func (r *Reply) size() int {
	return sizeUint(r.Session) + sizeUint(uint64(r.Sequence)) + sizeUint(uint64(r.User)) +
		sizeBytes(len(r.Group)) + sizeUint(boolUint(r.Everyone)) + sizeBytes(len(r.Route)) +
		sizeUint(r.ID) + sizeUint(uint64(r.DataType)) + sizeBytes(len(r.Name)) + sizeBytes(len(r.Data)) +
		sizeBytes(len(r.JSON)) + sizeUint(uint64(r.Code)) + sizeUint(boolUint(r.LatestOnly)) +
		sizeBytes(len(r.Trace))
}

// AppendAnnouncement adds an announcement to an envelope of replies.
func AppendAnnouncement(b []byte, a *Announcement) []byte {
	size := sizeBytes(len(a.Service))
	for _, route := range a.Routes {
		size += 1 + protowire.SizeBytes(len(route))
	}
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = appendString(b, 1, a.Service)
	for _, route := range a.Routes {
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendString(b, route)
	}
	return b
}

// ReadRequests reads an envelope of requests. each is called with every
// request, in order; the Request is reused, what it points to aliases b. The
// header is complete before the first call, and its strings alias b too. An
// error of each ends the reading and is returned.
func ReadRequests(b []byte, h *Header, each func(*Request) error) error {
	*h = Header{}
	var r Request
	f := fields{b: b}
	for f.next() {
		switch f.number {
		case 1:
			h.Gate = alias(f.bytes)
		case 2:
			h.GateAddress = alias(f.bytes)
		case 3:
			h.Route = alias(f.bytes)
		case 4:
			if err := r.read(f.bytes); err != nil {
				return err
			}
			if err := each(&r); err != nil {
				return err
			}
		}
	}
	return f.err
}

func (r *Request) read(b []byte) error {
	*r = Request{}
	f := fields{b: b}
	for f.next() {
		switch f.number {
		case 1:
			r.Session = f.v
		case 2:
			r.Sequence = uint32(f.v)
		case 3:
			r.User = int64(f.v)
		case 4:
			r.Type = uint8(f.v)
		case 5:
			r.DataType = uint8(f.v)
		case 6:
			r.ID = f.v
		case 7:
			r.Name = f.bytes
		case 8:
			r.Data = f.bytes
		case 9:
			r.Deadline = int64(f.v)
		case 10:
			r.Address = f.bytes
		case 11:
			r.Trace = f.bytes
		}
	}
	return f.err
}

// ReadReplies reads an envelope of replies. reply is called with every reply,
// in order, and announce with the announcement; the values are reused, what
// they point to aliases b.
func ReadReplies(b []byte, reply func(*Reply) error, announce func(*Announcement) error) error {
	return ReadRepliesOf(b, func(uint64) bool { return true }, reply, announce)
}

// ReadRepliesOf is ReadReplies without the replies to sessions of which mine says
// no, at a fraction of the cost of reading those. A push that names no session is
// not asked about.
func ReadRepliesOf(b []byte, mine func(session uint64) bool, reply func(*Reply) error, announce func(*Announcement) error) error {
	var r Reply
	f := fields{b: b}
	for f.next() {
		switch f.number {
		case 1:
			if session, ok := firstSession(f.bytes); ok && !mine(session) {
				continue
			}
			if err := r.read(f.bytes); err != nil {
				return err
			}
			if err := reply(&r); err != nil {
				return err
			}
		case 2:
			var a Announcement
			if err := a.read(f.bytes); err != nil {
				return err
			}
			if err := announce(&a); err != nil {
				return err
			}
		}
	}
	return f.err
}

// firstSession is the session of a reply that begins with it, as AppendReply's do.
func firstSession(b []byte) (uint64, bool) {
	if len(b) < 2 || b[0] != 1<<3 {
		return 0, false
	}
	v, n := varint(b[1:])
	return v, n > 0
}

func (r *Reply) read(b []byte) error {
	*r = Reply{}
	f := fields{b: b}
	for f.next() {
		switch f.number {
		case 1:
			r.Session = f.v
		case 2:
			r.Sequence = uint32(f.v)
		case 3:
			r.User = int64(f.v)
		case 4:
			r.Group = alias(f.bytes)
		case 5:
			r.Everyone = f.v != 0
		case 6:
			r.Route = alias(f.bytes)
		case 7:
			r.ID = f.v
		case 8:
			r.DataType = uint8(f.v)
		case 9:
			r.Name = f.bytes
		case 10:
			r.Data = f.bytes
		case 11:
			r.JSON = f.bytes
		case 12:
			r.Code = uint32(f.v)
		case 13:
			r.LatestOnly = f.v != 0
		case 14:
			r.Trace = f.bytes
		}
	}
	return f.err
}

func (a *Announcement) read(b []byte) error {
	f := fields{b: b}
	for f.next() {
		switch f.number {
		case 1:
			a.Service = alias(f.bytes)
		case 2:
			a.Routes = append(a.Routes, alias(f.bytes))
		}
	}
	return f.err
}
