// Package presence says on which gates a user is, in Redis: gates write it,
// workers read it to push to a user.
//
// It refuses to know sessions, groups, or whether a client still listens: a
// gate that died without a word stays listed until its users' keys expire, or
// until somebody who could not reach it calls Remove.
package presence

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/errors"
	"github.com/redis/go-redis/v9"
)

// DefaultPrefix begins the keys of an installation that says nothing else.
const DefaultPrefix = "minigate"

// DefaultExpiry is how long a user stays listed without a Refresh.
const DefaultExpiry = 15 * time.Minute

// batch is how many users one pipeline of Refresh carries, so that neither
// side holds an unbounded buffer.
const batch = 500

// addScript writes a gate and the key's expiry in one step: a client that dies
// between the two would leave a key that never expires.
const addScript = `redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])`

// Gate is one gate as other processes reach it.
type Gate struct {
	ID      string
	Address string // host:port of its gRPC service
}

// Config is what a Store needs.
type Config struct {
	// Redis is the caller's, which closes it after the Store's last use.
	Redis redis.UniversalClient
	// Prefix begins all keys; DefaultPrefix where it is empty.
	Prefix string
	// Expiry is how long a user stays listed without an Add or a Refresh;
	// DefaultExpiry where it is 0.
	Expiry time.Duration
}

// Store reads and writes presence. Its methods are safe to call at once. Each
// user is one hash of gate ids and addresses.
type Store struct {
	redis  redis.UniversalClient
	prefix string
	expiry time.Duration
	add    *redis.Script
}

// New returns a Store; it does not connect.
func New(cfg Config) (*Store, error) {
	if cfg.Redis == nil {
		return nil, errors.New("presence: Config.Redis is not set")
	}
	if cfg.Expiry < 0 || (cfg.Expiry > 0 && cfg.Expiry < time.Millisecond) {
		return nil, errors.Errorf("presence: Config.Expiry is %v, want at least 1ms", cfg.Expiry)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if cfg.Expiry == 0 {
		cfg.Expiry = DefaultExpiry
	}
	return &Store{
		redis:  cfg.Redis,
		prefix: cfg.Prefix + ":presence:",
		expiry: cfg.Expiry,
		add:    redis.NewScript(addScript),
	}, nil
}

// Add lists a user as present on a gate; twice is once. The first session of a
// user on a gate calls it.
func (s *Store) Add(ctx context.Context, user int64, gate Gate) error {
	err := s.add.Run(ctx, s.redis, []string{s.key(user)}, gate.ID, gate.Address, s.expiry.Milliseconds()).Err()
	return errors.Wrap(err, "presence: add")
}

// Remove takes a user off a gate: with its last session there, or because the
// gate turned out to be gone. Removing what is not listed is no error.
func (s *Store) Remove(ctx context.Context, user int64, gateID string) error {
	return errors.Wrap(s.redis.HDel(ctx, s.key(user), gateID).Err(), "presence: remove")
}

// Gates returns the gates that a user is on, by id; none where the user is
// nowhere.
func (s *Store) Gates(ctx context.Context, user int64) ([]Gate, error) {
	fields, err := s.redis.HGetAll(ctx, s.key(user)).Result()
	if err != nil {
		return nil, errors.Wrap(err, "presence: gates")
	}
	gates := make([]Gate, 0, len(fields))
	for id, address := range fields {
		gates = append(gates, Gate{ID: id, Address: address})
	}
	slices.SortFunc(gates, func(a, b Gate) int { return strings.Compare(a.ID, b.ID) })
	return gates, nil
}

// Refresh lists users as present on a gate again and renews their expiry. It
// writes rather than touches, so it also heals a Redis that lost its data. A
// gate calls it with all its users, several times within Expiry.
func (s *Store) Refresh(ctx context.Context, gate Gate, users []int64) error {
	for part := range slices.Chunk(users, batch) {
		_, err := s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, user := range part {
				// The script's text and not its hash: in a pipeline there is no second
				// try for a server that does not know the hash.
				p.Eval(ctx, addScript, []string{s.key(user)}, gate.ID, gate.Address, s.expiry.Milliseconds())
			}
			return nil
		})
		if err != nil {
			return errors.Wrap(err, "presence: refresh")
		}
	}
	return nil
}

func (s *Store) key(user int64) string {
	return s.prefix + strconv.FormatInt(user, 10)
}
