package snowflakes

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
)

// The test binary starts itself again with these set, as a process that makes
// ids; see children_test.go.
const (
	childPrefix = "MINIGATE_SNOWFLAKES_CHILD_PREFIX"
	childNodes  = "MINIGATE_SNOWFLAKES_CHILD_NODES"
	childLease  = "MINIGATE_SNOWFLAKES_CHILD_LEASE"
)

func TestMain(m *testing.M) {
	if prefix := os.Getenv(childPrefix); prefix != "" {
		if err := makeIDs(prefix); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// makeIDs writes ids to standard output, 8 bytes each, until SIGTERM.
func makeIDs(prefix string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	nodes, err := strconv.Atoi(os.Getenv(childNodes))
	if err != nil {
		return err
	}
	lease, err := time.ParseDuration(os.Getenv(childLease))
	if err != nil {
		return err
	}
	client := redis.NewClient(&redis.Options{Addr: os.Getenv("MINIGATE_TEST_REDIS")})
	defer client.Close()
	log := logrus.New()
	log.SetLevel(logrus.ErrorLevel)
	g, err := New(Config{Redis: client, Prefix: prefix, Lease: lease, Wait: time.Millisecond, Log: log, nodes: nodes})
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	out := bufio.NewWriter(os.Stdout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return <-done
		case <-tick.C:
		}
		for range 20 {
			id, err := g.Next(ctx)
			if err != nil {
				break
			}
			if _, err := out.Write(binary.LittleEndian.AppendUint64(nil, uint64(id))); err != nil {
				return err
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
}

// testRedis returns a client of the real server, and a prefix that no other
// test uses; its keys go when the test ends.
func testRedis(t *testing.T) (*redis.Client, string) {
	t.Helper()
	address := os.Getenv("MINIGATE_TEST_REDIS")
	if address == "" {
		t.Fatal("MINIGATE_TEST_REDIS is not set: it must name a Redis server, for example 127.0.0.1:6379")
	}
	client := redis.NewClient(&redis.Options{Addr: address})
	prefix := "test-" + rand.Text()
	t.Cleanup(func() {
		ctx := context.Background()
		names, err := client.Keys(ctx, prefix+":*").Result()
		if err == nil && len(names) > 0 {
			err = client.Del(ctx, names...).Err()
		}
		if err != nil {
			t.Error("remove the test's keys:", err)
		}
		client.Close()
	})
	return client, prefix
}

// start runs a generator until the test ends, or until stop is called.
func start(t *testing.T, cfg Config) (g *Generator, stop func()) {
	t.Helper()
	if cfg.Log == nil {
		log := logrus.New()
		log.SetOutput(t.Output())
		cfg.Log = log
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := g.Run(ctx); err != nil {
			t.Error("Run:", err)
		}
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	return g, stop
}

// eventually polls a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatal("not within 30 s: " + what)
		}
		<-time.After(5 * time.Millisecond)
	}
}
