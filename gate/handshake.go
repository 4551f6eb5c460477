package gate

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/codec"
)

// hello is a client's handshake. Members that are not named here are ignored; so
// is resume, which is not there yet and answered with resumed false.
type hello struct {
	Sys struct {
		Version    string `json:"version"`
		ClientType string `json:"client_type"`
		Fragment   bool   `json:"fragment"`
	} `json:"sys"`
	User struct {
		Token string `json:"token"`
	} `json:"user"`
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
		s.refuse(handshakeAnswer{Code: 503, Message: "the gate is shutting down", RetryAfterMS: retryAfterMillis})
		return
	}
	s.fragment = h.Sys.Fragment
	s.clientType = h.Sys.ClientType
	if _, err := rand.Read(s.secret[:]); err != nil {
		s.refuse(handshakeAnswer{Code: 503, Message: "no random numbers", RetryAfterMS: retryAfterMillis})
		return
	}
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
	started := g.verify(func(ctx context.Context) {
		user, err := g.cfg.Verify.Verify(ctx, token, g.id, id)
		if err == nil && user <= 0 {
			err = fmt.Errorf("the token's user is %d", user)
		}
		if err == nil {
			err = g.users.bound(ctx, user)
		}
		l.post(func() { l.verified(id, user, err) })
	})
	if !started {
		g.stats.HandshakesFull.Add(1)
		s.refuse(handshakeAnswer{Code: 503, Message: "too many handshakes at once", RetryAfterMS: retryAfterMillis})
	}
}

// verified ends a handshake with a token. The session may be gone by now.
func (l *loop) verified(id uint64, user int64, err error) {
	g := l.gate
	s := l.sessions[id]
	if s == nil || s.state != verifying {
		if err == nil {
			g.users.unbound(user)
		}
		return
	}
	switch {
	case err == nil:
		l.bind(s, user)
		g.sessionBound(id, user)
		s.welcome(user)
		s.release()
	case status.Code(err) == codes.Unauthenticated:
		s.refuse(handshakeAnswer{Code: 401, Message: "the token is not valid"})
	default:
		g.log.WithError(err).Warn("verify a token")
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
