package health

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process answers as an admin server does, and returns its address.
func process(t *testing.T, code int, body string) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code     int
		body     string
		said     string
		notReady string
	}{
		"ready":             {code: 200, body: "ok\n", said: "ok"},
		"ready, no word":    {code: 200, said: "ready"},
		"not ready":         {code: 503, body: "RabbitMQ: dial tcp: refused\n", notReady: "503: RabbitMQ: dial tcp: refused"},
		"elsewhere":         {code: 302, body: "go on", notReady: "302: go on"},
		"much to say of it": {code: 503, body: strings.Repeat("x", 10*maxReason), notReady: strings.Repeat("x", maxReason)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said, err := Check(t.Context(), process(t, c.code, c.body))
			if said != c.said {
				t.Errorf("got %q, want %q", said, c.said)
			}
			if c.notReady == "" && err != nil {
				t.Errorf("got %v, want no error", err)
			}
			if c.notReady != "" && (!errors.Is(err, ErrNotReady) || !strings.HasSuffix(err.Error(), c.notReady) || len(err.Error()) > 2*maxReason) {
				t.Errorf("got %v, want ErrNotReady that ends with %q", err, c.notReady)
			}
		})
	}
}

// TestNobody: what can not be asked is an error, but no answer.
func TestNobody(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{address, "nonsense", ""} {
		if said, err := Check(t.Context(), address); err == nil || errors.Is(err, ErrNotReady) || said != "" {
			t.Errorf("%q: got %q, %v; want an error that is not ErrNotReady", address, said, err)
		}
	}
}

// TestSilent: a process that takes the connection and says nothing is given up.
func TestSilent(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c := Command{Address: l.Addr().String(), Timeout: 50 * time.Millisecond}
	if err := c.Run(t.Context(), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want it to wrap the end of the time", err)
	}
}

func TestLocal(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		":7180": "127.0.0.1:7180", "0.0.0.0:7180": "127.0.0.1:7180", "[::]:7180": "[::1]:7180",
		"127.0.0.1:1": "127.0.0.1:1", "[::1]:1": "[::1]:1", "10.1.2.3:80": "10.1.2.3:80", "admin:80": "admin:80",
	} {
		if got, err := local(address); got != want || err != nil {
			t.Errorf("%s: got %s, %v; want %s", address, got, err, want)
		}
	}
}

// TestThroughProxy: the environment's proxy is not asked, which a container may have.
func TestThroughProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	if _, err := Check(t.Context(), process(t, 200, "ok")); err != nil {
		t.Error(err)
	}
}
