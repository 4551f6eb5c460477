package discovery_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/motto123/minigate/pkg/discovery"
	"github.com/motto123/minigate/pkg/grpcauth/grpctest"
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
const service = grpctest.Service

// serve runs a replica until it is stopped.
func serve(t testing.TB, address string) (at string, stop func()) {
	t.Helper()
	return grpctest.ServeAt(t, address, discovery.ServerOption())
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
