package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"time"

	"github.com/pkg/errors"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Limit allows Burst at once, and then one each Every. The zero Limit is the
// default; a negative Burst is no limit.
type Limit struct {
	Burst int
	Every time.Duration
}

// Limits bound how often one may try. An address is an IPv4 address or the
// first 64 bits of an IPv6 address, of which one customer has as many as they
// like. An account is limited under its name whether or not it exists.
//
// A limit by account lets a stranger keep its owner out for as long as they go
// on trying. The other choice is to let a stranger with many addresses guess.
type Limits struct {
	LoginAddress    Limit // auth.login; 20, then one in 3 s
	LoginAccount    Limit // auth.login; 10, then one in 30 s
	RegisterAddress Limit // auth.register; 10, then one a minute
	ResetAddress    Limit // auth.request_reset and reset_password; 10, then one a minute
	ResetAccount    Limit // auth.request_reset; 3, then one in 10 min
	CodeAccount     Limit // auth.verify_email and reset_password; 10, then one in 6 min
	Mail            Limit // verification mails to one e-mail address; 5, then one in 10 min
}

func (l Limits) withDefaults() (Limits, error) {
	for _, f := range []struct {
		name string
		l    *Limit
		def  Limit
	}{
		{"LoginAddress", &l.LoginAddress, Limit{20, 3 * time.Second}},
		{"LoginAccount", &l.LoginAccount, Limit{10, 30 * time.Second}},
		{"RegisterAddress", &l.RegisterAddress, Limit{10, time.Minute}},
		{"ResetAddress", &l.ResetAddress, Limit{10, time.Minute}},
		{"ResetAccount", &l.ResetAccount, Limit{3, 10 * time.Minute}},
		{"CodeAccount", &l.CodeAccount, Limit{10, 6 * time.Minute}},
		{"Mail", &l.Mail, Limit{5, 10 * time.Minute}},
	} {
		if *f.l == (Limit{}) {
			*f.l = f.def
		}
		if f.l.Burst == 0 || f.l.Burst > 0 && f.l.Every < time.Millisecond {
			return l, errors.Errorf("auth: limit %s of %d, then one in %v: want 1 or more (or less than 0 for none), then one in 1ms or more",
				f.name, f.l.Burst, f.l.Every)
		}
	}
	return l, nil
}

// limiter counts in Redis, so that all replicas count together.
type limiter struct {
	redis  redis.UniversalClient
	prefix string
}

// The generic cell rate algorithm keeps one number: the time at which all that
// was allowed is used up. By Redis' own clock, in microseconds, because the
// workers' clocks differ. KEYS: the number. ARGV: the interval, the burst.
// Returns 0, or how many milliseconds to wait.
var limitScript = redis.NewScript(`
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local interval = tonumber(ARGV[1])
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
if used < now then
	used = now
end
local after = used + interval
local wait = after - interval * tonumber(ARGV[2]) - now
if wait > 0 then
	return math.ceil(wait / 1000)
end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
return 0
`)

// allow counts one try, and returns RESOURCE_EXHAUSTED where it is one too many.
func (s *Service) allow(ctx context.Context, name, subject string, l Limit) error {
	if l.Burst < 0 {
		return nil
	}
	key := s.limiter.prefix + name + ":" + subject
	wait, err := limitScript.Run(ctx, s.limiter.redis, []string{key}, l.Every.Microseconds(), l.Burst).Int64()
	if err != nil {
		return s.unavailable(ctx, "limit "+name, err)
	}
	if wait > 0 {
		seconds := (wait + 999) / 1000
		return status.Error(codes.ResourceExhausted, fmt.Sprintf("too many tries, wait %d s", seconds))
	}
	return nil
}

// network is what an address counts under.
func network(a netip.Addr) string {
	a = a.Unmap()
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	// All callers of whom the gate does not say an address are one.
	return a.String()
}

// digest is a short name for a text of any length and characters.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}
