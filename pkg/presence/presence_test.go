package presence

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newStore(t *testing.T, expiry time.Duration) (*Store, *redis.Client) {
	t.Helper()
	address := os.Getenv("MINIGATE_TEST_REDIS")
	if address == "" {
		t.Fatal("MINIGATE_TEST_REDIS is not set: want host:port of a Redis server")
	}
	client := redis.NewClient(&redis.Options{Addr: address})
	prefix := fmt.Sprintf("test-%s-%d", t.Name(), time.Now().UnixNano())
	t.Cleanup(func() {
		keys, err := client.Keys(context.Background(), prefix+"*").Result()
		if err != nil {
			t.Errorf("list the test's keys: %v", err)
		}
		if len(keys) > 0 {
			client.Del(context.Background(), keys...)
		}
		if err := client.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	s, err := New(Config{Redis: client, Prefix: prefix, Expiry: expiry})
	if err != nil {
		t.Fatal(err)
	}
	return s, client
}

func wantGates(t *testing.T, s *Store, user int64, want ...Gate) {
	t.Helper()
	got, err := s.Gates(t.Context(), user)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("user %d: got %v, %v, want %v", user, got, err, want)
	}
}

var (
	g1 = Gate{ID: "g1", Address: "10.0.0.1:7101"}
	g2 = Gate{ID: "g2", Address: "[::1]:7101"}
)

func TestAUserIsOnTheGatesThatAddedIt(t *testing.T) {
	s, _ := newStore(t, 0)
	ctx := t.Context()
	wantGates(t, s, 7)
	for _, g := range []Gate{g2, g1, g1} {
		if err := s.Add(ctx, 7, g); err != nil {
			t.Fatal(err)
		}
	}
	wantGates(t, s, 7, g1, g2)
	wantGates(t, s, 8)
	for range 2 {
		if err := s.Remove(ctx, 7, "g1"); err != nil {
			t.Fatal(err)
		}
	}
	wantGates(t, s, 7, g2)
	moved := Gate{ID: "g2", Address: "10.0.0.9:7101"}
	if err := s.Add(ctx, 7, moved); err != nil {
		t.Fatal(err)
	}
	wantGates(t, s, 7, moved)
}

func TestEveryKeyExpires(t *testing.T) {
	s, client := newStore(t, 0)
	ctx := t.Context()
	if err := s.Add(ctx, 7, g1); err != nil {
		t.Fatal(err)
	}
	if err := s.Refresh(ctx, g1, []int64{8}); err != nil {
		t.Fatal(err)
	}
	for _, user := range []int64{7, 8} {
		left, err := client.PTTL(ctx, s.key(user)).Result()
		if err != nil || left <= DefaultExpiry-time.Minute || left > DefaultExpiry {
			t.Errorf("user %d: expires in %v, %v, want %v", user, left, err, DefaultExpiry)
		}
	}

	short, _ := newStore(t, 50*time.Millisecond)
	if err := short.Add(ctx, 7, g1); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); ; <-tick.C {
		gates, err := short.Gates(ctx, 7)
		if err != nil {
			t.Fatal(err)
		}
		if len(gates) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the user is still listed")
		}
	}
}

func TestRefreshRenewsAndHeals(t *testing.T) {
	s, client := newStore(t, 0)
	ctx := t.Context()
	users := make([]int64, 2*batch+1)
	for i := range users {
		users[i] = int64(i) + 1<<60
	}
	if err := s.Add(ctx, users[0], g2); err != nil {
		t.Fatal(err)
	}
	if err := client.PExpire(ctx, s.key(users[0]), time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	// Nothing of the other users is in Redis, as after it lost its data.
	if err := s.Refresh(ctx, g1, users); err != nil {
		t.Fatal(err)
	}
	wantGates(t, s, users[0], g1, g2)
	wantGates(t, s, users[batch], g1)
	wantGates(t, s, users[2*batch], g1)
	if left := client.PTTL(ctx, s.key(users[0])).Val(); left <= time.Minute {
		t.Errorf("expires in %v, want it renewed", left)
	}
	if err := s.Refresh(ctx, g1, nil); err != nil {
		t.Errorf("no users: %v", err)
	}
}

func TestWithoutRedisEveryCallSaysSo(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	defer client.Close()
	s, err := New(Config{Redis: client})
	if err != nil {
		t.Fatal(err)
	}
	_, gates := s.Gates(t.Context(), 7)
	for what, err := range map[string]error{
		"add": s.Add(t.Context(), 7, g1), "remove": s.Remove(t.Context(), 7, "g1"),
		"gates": gates, "refresh": s.Refresh(t.Context(), g1, []int64{7}),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestNewNamesABadSetting(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("without Redis: no error")
	}
	client := redis.NewClient(&redis.Options{})
	defer client.Close()
	for _, expiry := range []time.Duration{-1, time.Microsecond} {
		if _, err := New(Config{Redis: client, Expiry: expiry}); err == nil {
			t.Errorf("expiry %v: no error", expiry)
		}
	}
}
