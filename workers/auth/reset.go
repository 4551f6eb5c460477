package auth

import (
	"context"
	"time"

	"github.com/pkg/errors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/emailpb"
)

var errTokensLeft = status.Error(codes.Unavailable,
	"the password was changed, but other logins could not all be ended; request another reset to end them")

// reset is one that was asked for and is still to be mailed.
type reset struct {
	of      context.Context // the request that asked, see tracing.Detach
	account string          // folded
}

// RequestReset is auth.request_reset. It only takes the request: whether there
// is such an account is found out afterwards, by Run, so that neither the answer
// nor its time can tell. A replica that dies meanwhile forgets it; the user asks
// again.
func (s *Service) RequestReset(ctx context.Context, in *authpb.RequestResetRequest) (*authpb.RequestResetResponse, error) {
	if err := s.allow(ctx, "reset.address", network(s.caller(ctx).Address), s.cfg.Limits.ResetAddress); err != nil {
		return nil, err
	}
	key, subject := lookup(in.GetAccount())
	if err := s.allow(ctx, "reset.account", subject, s.cfg.Limits.ResetAccount); err != nil {
		return nil, err
	}
	select {
	case <-s.ended:
		return nil, s.unavailable(ctx, "request a reset", errors.New("auth: the service is stopping"))
	default:
	}
	select {
	case s.resets <- reset{tracing.Detach(ctx), key}:
		return &authpb.RequestResetResponse{}, nil
	default:
		return nil, s.unavailable(ctx, "request a reset", errors.Errorf("auth: %d resets are waiting", maxResets))
	}
}

// mailReset makes a code and has it mailed, where the account exists. The mail
// goes to the address also if it was never verified: there is no other way to
// its user, and the code will prove it.
func (s *Service) mailReset(r reset, deadline time.Time) {
	ctx, cancel := context.WithDeadline(r.of, deadline)
	defer cancel()
	u, err := s.users.byKey(ctx, r.account)
	if errors.Is(err, errNoUser) {
		return
	}
	if err != nil {
		s.logOf(ctx).WithError(err).Error("auth: a reset code was not mailed")
		return
	}
	code, expires, err := s.codes.create(ctx, resetPassword, u.id, u.passwordHash)
	if err == nil {
		err = s.cfg.Events.Publish(ctx, eventPasswordReset, &emailpb.PasswordReset{
			To: u.email, Nickname: u.nickname, Code: code, ExpiresAt: expires,
		})
	}
	if err != nil {
		s.logOf(ctx).WithError(err).WithField("user", u.id).Error("auth: a reset code was not mailed")
	}
}

// ResetPassword is auth.reset_password. It replaces the password and ends all
// tokens of the account, and its sessions where the gates can be reached.
func (s *Service) ResetPassword(ctx context.Context, in *authpb.ResetPasswordRequest) (*authpb.ResetPasswordResponse, error) {
	caller := s.caller(ctx)
	if err := s.allow(ctx, "reset.address", network(caller.Address), s.cfg.Limits.ResetAddress); err != nil {
		return nil, err
	}
	key, subject := lookup(in.GetAccount())
	if err := s.allow(ctx, "reset.code", subject, s.cfg.Limits.CodeAccount); err != nil {
		return nil, err
	}
	u, err := s.users.byKey(ctx, key)
	if err != nil && !errors.Is(err, errNoUser) {
		return nil, s.stored(ctx, "reset password", err)
	}
	// The user 0 has no codes: the code of an account that does not exist is
	// looked up like any other, and is wrong.
	right, err := s.codes.check(ctx, resetPassword, u.id, u.passwordHash, in.GetCode())
	if err != nil {
		return nil, s.unavailable(ctx, "check the code", err)
	}
	if !right {
		return nil, s.resetBefore(ctx, caller.Redelivered, u, in)
	}
	if err := s.replace(ctx, u, in); err != nil {
		return nil, err
	}
	return &authpb.ResetPasswordResponse{}, nil
}

// replace does what the code allows.
func (s *Service) replace(ctx context.Context, u user, in *authpb.ResetPasswordRequest) error {
	hash, err := s.passwords.hash(ctx, in.GetPassword())
	if err != nil {
		return s.hashing(ctx, err)
	}
	// Before: where Redis is away, nothing is changed and the code is still good.
	if err := s.tokens.endAll(ctx, u.id); err != nil {
		return s.unavailable(ctx, "end the tokens", err)
	}
	replaced, err := s.users.setPassword(ctx, u, hash, true)
	if err != nil {
		return s.stored(ctx, "reset password", err)
	}
	if !replaced {
		// The password changed since, and the code was made under the old one.
		return errWrongCode
	}
	if err := s.endLogins(ctx, u); err != nil {
		return err
	}
	s.spend(ctx, resetPassword, u, in.GetCode())
	return nil
}

// endLogins ends what came in before the password was replaced: a login with the
// old one may have been under way, see confirm. The code is dead by now, so a repeat
// is of no use to who sent it, and this is done also where the request's time is over.
func (s *Service) endLogins(ctx context.Context, u user) error {
	ctx = context.WithoutCancel(ctx)
	if err := s.tokens.endAll(ctx, u.id); err != nil {
		s.logOf(ctx).WithError(err).WithField("user", u.id).Error("auth: tokens may outlive the password that was reset")
		return errTokensLeft
	}
	ctx, cancel := context.WithTimeout(ctx, gateTimeout)
	defer cancel()
	if _, err := s.gates.KickUser(ctx, u.id, "kicked", "the password was reset"); err != nil {
		s.logOf(ctx).WithError(err).WithField("user", u.id).Warn("auth: sessions go on after the password was reset")
	}
	return nil
}

// resetBefore answers where the code is wrong. A request that the broker
// delivers again may have spent the code itself, and its replica may have died
// before it had ended the logins.
func (s *Service) resetBefore(ctx context.Context, again bool, u user, in *authpb.ResetPasswordRequest) error {
	if !again {
		return errWrongCode
	}
	same, err := s.passwords.verify(ctx, u.passwordHash, in.GetPassword())
	if err != nil {
		return s.hashing(ctx, err)
	}
	if !same {
		return errWrongCode
	}
	return s.endLogins(ctx, u)
}
