package auth

import (
	"context"

	"github.com/pkg/errors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/gatepb"
)

var errWrongPassword = status.Error(codes.Unauthenticated, "wrong account or password")

// Login is auth.login. One hash is computed whether or not the account exists.
func (s *Service) Login(ctx context.Context, in *authpb.LoginRequest) (*authpb.LoginResponse, error) {
	caller := s.caller(ctx)
	if err := s.allow(ctx, "login.address", network(caller.Address), s.cfg.Limits.LoginAddress); err != nil {
		return nil, err
	}
	key, subject := lookup(in.GetAccount())
	if err := s.allow(ctx, "login.account", subject, s.cfg.Limits.LoginAccount); err != nil {
		return nil, err
	}
	u, err := s.users.byKey(ctx, key)
	if err != nil && !errors.Is(err, errNoUser) {
		return nil, s.stored(ctx, "login", err)
	}
	fits, err := s.passwords.verify(ctx, u.passwordHash, in.GetPassword())
	if err != nil {
		return nil, s.hashing(ctx, err)
	}
	if !fits {
		return nil, errWrongPassword
	}
	u = s.rehash(ctx, u, in.GetPassword())

	secret, made, err := s.tokens.issue(ctx, u.id, in.GetDevice())
	if err != nil {
		return nil, s.unavailable(ctx, "issue a token", err)
	}
	if err := s.bind(ctx, caller.Session, made); err != nil {
		s.undo(ctx, made)
		s.unbind(ctx, caller.Session)
		return nil, err
	}
	if err := s.confirm(ctx, u, in.GetPassword()); err != nil {
		s.undo(ctx, made)
		s.unbind(ctx, caller.Session)
		return nil, err
	}
	return &authpb.LoginResponse{Token: secret, ExpiresAt: made.expires, User: u.own()}, nil
}

// rehash stores a password at today's cost. If it can not, the next login will.
func (s *Service) rehash(ctx context.Context, u user, password string) user {
	if !s.passwords.outdated(u.passwordHash) {
		return u
	}
	hash, err := s.passwords.hash(ctx, password)
	if err == nil {
		var replaced bool
		if replaced, err = s.users.setPassword(ctx, u, hash, false); replaced {
			u.passwordHash = hash
		}
	}
	if err != nil {
		s.logOf(ctx).WithError(err).WithField("user", u.id).Warn("auth: a password could not be hashed again")
	}
	return u
}

// confirm looks again whether the password is still the user's, now that the
// token is there and the session bound. A reset replaces the password first, then
// ends the tokens and kicks the sessions: either it sees these, or this sees the
// new password.
func (s *Service) confirm(ctx context.Context, u user, password string) error {
	today, err := s.users.byID(ctx, u.id)
	if errors.Is(err, errNoUser) {
		return errWrongPassword
	}
	if err != nil {
		return s.stored(ctx, "login", err)
	}
	if today.passwordHash == u.passwordHash {
		return nil
	}
	// Another login may just have hashed the same password again.
	fits, err := s.passwords.verify(ctx, today.passwordHash, password)
	if err != nil {
		return s.hashing(ctx, err)
	}
	if !fits {
		return errWrongPassword
	}
	return nil
}

// bind makes the session the user's, and remembers its token for logout. A
// caller without a session gets the token alone.
func (s *Service) bind(ctx context.Context, session worker.Session, made token) error {
	if session == (worker.Session{}) {
		return nil
	}
	if err := s.tokens.attach(ctx, session.Gate, session.ID, made); err != nil {
		return s.unavailable(ctx, "remember the session's token", err)
	}
	if err := s.gates.Bind(ctx, session, made.user); err != nil {
		return s.unavailable(ctx, "bind the session", err)
	}
	return nil
}

// unbind makes a session nobody's after a login that failed on its way. If it can
// not, the session is gone or its gate away.
func (s *Service) unbind(ctx context.Context, session worker.Session) {
	if session == (worker.Session{}) {
		return
	}
	ctx = context.WithoutCancel(ctx)
	// A gate that did not answer the login may not answer this either.
	call, cancel := context.WithTimeout(ctx, gateTimeout)
	defer cancel()
	err := s.gates.Bind(call, session, 0)
	if status.Code(err) == codes.NotFound {
		err = nil
	}
	if detached := s.tokens.detach(ctx, session.Gate, session.ID); err == nil {
		err = detached
	}
	if err != nil {
		s.logOf(ctx).WithError(err).Warn("auth: a session whose login failed could not be unbound")
	}
}

// undo ends a token that nobody was told of. If that fails too, it still ends
// with its life, and nobody knows it.
func (s *Service) undo(ctx context.Context, made token) {
	if err := s.tokens.end(context.WithoutCancel(ctx), made); err != nil {
		s.logOf(ctx).WithError(err).WithField("user", made.user).Warn("auth: a token that was not handed out could not be ended")
	}
}

// Logout is auth.logout: the token that the session came in with ends, and then
// the session is nobody's. It can be repeated after any failure.
func (s *Service) Logout(ctx context.Context, _ *authpb.LogoutRequest) (*authpb.LogoutResponse, error) {
	caller := s.caller(ctx)
	made, err := s.tokens.attached(ctx, caller.Session.Gate, caller.Session.ID)
	switch {
	case errors.Is(err, errNoToken):
		// The session was bound without one, or an earlier try came this far.
	case err != nil:
		return nil, s.unavailable(ctx, "logout", err)
	// A session's number is its gate's, and a gate's id is new with each start:
	// another user's token there would be a fault, and is not ended.
	case made.user == caller.User:
		if err := s.tokens.end(ctx, made); err != nil {
			return nil, s.unavailable(ctx, "logout", err)
		}
		if err := s.tokens.detach(ctx, caller.Session.Gate, caller.Session.ID); err != nil {
			return nil, s.unavailable(ctx, "logout", err)
		}
	}
	if caller.Session == (worker.Session{}) {
		return &authpb.LogoutResponse{}, nil
	}
	if err := s.gates.Bind(ctx, caller.Session, 0); err != nil && status.Code(err) != codes.NotFound {
		return nil, s.unavailable(ctx, "unbind the session", err)
	}
	return &authpb.LogoutResponse{}, nil
}

// SessionClosed handles the event session.closed: it forgets which token the
// session came in with. The token stays good. A session that goes on, as nobody's or
// as another user's, may have another token by now.
func (s *Service) SessionClosed(ctx context.Context, in *gatepb.SessionClosed) error {
	if in.GetReason() == "unbound" {
		return nil
	}
	return s.tokens.detach(ctx, in.GetGate(), in.GetSession())
}
