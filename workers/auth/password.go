package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/pkg/errors"
	"golang.org/x/crypto/argon2"
)

// PasswordConfig is the cost of argon2id. The defaults are OWASP's first choice
// for it. A password that was hashed at another cost is hashed again when its
// owner logs in.
type PasswordConfig struct {
	MemoryKiB   uint32 // 19,456 where it is 0
	Iterations  uint32 // 2 where it is 0
	Parallelism uint8  // 1 where it is 0
	// Concurrent bounds the hashes under way, and with MemoryKiB the memory
	// that they take; the number of processors where it is 0. Others wait.
	Concurrent int
}

const (
	saltBytes = 16
	hashBytes = 32
	// A hash that asks for more was not written by this service; it must not
	// take the machine's memory.
	maxMemoryKiB  = 1 << 20
	maxIterations = 64
)

var errPasswordHash = errors.New("auth: malformed password hash")

// passwords hashes and compares. It is safe for concurrent use.
type passwords struct {
	cfg   PasswordConfig
	dummy string        // the hash of a password that nobody knows
	slots chan struct{} // one for each hash under way
	runs  atomic.Int64  // hashes computed
}

func newPasswords(cfg PasswordConfig) (*passwords, error) {
	if cfg.MemoryKiB == 0 {
		cfg.MemoryKiB = 19456
	}
	if cfg.Iterations == 0 {
		cfg.Iterations = 2
	}
	if cfg.Parallelism == 0 {
		cfg.Parallelism = 1
	}
	if cfg.Concurrent == 0 {
		cfg.Concurrent = runtime.GOMAXPROCS(0)
	}
	if cfg.Concurrent < 0 || cfg.MemoryKiB < 8*uint32(cfg.Parallelism) || cfg.MemoryKiB > maxMemoryKiB || cfg.Iterations > maxIterations {
		return nil, errors.Errorf("auth: password cost %+v, want 8 KiB for each thread to 1 GiB, at most %d iterations, 1 or more at once",
			cfg, maxIterations)
	}
	p := &passwords{cfg: cfg, slots: make(chan struct{}, cfg.Concurrent)}
	// Comparing with it costs what comparing with a real one does. No password
	// fits: its hash is random.
	p.dummy = p.format(random(saltBytes), random(hashBytes))
	return p, nil
}

// hash returns the PHC string of a password.
func (p *passwords) hash(ctx context.Context, password string) (string, error) {
	salt := random(saltBytes)
	key, err := p.run(ctx, phc{memory: p.cfg.MemoryKiB, iterations: p.cfg.Iterations, parallelism: p.cfg.Parallelism, salt: salt, key: make([]byte, hashBytes)}, password)
	if err != nil {
		return "", err
	}
	return p.format(salt, key), nil
}

// verify reports whether a password fits a PHC string. An empty one stands for
// an account that does not exist: it takes the same time and never fits.
func (p *passwords) verify(ctx context.Context, encoded, password string) (bool, error) {
	missing := encoded == ""
	if missing {
		encoded = p.dummy
	}
	parsed, err := parsePHC(encoded)
	if err != nil {
		return false, err
	}
	key, err := p.run(ctx, parsed, password)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(key, parsed.key) == 1 && !missing, nil
}

// outdated reports whether a PHC string was made at another cost.
func (p *passwords) outdated(encoded string) bool {
	parsed, err := parsePHC(encoded)
	return err != nil || parsed.memory != p.cfg.MemoryKiB || parsed.iterations != p.cfg.Iterations ||
		parsed.parallelism != p.cfg.Parallelism || len(parsed.key) != hashBytes || len(parsed.salt) != saltBytes
}

// run computes a hash when its turn comes.
func (p *passwords) run(ctx context.Context, with phc, password string) ([]byte, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.runs.Add(1)
	return argon2.IDKey([]byte(password), with.salt, with.iterations, with.memory, with.parallelism, uint32(len(with.key))), nil
}

func (p *passwords) format(salt, key []byte) string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.cfg.MemoryKiB, p.cfg.Iterations, p.cfg.Parallelism,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))
}

// phc is the PHC string format of argon2id:
//
//	$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH
type phc struct {
	memory, iterations uint32
	parallelism        uint8
	salt, key          []byte
}

func parsePHC(encoded string) (phc, error) {
	var p phc
	parts := strings.Split(encoded, "$")
	// base64 skips line ends.
	if len(parts) != 6 || strings.ContainsAny(encoded, "\r\n") || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return phc{}, errPasswordHash
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.iterations, &p.parallelism); err != nil ||
		parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", p.memory, p.iterations, p.parallelism) {
		return phc{}, errPasswordHash
	}
	var err, err2 error
	p.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	p.key, err2 = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if err != nil || err2 != nil || len(p.salt) < 8 || len(p.key) < 16 || len(p.key) > 128 ||
		p.memory > maxMemoryKiB || p.iterations < 1 || p.iterations > maxIterations || p.parallelism < 1 {
		return phc{}, errPasswordHash
	}
	return p, nil
}

// random never fails: where the system has no randomness, crypto/rand ends the
// process.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}
