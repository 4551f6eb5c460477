package redisdb

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open runs an embedded server until the function that it returns is called.
func open(t *testing.T, path string) (e *Embedded, stop func()) {
	t.Helper()
	e, err := OpenEmbedded(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return e, stop
}

func TestEmbeddedKeepsItsDataOverARestart(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "data", "redis.json")
	e, stop := open(t, path)
	_, err := e.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, "m:token:a", "42", time.Hour)
		p.Set(ctx, "m:forever", "\x00\xff bytes", 0)
		p.HSet(ctx, "m:hash", "f", "v")
		p.SAdd(ctx, "m:set", "x", "y")
		p.ZAdd(ctx, "m:zset", redis.Z{Score: 1.5, Member: "z"})
		p.HSet(ctx, "m:presence:42", "gate", "address")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	stop()

	e, _ = open(t, path)
	if got := e.Get(ctx, "m:token:a").Val(); got != "42" {
		t.Errorf("token: got %q", got)
	}
	if ttl := e.TTL(ctx, "m:token:a").Val(); ttl <= 59*time.Minute || ttl > time.Hour {
		t.Errorf("expiry of the token: got %v, want almost 1h", ttl)
	}
	if got := e.Get(ctx, "m:forever").Val(); got != "\x00\xff bytes" {
		t.Errorf("bytes: got %q", got)
	}
	if got := e.HGet(ctx, "m:hash", "f").Val(); got != "v" {
		t.Errorf("hash: got %q", got)
	}
	if got := e.SCard(ctx, "m:set").Val(); got != 2 {
		t.Errorf("set: got %d members", got)
	}
	if got := e.ZScore(ctx, "m:zset", "z").Val(); got != 1.5 {
		t.Errorf("sorted set: got %v", got)
	}
	if got := e.Exists(ctx, "m:presence:42").Val(); got != 0 {
		t.Error("who was connected before the restart is still listed")
	}
}

func TestEmbeddedLetsKeysExpire(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	e, _ := open(t, "")
	if err := e.Set(ctx, "k", "v", 300*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for e.Exists(ctx, "k").Val() != 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the key never expires")
		}
	}
}

func TestEmbeddedRefusesAFileThatItDidNotWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "redis.json")
	if err := os.WriteFile(path, []byte("no json"), 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := OpenEmbedded(path); err == nil {
		t.Error(e.close())
		t.Fatal("a broken file was taken")
	}
}

func TestOneProcessAtATimeHasTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "redis.json")
	_, stop := open(t, path)
	if e, err := OpenEmbedded(path); !errors.Is(err, ErrInUse) {
		if err == nil {
			t.Error(e.close())
		}
		t.Fatalf("a second one: got %v, want ErrInUse", err)
	}
	stop()
	open(t, path)
}

func TestOpenTalksToARealServer(t *testing.T) {
	address := os.Getenv("MINIGATE_TEST_REDIS")
	if address == "" {
		t.Fatal("MINIGATE_TEST_REDIS is not set: run the tests with `make test`")
	}
	for _, url := range []string{address, "redis://" + address + "/1"} {
		c, err := Open(Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		if err := Ping(context.Background(), c); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Open(Config{URL: "redis://%zz"}); err == nil {
		t.Error("a malformed URL was taken")
	}
}

// TestOpenRefusesWhatIsNoAddress: an address that can never work is found at
// once, and the password in it is not shown.
func TestOpenRefusesWhatIsNoAddress(t *testing.T) {
	for _, address := range []string{
		"", "localhost", "http://user:hidden@127.0.0.1", "redis://:hidden@127.0.0.1:port", "redis://user:hidden/x@127.0.0.1:6379",
		"user:hidden@127.0.0.1:6379", ":hidden@127.0.0.1:6379", "127.0.0.1:0", "127.0.0.1:65536", "redis://:hidden@127.0.0.1:6379/db",
	} {
		c, err := Open(Config{URL: address})
		if err == nil {
			t.Errorf("%q is taken", address)
			_ = c.Close()
			continue
		}
		if text := err.Error(); strings.Contains(text, "hidden") || !strings.Contains(text, "want HOST:PORT or redis://") {
			t.Errorf("%q: %s", address, text)
		}
	}
	for _, address := range []string{"127.0.0.1:6379", "redis:6379", "[::1]:6379", "redis://:secret@127.0.0.1:6379/1", "rediss://redis", "unix:///run/redis.sock"} {
		c, err := Open(Config{URL: address})
		if err != nil {
			t.Errorf("%q: %v", address, err)
			continue
		}
		_ = c.Close()
	}
}
