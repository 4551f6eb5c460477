package grpcauth

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/certificates"
	"github.com/motto123/minigate/pkg/certificates/certtest"
)

type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// await returns the log once it has a text: a server may log after its caller has
// its error.
func (l *lines) await(t *testing.T, text string) string {
	t.Helper()
	all := ""
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		if all += l.take(); strings.Contains(all, text) {
			return all
		}
	}
	t.Errorf("the log has no %q:\n%s", text, all)
	return all
}

func guard(t *testing.T, cfg Config) (*Guard, *lines) {
	t.Helper()
	l, log := new(lines), logrus.New()
	log.SetOutput(l)
	cfg.Log = log
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.take() // that test certificates expire soon
	return g, l
}

// serve serves gRPC's health service until the test ends. before are options that
// stand before the guard's.
func serve(t *testing.T, g *Guard, before ...grpc.ServerOption) string {
	t.Helper()
	options, err := g.ServerOptions()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(append(before, options...)...)
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func connect(t *testing.T, address string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	options = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)
	c, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// call makes a unary call and one that streams, which are to end alike.
func call(t *testing.T, c *grpc.ClientConn) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	health := grpc_health_v1.NewHealthClient(c)
	_, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	stream, streamed := health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if streamed == nil {
		_, streamed = stream.Recv()
	}
	if status.Code(err) != status.Code(streamed) {
		t.Errorf("a call came to %v, a stream to %v", err, streamed)
	}
	return err
}

func files(f certtest.Files) certificates.Config {
	return certificates.Config{Cert: f.Cert, Key: f.Key, CA: f.CA}
}

func issue(t *testing.T, a *certtest.Authority, o certtest.Options) certificates.Config {
	t.Helper()
	return files(a.Write(t, t.TempDir(), o))
}

// as puts another authority's name beside a certificate, so that its owner trusts
// a server that does not trust it.
func as(own, ca certificates.Config) certificates.Config {
	own.CA = ca.CA
	return own
}
