package load

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/gate"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/workers/echo"
)

func TestMain(m *testing.M) {
	// gnet has a pool whose goroutines begin with the process.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

const patience = 20 * time.Second

func quiet() *logrus.Logger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

// startGate runs a gate and the echo worker on a bus in memory, and returns the
// gate's addresses over TCP and over WebSocket. change sees both configurations.
func startGate(t testing.TB, change func(*gate.Config, *worker.Worker)) map[string]string {
	t.Helper()
	b := mem.New(mem.Config{})
	t.Cleanup(func() { _ = b.Close() })
	cfg := gate.Config{TCP: "127.0.0.1:0", WebSocket: "127.0.0.1:0", Bus: b, Log: quiet(), Heartbeat: time.Second}
	w := echo.New(worker.Config{Bus: b, Log: quiet()})
	worker.HandleRaw(w, "echo.fail", func(context.Context, worker.Raw) (worker.Raw, error) {
		return worker.Raw{}, status.Error(codes.FailedPrecondition, "never")
	}, worker.Public())
	worker.HandleRaw(w, "echo.garble", func(_ context.Context, in worker.Raw) (worker.Raw, error) {
		data := append([]byte(nil), in.Data...)
		data[len(data)-1]++
		in.Data = data
		return in, nil
	}, worker.Public())
	if change != nil {
		change(&cfg, w)
	}
	g, err := gate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	background(t, w.Run)
	background(t, g.Run)
	select {
	case <-g.Ready():
	case <-time.After(patience):
		t.Fatal("the gate is not ready")
	}
	tcp := "tcp://" + g.TCPAddress()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for { // until the worker is there
		c, err := client.Dial(ctx, tcp, client.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.CallRaw(ctx, echo.Route, codec.Text, "", []byte("hello"))
		_ = c.Close()
		if err == nil {
			break
		}
		if status.Code(err) != codes.NotFound {
			t.Fatal(err)
		}
	}
	return map[string]string{"tcp": tcp, "websocket": "ws://" + g.WebSocketAddress() + "/ws"}
}

// background runs f until the test ends.
func background(t testing.TB, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); ended.Wait() })
}

// drive runs a load to its end.
func drive(t testing.TB, cfg Config) *Result {
	t.Helper()
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := l.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if r.Interrupted {
		t.Fatalf("not done within %v: %+v", patience, r)
	}
	return r
}

// peer listens for a load and serves each of its connections by f, as a gate
// would or as none would.
func peer(t testing.TB, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			serving.Go(func() { f(c); _ = c.Close() })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return l.Addr().String()
}
