package auth

import (
	"context"
	"strings"

	"github.com/pkg/errors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/emailpb"
)

// Events that the service publishes.
const (
	eventRegistered    = "user.registered"
	eventVerification  = "email.verification"
	eventPasswordReset = "email.password_reset"
)

var (
	errTaken = status.Error(codes.AlreadyExists, "the account is taken")
	// What the worker's rules let through and the folding does not.
	errBadAccount = status.Error(codes.InvalidArgument, "the account has characters that an account can not have")
)

// RegisterUser is auth.register. The user is stored only once the broker has
// taken the mail with the code: whoever is told success will get one. The event
// user.registered follows the commit and is lost if the broker fails just then;
// an event about a user who does not exist would be worse.
func (s *Service) RegisterUser(ctx context.Context, in *authpb.RegisterRequest) (*authpb.RegisterResponse, error) {
	caller := s.caller(ctx)
	if err := s.allow(ctx, "register.address", network(caller.Address), s.cfg.Limits.RegisterAddress); err != nil {
		return nil, err
	}
	key, ok := fold(in.GetAccount())
	if !ok {
		return nil, errBadAccount
	}
	switch existing, err := s.users.byKey(ctx, key); {
	case err == nil:
		return s.registeredBefore(ctx, caller.Redelivered, existing, in)
	case !errors.Is(err, errNoUser):
		return nil, s.stored(ctx, "register", err)
	}
	if err := s.allowMail(ctx, in.GetEmail()); err != nil {
		return nil, err
	}
	u, err := s.newUser(ctx, key, in)
	if err != nil {
		return nil, err
	}
	mail, err := s.verification(ctx, u)
	if err != nil {
		return nil, err
	}
	err = s.users.insert(ctx, u, func() error {
		if err := s.cfg.Events.Publish(ctx, eventVerification, mail); err != nil {
			return s.unavailable(ctx, "publish the verification mail", err)
		}
		return nil
	})
	if sqldb.IsDuplicate(err) {
		return nil, errTaken
	}
	if err != nil {
		return nil, s.stored(ctx, "register", err)
	}
	event := &authpb.UserRegistered{User: u.id, Account: u.account, RegisteredAt: u.createdAt}
	if err := s.cfg.Events.Publish(ctx, eventRegistered, event); err != nil {
		s.logOf(ctx).WithError(err).WithField("user", u.id).Error("auth: the event user.registered is lost")
	}
	return &authpb.RegisterResponse{User: u.own()}, nil
}

// registeredBefore answers where the account exists. The broker may deliver a
// request again whose first answer was lost; who registered is then told so,
// and nobody else: the broker says what it delivers again, not the client.
func (s *Service) registeredBefore(ctx context.Context, again bool, u user, in *authpb.RegisterRequest) (*authpb.RegisterResponse, error) {
	if !again || u.email != in.GetEmail() {
		return nil, errTaken
	}
	same, err := s.passwords.verify(ctx, u.passwordHash, in.GetPassword())
	if err != nil {
		return nil, s.hashing(ctx, err)
	}
	if !same {
		return nil, errTaken
	}
	return &authpb.RegisterResponse{User: u.own()}, nil
}

func (s *Service) newUser(ctx context.Context, key string, in *authpb.RegisterRequest) (user, error) {
	hash, err := s.passwords.hash(ctx, in.GetPassword())
	if err != nil {
		return user{}, s.hashing(ctx, err)
	}
	id, err := s.cfg.IDs.Next(ctx)
	if err != nil {
		return user{}, s.unavailable(ctx, "make a user's id", err)
	}
	u := user{
		id: id, account: in.GetAccount(), key: key, nickname: in.GetNickname(),
		email: in.GetEmail(), passwordHash: hash, createdAt: now(),
	}
	if u.nickname == "" {
		u.nickname = u.account
	}
	return u, nil
}

