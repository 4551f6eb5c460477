package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/errors"
	"github.com/redis/go-redis/v9"
)

// tokens keeps who is logged in. In Redis, under the prefix:
//
//	token:HASH       "USER EXPIRES DEVICE"
//	tokens:USER      sorted set of that user's HASHes by expiry
//	session:GATE/ID  "HASH USER", the token that a session came in with
//
// HASH is the SHA-256 of a token, so that who reads Redis can not log in with
// what is there. A token has 256 random bits: it needs no slow hash.
//
// No script touches two of these keys, so that they may live on different nodes
// of a cluster. What a crash leaves between two steps is a HASH in the set
// without a token, which goes with its expiry.
type tokens struct {
	redis  redis.UniversalClient
	prefix string
	life   time.Duration
	max    int
}

// token is what is known of one.
type token struct {
	hash    string
	user    int64
	expires int64 // Unix milliseconds
}

var errNoToken = errors.New("auth: no such token")

func (t tokens) tokenKey(hash string) string { return t.prefix + "token:" + hash }

func (t tokens) userKey(user int64) string {
	return t.prefix + "tokens:" + strconv.FormatInt(user, 10)
}

func (t tokens) sessionKey(gate string, session uint64) string {
	return t.prefix + "session:" + gate + "/" + strconv.FormatUint(session, 10)
}

func hashToken(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// KEYS: a user's set. ARGV: now, the new hash, its expiry, the bound. Returns the
// hashes that have to go. The new one is not among them, and the set lives as long as
// any in it: a life that was made shorter leaves older tokens that outlive the new one.
var addTokenScript = redis.NewScript(`
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
local old = {}
local surplus = redis.call('ZCARD', KEYS[1]) + 1 - tonumber(ARGV[4])
if surplus > 0 then
	old = redis.call('ZRANGE', KEYS[1], 0, surplus - 1)
end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', tonumber(last[2]) - tonumber(ARGV[1])))
return old
`)

// issue makes a token. It is in the user's set before it is good, so that no
// token escapes endAll.
func (t tokens) issue(ctx context.Context, user int64, device string) (string, token, error) {
	secret := base64.RawURLEncoding.EncodeToString(random(32))
	made := token{hash: hashToken(secret), user: user, expires: now() + t.life.Milliseconds()}
	old, err := addTokenScript.Run(ctx, t.redis, []string{t.userKey(user)},
		now(), made.hash, made.expires, t.max).StringSlice()
	if err != nil {
		return "", token{}, errors.Wrap(err, "add a token to its user")
	}
	if err := t.endThese(ctx, user, old); err != nil {
		return "", token{}, err
	}
	value := fmt.Sprintf("%d %d %s", user, made.expires, device)
	if err := t.redis.Set(ctx, t.tokenKey(made.hash), value, t.life).Err(); err != nil {
		return "", token{}, errors.Wrap(err, "store a token")
	}
	return secret, made, nil
}

// find returns whose token it is, errNoToken where it is nobody's.
func (t tokens) find(ctx context.Context, secret string) (token, error) {
	hash := hashToken(secret)
	value, err := t.redis.Get(ctx, t.tokenKey(hash)).Result()
	if errors.Is(err, redis.Nil) {
		return token{}, errNoToken
	}
	if err != nil {
		return token{}, errors.Wrap(err, "find a token")
	}
	user, rest, _ := strings.Cut(value, " ")
	expires, _, _ := strings.Cut(rest, " ")
	found := token{hash: hash}
	var err2 error
	found.user, err = strconv.ParseInt(user, 10, 64)
	found.expires, err2 = strconv.ParseInt(expires, 10, 64)
	if err != nil || err2 != nil {
		return token{}, errors.New("find a token: its record is malformed")
	}
	// Redis ends it too, but only a server that minds its clock.
	if found.expires <= now() {
		return token{}, errNoToken
	}
	return found, nil
}

// end makes a token nobody's.
func (t tokens) end(ctx context.Context, made token) error {
	return t.endThese(ctx, made.user, []string{made.hash})
}

// endAll ends the tokens that a user has at this moment.
func (t tokens) endAll(ctx context.Context, user int64) error {
	hashes, err := t.redis.ZRange(ctx, t.userKey(user), 0, -1).Result()
	if err != nil {
		return errors.Wrap(err, "list a user's tokens")
	}
	// Not the whole set: a login may have added to it since.
	return t.endThese(ctx, user, hashes)
}

// endThese ends tokens of a user, and takes them out of its set then: where it is cut
// off in between, they are still found there.
func (t tokens) endThese(ctx context.Context, user int64, hashes []string) error {
	if err := t.remove(ctx, hashes); err != nil {
		return err
	}
	if len(hashes) == 0 {
		return nil
	}
	members := make([]any, len(hashes))
	for i, hash := range hashes {
		members[i] = hash
	}
	return errors.Wrap(t.redis.ZRem(ctx, t.userKey(user), members...).Err(), "take tokens from their user")
}

func (t tokens) remove(ctx context.Context, hashes []string) error {
	if len(hashes) == 0 {
		return nil
	}
	_, err := t.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, hash := range hashes {
			p.Del(ctx, t.tokenKey(hash))
		}
		return nil
	})
	return errors.Wrap(err, "remove tokens")
}

// attach remembers the token of a session, for as long as the token lives.
func (t tokens) attach(ctx context.Context, gate string, session uint64, made token) error {
	value := made.hash + " " + strconv.FormatInt(made.user, 10)
	life := time.Duration(made.expires-now()) * time.Millisecond
	return errors.Wrap(t.redis.Set(ctx, t.sessionKey(gate, session), value, max(life, time.Millisecond)).Err(), "remember a session's token")
}

// attached returns the token of a session, errNoToken where it has none.
func (t tokens) attached(ctx context.Context, gate string, session uint64) (token, error) {
	value, err := t.redis.Get(ctx, t.sessionKey(gate, session)).Result()
	if errors.Is(err, redis.Nil) {
		return token{}, errNoToken
	}
	if err != nil {
		return token{}, errors.Wrap(err, "find a session's token")
	}
	hash, user, _ := strings.Cut(value, " ")
	id, err := strconv.ParseInt(user, 10, 64)
	if err != nil {
		return token{}, errors.New("find a session's token: its record is malformed")
	}
	return token{hash: hash, user: id}, nil
}

// detach forgets the token of a session.
func (t tokens) detach(ctx context.Context, gate string, session uint64) error {
	return errors.Wrap(t.redis.Del(ctx, t.sessionKey(gate, session)).Err(), "forget a session's token")
}
