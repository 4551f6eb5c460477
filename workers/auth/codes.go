package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"strconv"
	"time"

	"github.com/pkg/errors"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// purpose is what a code allows; a code for one does not do for another.
type purpose string

const (
	verifyEmail   purpose = "verify"
	resetPassword purpose = "reset"
)

// A code is wrong so often before it is dead. Six digits, five tries: one in
// 200,000 for each code, and the limits say how many codes there are.
const maxTries = 5

// codeStore keeps the codes that were mailed: one for each user and purpose, a
// newer one replaces it. In Redis, under the prefix:
//
//	code:PURPOSE:USER  hash of digest, expires, tries
//
// A million codes are tried in no time, so a plain hash would hide nothing. The
// digest is keyed with the user's password hash, which is in the other
// database; it also makes a code end with the password it was made under.
type codeStore struct {
	redis  redis.UniversalClient
	prefix string
	life   time.Duration
}

var errWrongCode = status.Error(codes.PermissionDenied, "the code is wrong or no longer valid")

func (c codeStore) key(p purpose, user int64) string {
	return c.prefix + "code:" + string(p) + ":" + strconv.FormatInt(user, 10)
}

func codeDigest(p purpose, user int64, secret, code string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%s %d %s", p, user, code)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// create makes a code and returns it with the time when it ends.
func (c codeStore) create(ctx context.Context, p purpose, user int64, secret string) (code string, expires int64, err error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
	if err != nil {
		return "", 0, errors.Wrap(err, "make a code")
	}
	code = fmt.Sprintf("%06d", n)
	expires = now() + c.life.Milliseconds()
	key := c.key(p, user)
	_, err = c.redis.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		tx.HSet(ctx, key, "digest", codeDigest(p, user, secret, code), "expires", expires, "tries", 0)
		tx.PExpire(ctx, key, c.life)
		return nil
	})
	return code, expires, errors.Wrap(err, "store a code")
}

// KEYS: a code. ARGV: the digest of what was given, now, the bound. Returns
// whether it is right.
var checkCodeScript = redis.NewScript(`
local stored = redis.call('HMGET', KEYS[1], 'digest', 'expires')
if not stored[1] or tonumber(stored[2]) <= tonumber(ARGV[2]) then
	return 0
end
if stored[1] == ARGV[1] then
	return 1
end
if redis.call('HINCRBY', KEYS[1], 'tries', 1) >= tonumber(ARGV[3]) then
	redis.call('DEL', KEYS[1])
end
return 0
`)

// check reports whether a code is right, and counts it against the code where
// it is not. A right code stays until it is spent, so that its owner can try
// again if what it allows then fails.
func (c codeStore) check(ctx context.Context, p purpose, user int64, secret, code string) (bool, error) {
	ok, err := checkCodeScript.Run(ctx, c.redis, []string{c.key(p, user)}, codeDigest(p, user, secret, code), now(), maxTries).Bool()
	return ok, errors.Wrap(err, "check a code")
}

// KEYS: a code. ARGV: its digest. A newer code stays.
var spendCodeScript = redis.NewScript(`
if redis.call('HGET', KEYS[1], 'digest') == ARGV[1] then
	return redis.call('DEL', KEYS[1])
end
return 0
`)

// spend ends a code that has served.
func (c codeStore) spend(ctx context.Context, p purpose, user int64, secret, code string) error {
	err := spendCodeScript.Run(ctx, c.redis, []string{c.key(p, user)}, codeDigest(p, user, secret, code)).Err()
	return errors.Wrap(err, "spend a code")
}
