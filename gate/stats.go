package gate

import (
	"sync/atomic"

	"google.golang.org/grpc/codes"
)

// Stats are counters of a gate. They only grow, but for Connections.
type Stats struct {
	Connections         atomic.Int64 // open now
	Handshakes          atomic.Int64 // answered with 200
	HandshakesRefused   atomic.Int64
	HandshakesFull      atomic.Int64 // of them, because too many tokens were being verified
	ConnectionsFull     atomic.Int64 // over the limits, and answered with 503
	ConnectionsRefused  atomic.Int64 // closed without a word, far over the limits
	AcceptsFailed       atomic.Int64 // for want of a file descriptor, or of memory
	Messages            atomic.Int64 // requests, notifies and acks from clients
	Rejected            atomic.Int64 // of them, not published
	Replies             atomic.Int64 // written to clients
	RepliesLate         atomic.Int64 // whose session or request is gone
	Deadlines           atomic.Int64 // requests that nobody answered in time
	Pushes              atomic.Int64 // written to clients, each one counted
	PushesDropped       atomic.Int64 // too large for their client
	Envelopes           atomic.Int64 // that came for this gate
	EnvelopesMalformed  atomic.Int64
	EnvelopesFailed     atomic.Int64     // that the broker did not take
	EventsDropped       atomic.Int64     // that could not be published
	Panics              atomic.Int64     // caught while a session was being served
	Errors              [17]atomic.Int64 // answered, by gRPC code
	CutOff              atomic.Int64     // clients whose requests the gate did not wait for at its end
	PausedInFlight      atomic.Int64     // times that a session was not read for its requests in flight
	PausedBroker        atomic.Int64     // times that a session was not read for want of a broker
	PausedPublisher     atomic.Int64     // times that a loop read nothing, its publisher being full
	PushesConflated     atomic.Int64     // of slow clients, replaced by a later one
	KickedProtocol      atomic.Int64
	KickedHeartbeat     atomic.Int64
	KickedSlow          atomic.Int64
	KickedRate          atomic.Int64
	KickedOther         atomic.Int64
	AnnouncementsFailed atomic.Int64 // routes that the dictionary did not take
	GroupsRefused       atomic.Int64 // joins of a session that is in too many groups
}

func (s *Stats) failed(code codes.Code) {
	if int(code) < len(s.Errors) {
		s.Errors[code].Add(1)
	}
}

func (s *Stats) kicked(code string) {
	switch code {
	case kickProtocol:
		s.KickedProtocol.Add(1)
	case kickHeartbeat:
		s.KickedHeartbeat.Add(1)
	case kickSlow:
		s.KickedSlow.Add(1)
	case kickRate:
		s.KickedRate.Add(1)
	default:
		s.KickedOther.Add(1)
	}
}
