// Package auth is the service of accounts: it registers users, logs them in and
// out, proves their e-mail addresses and resets forgotten passwords. Passwords
// are kept as argon2id, tokens and codes in Redis and only as hashes.
//
// It refuses to tell strangers who has an account: login, request_reset and
// reset_password answer alike, and do the same work, whether or not the account
// exists. register can not: it has to say that a name is taken. It is slow by
// its limit for an address instead.
//
// It refuses to do half of something: where MySQL, Redis or the broker is away,
// the client is told UNAVAILABLE and may try again.
package auth

import (
	"context"
	"time"

	"github.com/pkg/errors"
	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/pkg/worker"
)

// Publisher publishes an event; when it returns nil, the broker has it.
type Publisher interface {
	Publish(ctx context.Context, name string, m proto.Message) error
}

// IDs makes ids that nobody else makes.
type IDs interface {
	Next(ctx context.Context) (int64, error)
}

// Gates is what the service asks of gates; *worker.Worker does it.
type Gates interface {
	Bind(ctx context.Context, s worker.Session, user int64) error
	KickUser(ctx context.Context, user int64, code, reason string) (int, error)
}

// Config is what the service needs. DB, Redis, IDs and Events must be set.
type Config struct {
	DB     *sqldb.DB
	Redis  redis.UniversalClient
	IDs    IDs
	Events Publisher

	// Prefix begins the names of all keys in Redis; "minigate" where it is empty.
	Prefix string
	// Passwords is the cost of a password's hash.
	Passwords PasswordConfig
	// TokenLife is how long a token is good for; 30 days where it is 0.
	TokenLife time.Duration
	// TokensPerUser bounds the tokens of a user; one more ends the oldest. 20
	// where it is 0.
	TokensPerUser int
	// CodeLife is how long a code is good for; 15 minutes where it is 0.
	CodeLife time.Duration
	// Limits bound how often one may try.
	Limits Limits
	// Log takes what clients are not told; logrus' standard logger where it is nil.
	Log logrus.FieldLogger
}

const (
	defaultPrefix        = "minigate"
	defaultTokenLife     = 30 * 24 * time.Hour
	defaultTokensPerUser = 20
	defaultCodeLife      = 15 * time.Minute

	// resets that wait to be mailed; one takes a few milliseconds.
	maxResets = 256
	// One of them has this long, and so have all that wait when Run ends.
	resetTimeout = 5 * time.Second
	// What a gate has for a call that does not end with its request.
	gateTimeout = 3 * time.Second
)

// Service is one replica. Its handlers are safe to call at once.
type Service struct {
	cfg       Config
	log       logrus.FieldLogger
	users     users
	tokens    tokens
	codes     codeStore
	limiter   limiter
	passwords *passwords
	gates     Gates
	caller    func(context.Context) worker.Caller

	resets chan reset
	ended  chan struct{} // closed when Run has ended
}

// New checks the configuration. It connects to nothing and starts nothing.
func New(cfg Config) (*Service, error) {
	for name, missing := range map[string]bool{
		"DB": cfg.DB == nil, "Redis": cfg.Redis == nil, "IDs": cfg.IDs == nil, "Events": cfg.Events == nil,
	} {
		if missing {
			return nil, errors.Errorf("auth: %s is not set", name)
		}
	}
	if cfg.Prefix == "" {
		cfg.Prefix = defaultPrefix
	}
	if cfg.TokenLife == 0 {
		cfg.TokenLife = defaultTokenLife
	}
	if cfg.TokensPerUser == 0 {
		cfg.TokensPerUser = defaultTokensPerUser
	}
	if cfg.CodeLife == 0 {
		cfg.CodeLife = defaultCodeLife
	}
	if cfg.TokenLife < time.Second || cfg.CodeLife < time.Second {
		return nil, errors.Errorf("auth: tokens live %v and codes %v, want at least 1s", cfg.TokenLife, cfg.CodeLife)
	}
	if cfg.TokensPerUser < 0 {
		return nil, errors.Errorf("auth: %d tokens for a user, want at least 1", cfg.TokensPerUser)
	}
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	limits, err := cfg.Limits.withDefaults()
	if err != nil {
		return nil, err
	}
	cfg.Limits = limits
	passwords, err := newPasswords(cfg.Passwords)
	if err != nil {
		return nil, err
	}
	prefix := cfg.Prefix + ":auth:"
	return &Service{
		cfg:       cfg,
		log:       cfg.Log,
		users:     users{db: cfg.DB},
		tokens:    tokens{redis: cfg.Redis, prefix: prefix, life: cfg.TokenLife, max: cfg.TokensPerUser},
		codes:     codeStore{redis: cfg.Redis, prefix: prefix, life: cfg.CodeLife},
		limiter:   limiter{redis: cfg.Redis, prefix: prefix + "limit:"},
		passwords: passwords,
		caller:    worker.From,
		resets:    make(chan reset, maxResets),
		ended:     make(chan struct{}),
	}, nil
}

// Register gives a worker the service's routes. The worker also carries what
// the service says to gates; it needs its Presence to end the sessions of
// somebody whose password was reset.
func (s *Service) Register(w *worker.Worker) {
	s.gates = w
	worker.Handle(w, "auth.register", s.RegisterUser, worker.Public())
	worker.Handle(w, "auth.login", s.Login, worker.Public())
	worker.Handle(w, "auth.logout", s.Logout)
	worker.Handle(w, "auth.verify_email", s.VerifyEmail)
	worker.Handle(w, "auth.resend_verification", s.ResendVerification)
	worker.Handle(w, "auth.request_reset", s.RequestReset, worker.Public())
	worker.Handle(w, "auth.reset_password", s.ResetPassword, worker.Public())
	worker.Handle(w, "auth.find", s.Find)
}

// Run mails reset codes until ctx ends, and then what is still waiting. It is
// called once, and should outlast the worker's Run. It ends within 10 s of ctx.
func (s *Service) Run(ctx context.Context) error {
	defer close(s.ended)
	for {
		select {
		case r := <-s.resets:
			// What was begun is finished when ctx ends meanwhile.
			s.mailReset(r, time.Now().Add(resetTimeout))
		case <-ctx.Done():
			s.drain(time.Now().Add(resetTimeout))
			return nil
		}
	}
}

func (s *Service) drain(deadline time.Time) {
	for {
		select {
		case r := <-s.resets:
			s.mailReset(r, deadline)
		default:
			return
		}
	}
}

// logOf is the log, with what names the request that ctx belongs to.
func (s *Service) logOf(ctx context.Context) logrus.FieldLogger {
	return s.log.WithFields(tracing.Fields(ctx))
}

// errUnavailable says no more than that: what is away is for the log.
var errUnavailable = status.Error(codes.Unavailable, "accounts are not available just now, try again")

// unavailable turns a failure of Redis, the broker or the ids into the answer.
func (s *Service) unavailable(ctx context.Context, operation string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	s.logOf(ctx).WithError(err).WithField("operation", operation).Warn("auth: answered UNAVAILABLE")
	return errUnavailable
}

// stored turns a failure of the database into the answer: one that will pass is
// UNAVAILABLE, any other a fault of ours that the worker logs.
func (s *Service) stored(ctx context.Context, operation string, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if sqldb.Unavailable(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return s.unavailable(ctx, operation, err)
	}
	return errors.Wrap(err, operation)
}

func now() int64 { return time.Now().UnixMilli() }
