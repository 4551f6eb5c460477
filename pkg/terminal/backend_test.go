package terminal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

// backend is everything behind a gate, in memory.
type backend struct {
	mu            sync.Mutex
	users         []*authpb.User
	passwords     map[string]string
	conversations map[[2]int64][]*chatpb.Message
	conns         map[*conn]bool
	down          error // why nobody gets a connection
	dials         int
	lose          int // so many answers of chat.send are lost with the connection
}

func newBackend(accounts ...string) *backend {
	b := &backend{
		passwords:     map[string]string{},
		conversations: map[[2]int64][]*chatpb.Message{},
		conns:         map[*conn]bool{},
	}
	for _, a := range accounts {
		b.add(a, strings.ToUpper(a[:1])+a[1:])
	}
	return b
}

func (b *backend) add(account, nickname string) *authpb.User {
	u := &authpb.User{Id: int64(len(b.users) + 101), Account: account, Nickname: nickname}
	b.users = append(b.users, u)
	b.passwords[account] = "password"
	return u
}

func (b *backend) user(match func(*authpb.User) bool) *authpb.User {
	for _, u := range b.users {
		if match(u) {
			return u
		}
	}
	return nil
}

func (b *backend) id(account string) int64 {
	return b.user(func(u *authpb.User) bool { return u.GetAccount() == account }).GetId()
}

type conn struct {
	backend *backend
	message func(*chatpb.Message)
	state   func(client.State)
	away    bool  // it is reconnecting
	first   int64 // who the token belonged to
	done    chan struct{}

	user int64
	err  error
}

func (b *backend) dial(_ context.Context, token string, message func(*chatpb.Message), state func(client.State)) (Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dials++
	if b.down != nil {
		return nil, b.down
	}
	c := &conn{backend: b, message: message, state: state, done: make(chan struct{})}
	if account, ok := strings.CutPrefix(token, "token of "); ok {
		c.first = b.id(account)
		c.user = c.first
	} else if token != "" {
		return nil, fmt.Errorf("client: handshake: %w", &client.HandshakeError{Code: 401})
	}
	b.conns[c] = true
	return c, nil
}

// cut ends all connections.
func (b *backend) cut(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		c.end(err)
	}
}

// lost takes all connections away until back.
func (b *backend) lost(err error) { b.away(true, client.State{Phase: client.Reconnecting, Err: err}) }

func (b *backend) back() { b.away(false, client.State{Phase: client.Connected}) }

func (b *backend) away(away bool, s client.State) {
	b.mu.Lock()
	conns := slices.Collect(maps.Keys(b.conns))
	for _, c := range conns {
		c.away = away
	}
	b.mu.Unlock()
	for _, c := range conns {
		c.state(s)
	}
}

// end is called with the lock held.
func (c *conn) end(err error) {
	if c.backend.conns[c] {
		delete(c.backend.conns, c)
		c.err = err
		close(c.done)
	}
}

func (c *conn) UserID() int64         { return c.first }
func (c *conn) Done() <-chan struct{} { return c.done }

func (c *conn) Err() error {
	c.backend.mu.Lock()
	defer c.backend.mu.Unlock()
	return c.err
}

func (c *conn) Close() error {
	c.backend.mu.Lock()
	defer c.backend.mu.Unlock()
	c.end(errors.New("closed"))
	return nil
}

