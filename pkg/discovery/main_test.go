package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/motto123/minigate/pkg/discovery"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if key := os.Getenv(childKey); key != "" {
		child(key)
	}
	goleak.VerifyTestMain(m)
}

// service is the gRPC service of the tests: who answered is its address.
const service = "grpc.health.v1.Health"

// serve runs a replica until it is stopped.
func serve(t testing.TB, address string) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(discovery.ServerOption())
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	stop = sync.OnceFunc(func() {
		s.Stop()
		// Where it was stopped before it could begin, Serve says so.
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func dial(t testing.TB, target string, cfg discovery.Config) *grpc.ClientConn {
	t.Helper()
	conn, err := discovery.Dial(target, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// ask says which replica answers.
func ask(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	var who peer.Peer
	_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.Peer(&who))
	if err != nil {
		return "", err
	}
	return who.Addr.String(), nil
}

// answer is ask for a call that must not fail.
func answer(t testing.TB, conn *grpc.ClientConn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	who, err := ask(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	return who
}

// shared waits until just these replicas answer, each of them, without a failure
// on the way.
func shared(t testing.TB, conn *grpc.ClientConn, want ...string) {
	t.Helper()
	slices.Sort(want)
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got := map[string]bool{}
		for range 4 * len(want) {
			got[answer(t, conn)] = true
		}
		if slices.Equal(slices.Sorted(maps.Keys(got)), want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("answered by %v, want %v", got, want)
		}
		<-tick.C
	}
}

// eventually waits until f says true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("it never happens that %s", what)
		}
		<-tick.C
	}
}

// journal is a log that can be waited for.
type journal struct {
	*logrus.Logger
	t testing.TB

	mu    sync.Mutex
	lines []string
}

func newJournal(t testing.TB) *journal {
	j := &journal{Logger: logrus.New(), t: t}
	j.SetOutput(j)
	j.SetFormatter(plain{})
	return j
}

type plain struct{}

func (plain) Format(e *logrus.Entry) ([]byte, error) {
	return fmt.Appendf(nil, "%s %v", e.Message, e.Data), nil
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, string(line))
	return len(line), nil
}

// count is how many lines have a text.
func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for _, line := range j.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (j *journal) wait(text string) {
	j.t.Helper()
	eventually(j.t, fmt.Sprintf("the log says %q", text), func() bool { return j.count(text) > 0 })
}
