// Package redisdb opens the Redis that presence, tokens, codes, limits and node
// leases live in: a server, or one in this process that keeps its data in a file.
//
// It refuses to know any key: each belongs to the package that writes it.
package redisdb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
)

// Config says which Redis.
type Config struct {
	// URL is host:port, or a URL such as redis://:password@host:6379/0.
	URL string
	// PoolSize bounds the connections; 10 a processor where it is 0.
	PoolSize int
	// Timeout bounds reading and writing one command; 2 s where it is 0.
	Timeout time.Duration
}

// CheckURL says what is wrong with a server's address, as Config has it, without its
// password.
func CheckURL(address string) error {
	_, err := options(address)
	return err
}

// Open returns a client of a server. It does not wait for the server to be
// there: a command fails until it is.
func Open(cfg Config) (redis.UniversalClient, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 2 * time.Second
	}
	o, err := options(cfg.URL)
	if err != nil {
		return nil, err
	}
	o.PoolSize = cfg.PoolSize
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = cfg.Timeout, cfg.Timeout, cfg.Timeout
	o.ContextTimeoutEnabled = true
	return redis.NewClient(o), nil
}

func options(address string) (*redis.Options, error) {
	o, err := read(address)
	if err != nil {
		return nil, fmt.Errorf("redis address: %w; want HOST:PORT or redis://:PASSWORD@HOST:PORT/DB", err)
	}
	return o, nil
}

// read reads an address. Its errors do not repeat what may hold a password, which is
// why they are not those of net/url.
func read(address string) (*redis.Options, error) {
	if strings.Contains(address, "://") {
		if _, err := url.Parse(address); err != nil {
			return nil, errors.New("not a URL")
		}
		return redis.ParseURL(address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || strings.Contains(host, "@") {
		return nil, errors.New("neither HOST:PORT nor a URL")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return nil, errors.New("the port is no number from 1 to 65535")
	}
	return &redis.Options{Addr: address}, nil
}

// LogTo has go-redis say to log what it would print: mostly that a server is not
// there, which the commands that fail say too. It is for the whole process.
func LogTo(log logrus.FieldLogger) { redis.SetLogger(quiet{log}) }

type quiet struct{ log logrus.FieldLogger }

func (q quiet) Printf(_ context.Context, format string, v ...any) {
	q.log.Debugf("redis: "+format, v...)
}

// Ping says whether the server answers.
func Ping(ctx context.Context, c redis.UniversalClient) error {
	if err := c.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ping redis: %w", err)
	}
	return nil
}