func (c *conn) Call(_ context.Context, route string, in, out proto.Message) error {
	b := c.backend
	b.mu.Lock()
	var pushes []func()
	defer func() {
		b.mu.Unlock()
		for _, push := range pushes {
			push()
		}
	}()
	if !b.conns[c] || c.away {
		return status.Error(codes.Unavailable, "the connection has ended")
	}
	if c.user == 0 && route != "auth.login" && route != "auth.register" {
		return status.Error(codes.Unauthenticated, "log in first")
	}
	answer := func(m proto.Message) error { proto.Merge(out, m); return nil }
	switch in := in.(type) {
	case *authpb.RegisterRequest:
		if _, taken := b.passwords[in.GetAccount()]; taken {
			return status.Error(codes.AlreadyExists, "the account exists")
		}
		u := b.add(in.GetAccount(), in.GetNickname())
		b.passwords[in.GetAccount()] = in.GetPassword()
		return answer(&authpb.RegisterResponse{User: u})
	case *authpb.LoginRequest:
		if p, ok := b.passwords[in.GetAccount()]; !ok || p != in.GetPassword() {
			return status.Error(codes.Unauthenticated, "account or password is wrong")
		}
		c.user = b.id(in.GetAccount())
		return answer(&authpb.LoginResponse{Token: "token of " + in.GetAccount(),
			User: b.user(func(u *authpb.User) bool { return u.GetId() == c.user })})
	case *authpb.FindRequest:
		u := b.user(func(u *authpb.User) bool { return u.GetId() == in.GetId() || u.GetAccount() == in.GetAccount() })
		if u == nil {
			return status.Error(codes.NotFound, "there is no such user")
		}
		return answer(&authpb.FindResponse{User: u})
	case *authpb.VerifyEmailRequest:
		if in.GetCode() != "123456" {
			return status.Error(codes.InvalidArgument, "the code is wrong")
		}
		return nil
	case *chatpb.SendRequest:
		m := b.store(c.user, in.GetTo(), in.GetClientId(), in.GetText())
		if b.lose > 0 {
			b.lose--
			c.end(errors.New("the connection was lost"))
			return status.Error(codes.Unavailable, "the connection has ended")
		}
		pushes = b.pushes(in.GetTo(), m)
		return answer(&chatpb.SendResponse{Number: m.GetNumber(), SentAt: m.GetSentAt()})
	case *chatpb.HistoryRequest:
		all := b.conversations[pair(c.user, in.GetTo())]
		if len(all) == 0 {
			return status.Error(codes.NotFound, "there is no such conversation")
		}
		n := int64(len(all))
		from, to := max(0, n-int64(in.GetLimit())), n
		if in.GetAfter() > 0 {
			from, to = min(in.GetAfter(), n), min(in.GetAfter()+int64(in.GetLimit()), n)
			return answer(&chatpb.HistoryResponse{Messages: all[from:to], More: to < n})
		}
		if in.GetBefore() > 0 {
			to = in.GetBefore() - 1
			from = max(0, to-int64(in.GetLimit()))
		}
		return answer(&chatpb.HistoryResponse{Messages: all[from:to], More: from > 0})
	}
	return status.Error(codes.NotFound, "there is no route "+route)
}

func pair(a, b int64) [2]int64 { return [2]int64{min(a, b), max(a, b)} }

// store is idempotent by sender and id.
func (b *backend) store(from, to int64, id, text string) *chatpb.Message {
	p := pair(from, to)
	for _, m := range b.conversations[p] {
		if m.GetSender() == from && m.GetClientId() == id {
			return m
		}
	}
	m := &chatpb.Message{Conversation: p[0]<<32 + p[1], Number: int64(len(b.conversations[p]) + 1), Sender: from,
		Text: text, ClientId: id, SentAt: time.Now().UnixMilli()}
	b.conversations[p] = append(b.conversations[p], m)
	return m
}

func (b *backend) pushes(to int64, m *chatpb.Message) (out []func()) {
	for c := range b.conns {
		if c.user == to && !c.away {
			out = append(out, func() { c.message(m) })
		}
	}
	return out
}

// says has one user write to another, from elsewhere.
func (b *backend) says(from, to, text string) {
	b.mu.Lock()
	m := b.store(b.id(from), b.id(to), fmt.Sprint("elsewhere", time.Now().UnixNano(), text), text)
	pushes := b.pushes(b.id(to), m)
	b.mu.Unlock()
	for _, push := range pushes {
		push()
	}
}
