package gate

import (
	"context"
	"encoding/json"

	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/tracing"
)

// The codes of a Kick, as the protocol names them.
const (
	kickProtocol  = "protocol_error"
	kickHeartbeat = "heartbeat_timeout"
	kickSlow      = "slow_consumer"
	kickRate      = "rate_limited"
	kickReplaced  = "replaced"
	kickKicked    = "kicked"
	kickDraining  = "draining"
	kickShutdown  = "shutting_down"
)

// validKick reports whether code is one that the protocol names.
func validKick(code string) bool {
	switch code {
	case kickProtocol, kickHeartbeat, kickSlow, kickRate, kickReplaced, kickKicked, kickDraining, kickShutdown:
		return true
	}
	return false
}

// kickBody is the body of a Kick packet.
type kickBody struct {
	Code         string `json:"code"`
	Reason       string `json:"reason"`
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
	Resume       bool   `json:"resume"`
}

// maxReason bounds the text of a kick, which may hold what a service said.
const maxReason = 1024

// kick tells the client why, and closes.
func (s *session) kick(code, reason string) { s.kickFor(nil, code, reason) }

// kickFor is kick, with what names the request that wants it in the log.
func (s *session) kickFor(request logrus.Fields, code, reason string) {
	if s.state >= closing {
		return
	}
	g := s.loop.gate
	g.stats.kicked(code)
	s.log().WithFields(request).WithField("code", code).Debug("kick: " + reason)
	s.end(code)
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	kick := kickBody{Code: code, Reason: reason}
	if code == kickDraining || code == kickShutdown {
		kick.RetryAfterMS = g.comeBack()
	}
	body, err := json.Marshal(kick)
	if err != nil {
		s.log().WithError(err).Error("encode a kick")
		s.conn.close()
		return
	}
	s.write(codec.Kick, body)
}

// askedBy is what a line says of the request that a call is made for: not as its own
// lines do, for session and gate are then those of whom it is about.
func askedBy(ctx context.Context) logrus.Fields {
	fields := tracing.Fields(ctx)
	if r, ok := tracing.RequestOf(ctx); ok {
		for name := range r.Fields() {
			delete(fields, name)
		}
		fields["by"] = r.String()
	}
	return fields
}

// refuse answers a handshake with something other than 200, and closes.
func (s *session) refuse(answer handshakeAnswer) {
	if s.state >= closing {
		return
	}
	g := s.loop.gate
	g.stats.HandshakesRefused.Add(1)
	s.end("refused")
	body, err := json.Marshal(answer)
	if err != nil {
		s.log().WithError(err).Error("encode a handshake's answer")
		s.conn.close()
		return
	}
	s.write(codec.HandshakeAck, body)
}