// VerifyEmail is auth.verify_email. An address that is verified already is a
// success, which makes the request one that can be repeated.
func (s *Service) VerifyEmail(ctx context.Context, in *authpb.VerifyEmailRequest) (*authpb.VerifyEmailResponse, error) {
	u, err := s.users.byID(ctx, s.caller(ctx).User)
	if err != nil {
		return nil, s.stored(ctx, "verify e-mail", err)
	}
	if u.emailVerified {
		return &authpb.VerifyEmailResponse{User: u.own()}, nil
	}
	if err := s.allow(ctx, "verify.account", digest(u.key), s.cfg.Limits.CodeAccount); err != nil {
		return nil, err
	}
	right, err := s.codes.check(ctx, verifyEmail, u.id, u.passwordHash, in.GetCode())
	if err != nil {
		return nil, s.unavailable(ctx, "check the code", err)
	}
	if !right {
		return nil, errWrongCode
	}
	if err := s.users.setVerified(ctx, u); err != nil {
		return nil, s.stored(ctx, "verify e-mail", err)
	}
	s.spend(ctx, verifyEmail, u, in.GetCode())
	u.emailVerified = true
	return &authpb.VerifyEmailResponse{User: u.own()}, nil
}

// ResendVerification is auth.resend_verification.
func (s *Service) ResendVerification(ctx context.Context, _ *authpb.ResendVerificationRequest) (*authpb.ResendVerificationResponse, error) {
	u, err := s.users.byID(ctx, s.caller(ctx).User)
	if err != nil {
		return nil, s.stored(ctx, "resend the verification", err)
	}
	if u.emailVerified {
		return nil, status.Error(codes.FailedPrecondition, "the e-mail address is verified already")
	}
	if err := s.allowMail(ctx, u.email); err != nil {
		return nil, err
	}
	mail, err := s.verification(ctx, u)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Events.Publish(ctx, eventVerification, mail); err != nil {
		return nil, s.unavailable(ctx, "publish the verification mail", err)
	}
	return &authpb.ResendVerificationResponse{}, nil
}

// Find is auth.find.
func (s *Service) Find(ctx context.Context, in *authpb.FindRequest) (*authpb.FindResponse, error) {
	var u user
	var err error
	if in.GetId() != 0 {
		u, err = s.users.byID(ctx, in.GetId())
	} else {
		// The key of what can be no account finds nobody.
		key, _ := fold(in.GetAccount())
		u, err = s.users.byKey(ctx, key)
	}
	if err != nil {
		return nil, s.stored(ctx, "find", err)
	}
	return &authpb.FindResponse{User: u.public()}, nil
}

// verification makes a code and the job that mails it.
func (s *Service) verification(ctx context.Context, u user) (*emailpb.Verification, error) {
	code, expires, err := s.codes.create(ctx, verifyEmail, u.id, u.passwordHash)
	if err != nil {
		return nil, s.unavailable(ctx, "make a code", err)
	}
	return &emailpb.Verification{To: u.email, Nickname: u.nickname, Code: code, ExpiresAt: expires}, nil
}

// allowMail keeps strangers from filling somebody's mailbox through us.
func (s *Service) allowMail(ctx context.Context, address string) error {
	return s.allow(ctx, "mail", digest(strings.ToLower(address)), s.cfg.Limits.Mail)
}

// spend ends a code that has served. If it can not, the code still ends with
// its life, and what it allowed is done.
func (s *Service) spend(ctx context.Context, p purpose, u user, code string) {
	if err := s.codes.spend(ctx, p, u.id, u.passwordHash, code); err != nil {
		s.logOf(ctx).WithError(err).WithField("user", u.id).Warn("auth: a code could not be ended")
	}
}

// hashing turns a failure to hash into the answer: the caller's time was over,
// or the stored hash is broken.
func (s *Service) hashing(ctx context.Context, err error) error {
	return s.stored(ctx, "hash a password", err)
}
