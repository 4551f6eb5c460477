package gate

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/tracing"
)

// hello is a client's handshake. Members that are not named here are ignored; so
// is resume, which is not there yet and answered with resumed false.
type hello struct {
	Sys struct {
		Version    string `json:"version"`
		ClientType string `json:"client_type"`
		Fragment   bool   `json:"fragment"`
		// Not in the protocol, and for who knows both sides: see follow.
		TraceParent lenient `json:"traceparent"`
	} `json:"sys"`
	User struct {
		Token string `json:"token"`
	} `json:"user"`
}

// lenient is a text in JSON; anything else is as if it were not there.
type lenient string

// UnmarshalJSON never fails.
func (t *lenient) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		*t = lenient(text)
	}
	return nil
}

// handshakeAnswer is the gate's refusal of a handshake.
type handshakeAnswer struct {
	Code         int    `json:"code"`
	Message      string `json:"message,omitempty"` // for people
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
}

const (
	maxClientType = 64
	maxToken      = 4096
	// retryAfterMillis is said to a client that comes when nobody can take it.
	retryAfterMillis = 2000
)

// handshake handles the first packet of a connection.
func (s *session) handshake(body []byte) {
	g := s.loop.gate
	var h hello
	if err := json.Unmarshal(body, &h); err != nil {
		s.refuse(handshakeAnswer{Code: 400, Message: "the handshake is not the JSON object that it should be"})
		return
	}
	switch {
	case h.Sys.Version == "":
		s.refuse(handshakeAnswer{Code: 400, Message: "the handshake has no sys.version"})
		return
	case h.Sys.Version != "1" && !strings.HasPrefix(h.Sys.Version, "1."):
		s.refuse(handshakeAnswer{Code: 426, Message: "this gate speaks version 1.x"})
		return
	case len(h.Sys.ClientType) > maxClientType:
		s.refuse(handshakeAnswer{Code: 400, Message: "sys.client_type is over 64 bytes"})
		return
	case len(h.User.Token) > maxToken:
		s.refuse(handshakeAnswer{Code: 401, Message: "the token is not valid"})
		return
	case !s.counted:
		g.stats.ConnectionsFull.Add(1)
		s.refuse(handshakeAnswer{Code: 503, Message: "the gate is full", RetryAfterMS: retryAfterMillis})
		return
	case g.draining.Load():
		s.refuse(handshakeAnswer{Code: 503, Message: "the gate is shutting down", RetryAfterMS: g.comeBack()})
		return
	}
	s.fragment = h.Sys.Fragment
	s.clientType = h.Sys.ClientType
	if _, err := rand.Read(s.secret[:]); err != nil {
		s.refuse(handshakeAnswer{Code: 503, Message: "no random numbers", RetryAfterMS: retryAfterMillis})
		return
	}
	s.follow(string(h.Sys.TraceParent))
	if h.User.Token == "" {
		s.welcome(0)
		return
	}
	s.state = verifying
	s.verify(h.User.Token)
}

// verify asks whose token it is, away from the loop.
func (s *session) verify(token string) {
	g, l, id := s.loop.gate, s.loop, s.id
	if g.cfg.Verify == nil {
		s.refuse(handshakeAnswer{Code: 503, Message: "nobody can verify tokens here", RetryAfterMS: retryAfterMillis})
		return
	}
	parent := l.parents[id]
	started := g.verify(func(ctx context.Context) {
		ctx, span := g.traceHandshake(ctx, parent, id)
		defer span.End()
		user, err := g.owner(ctx, token, id)
		if err == nil {
			err = l.bindVerifying(ctx, id, user)
		}
		if err == nil {
			// Who ends a token and then kicks its user does not see a session that is
			// on its way: so it is bound first, and its token looked at once more.
			_, err = g.owner(ctx, token, id)
		}
		tracing.Answered(span, status.Code(err))
		l.post(func() { l.verified(ctx, id, user, err) })
	})
	if !started {
		g.stats.HandshakesFull.Add(1)
		s.refuse(handshakeAnswer{Code: 503, Message: "too many handshakes at once", RetryAfterMS: retryAfterMillis})
	}
}

// owner says whose token it is.
func (g *Gate) owner(ctx context.Context, token string, session uint64) (int64, error) {
	user, err := g.cfg.Verify.Verify(ctx, token, g.id, session)
	if err == nil && user <= 0 {
		err = fmt.Errorf("the token's user is %d", user)
	}
	return user, err
}

// errGone: the client went while its token was being verified.
var errGone = errors.New("the session is gone")

// bindVerifying makes a session whose token is being verified its user's.
func (l *loop) bindVerifying(ctx context.Context, id uint64, user int64) error {
	g := l.gate
	err := g.users.bound(ctx, user)
	if err == nil {
		// Not ctx: who stops to wait does not know whether it has happened.
		_, err = onLoop(g.base, l, func() (struct{}, error) {
			s := l.sessions[id]
			if s == nil || s.state != verifying {
				return struct{}{}, errGone
			}
			l.bind(s, user)
			g.sessionBound(ctx, id, user)
			return struct{}{}, nil
		})
		if err != nil {
			g.users.unbound(user)
		}
	}
	if err != nil {
		g.sessionClosed(ctx, id, user, "refused") // Verify has kept something for it
	}
	return err
}

// verified ends a handshake with a token. The session may be gone by now. ctx is the
// handshake's, which is over, and only says whose trace this is.
func (l *loop) verified(ctx context.Context, id uint64, user int64, err error) {
	s := l.sessions[id]
	if s == nil || s.state != verifying {
		if err == nil {
			// It went while its token was looked at again, which has kept something for
			// it after its end was told.
			l.gate.sessionClosed(ctx, id, user, "refused")
		}
		return
	}
	switch {
	case err == nil && l.gate.draining.Load(): // it would only be sent away again
		s.refuse(handshakeAnswer{Code: 503, Message: "the gate is shutting down", RetryAfterMS: l.gate.comeBack()})
	case err == nil:
		s.welcome(user)
		s.release()
	case status.Code(err) == codes.Unauthenticated:
		s.refuse(handshakeAnswer{Code: 401, Message: "the token is not valid"})
	default:
		l.gate.log.WithFields(tracing.Fields(ctx)).WithField("session", id).WithError(err).Warn("verify a token")
		s.refuse(handshakeAnswer{Code: 503, Message: "nobody can verify tokens now", RetryAfterMS: retryAfterMillis})
	}
}

// welcome answers a handshake with 200.
func (s *session) welcome(user int64) {
	g := s.loop.gate
	s.known = uint16(g.dictionary.Len())
	b := append(s.loop.item[:0], `{"code":200,"sys":{"dict":`...)
	b = append(b, g.dictionaryJSON(int(s.known))...)
	b = append(b, `,"heartbeat":`...)
	b = strconv.AppendInt(b, int64(g.cfg.Heartbeat/time.Second), 10)
	b = append(b, `,"session":"`...)
	b = base64.RawURLEncoding.AppendEncode(b, s.secret[:])
	b = append(b, `","resumed":false,"max_message":`...)
	b = strconv.AppendInt(b, int64(g.cfg.Limits.Message), 10)
	b = append(b, `},"user":{`...)
	if user != 0 {
		b = append(b, `"id":`...)
		b = strconv.AppendInt(b, user, 10)
	}
	b = append(b, `}}`...)
	s.loop.item = b[:0]
	s.state = active
	s.write(codec.HandshakeAck, b)
	s.loop.wheel.put(s, s.loop.now+g.silence.Milliseconds())
	g.stats.Handshakes.Add(1)
}
