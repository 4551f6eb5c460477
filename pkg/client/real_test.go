package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/codec"
	realgate "github.com/motto123/minigate/gate"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/pkg/presence"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/workers/echo"
)

// world is gates, one after the other, and an echo behind them.
type world struct {
	t        *testing.T
	bus      *mem.Bus
	presence *presence.Store
	log      *logrus.Logger

	mu    sync.Mutex
	users map[string]int64 // by token
}

func newWorld(t *testing.T) *world {
	t.Helper()
	address := os.Getenv("MINIGATE_TEST_REDIS")
	if address == "" {
		t.Fatal("MINIGATE_TEST_REDIS is not set: want host:port of a Redis")
	}
	redis := redis.NewClient(&redis.Options{Addr: address})
	t.Cleanup(func() { _ = redis.Close() })
	w := &world{t: t, bus: mem.New(mem.Config{}), log: logrus.New(), users: map[string]int64{}}
	w.log.SetOutput(io.Discard)
	var err error
	prefix := fmt.Sprintf("client-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	if w.presence, err = presence.New(presence.Config{Redis: redis, Prefix: prefix, Expiry: time.Minute}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.bus.Close() })
	w.run("echo", echo.New(worker.Config{Bus: w.bus, Log: w.log}).Run)
	return w
}

// run runs a part until the function that it returns is called.
func (w *world) run(name string, part func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- part(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// gate runs a gate on an address, and returns where it is.
func (w *world) gate(address string) (at string, stop func()) {
	w.t.Helper()
	g, err := realgate.New(realgate.Config{
		TCP: address, GRPC: "127.0.0.1:0", Bus: w.bus, Presence: w.presence, Verify: w, Log: w.log, Loops: 1,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	stop = w.run("gate", g.Run)
	wait(w.t, "the gate", g.Ready())
	return g.TCPAddress(), stop
}

// Verify knows the users of the world.
func (w *world) Verify(_ context.Context, token, _ string, _ uint64) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if user := w.users[token]; user != 0 {
		return user, nil
	}
	return 0, status.Error(codes.Unauthenticated, "no such token")
}

func (w *world) user(token string, id int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.users[token] = id
}

// TestRealGateRestarted: the client is back, and logged in, until its token is
// refused.
func TestRealGateRestarted(t *testing.T) {
	w := newWorld(t)
	w.user("token", 7)
	address, stop := w.gate("127.0.0.1:0")
	s := newStates()
	c, err := client.Dial(t.Context(), "tcp://"+address, client.Options{Token: "token", Reconnect: s.quick()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	session := c.Session()
	s.wait(t, client.Connected)
	for range 2 {
		stop()
		var kick *client.KickError
		if lost := s.wait(t, client.Reconnecting); !errors.As(lost.Err, &kick) {
			t.Errorf("lost with %v, want a kick", lost.Err)
		}
		called := make(chan error, 1)
		go func() {
			out, err := c.CallRaw(t.Context(), "echo.echo", codec.Text, "", []byte("made meanwhile"))
			if err == nil && string(out.Body) != "made meanwhile" {
				err = fmt.Errorf("answered %q", out.Body)
			}
			called <- err
		}()
		_, stop = w.gate(address)
		s.wait(t, client.Connected)
		if err := <-called; err != nil {
			t.Error(err)
		}
		if c.UserID() != 7 || c.Session() == session {
			t.Errorf("user %d, session %q", c.UserID(), c.Session())
		}
		session = c.Session()
	}
	w.user("token", 0)
	stop()
	w.gate(address)
	if end := s.wait(t, client.Ended); !refused(401, 0)(end.Err) || !refused(401, 0)(c.Err()) {
		t.Errorf("without its token: %v, then %v", end.Err, c.Err())
	}
}
