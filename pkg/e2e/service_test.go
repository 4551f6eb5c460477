package e2e_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestNewServiceIsCallableAtOnce: what starts beside running gates is there for
// clients that are connected already, by the first call.
func TestNewServiceIsCallableAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.gate(), w.gate()
	clients := []*person{connect(t, one.tcp, "one"), connect(t, two.ws, "two")}
	for _, p := range clients {
		// The gate may still be connecting to the broker.
		eventually(t, "a gate with a broker", func() bool {
			err := p.Call(t.Context(), "greet.hello", wrapperspb.String("you"), nil)
			return status.Code(err) == codes.NotFound
		})
	}

	greeter(t, w, func() {})
	for _, p := range clients {
		out := ask[wrapperspb.StringValue](p, "greet.hello", wrapperspb.String(p.account))
		if out.GetValue() != "hello, "+p.account {
			t.Errorf("%s gets %q", p.account, out.GetValue())
		}
	}
	// Who connects now finds it in the dictionary.
	eventually(t, "the route has a code", func() bool {
		c, _, err := dial(t, one.ws, "")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_, ok := c.Dictionary().CodeOf("greet.hello")
		return ok
	})
	w.stop()
}

// TestReadmeWorker builds the worker that README.md shows, as it stands there,
// and calls it.
func TestReadmeWorker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "greet")
	if err := os.WriteFile(source, []byte(readmeExample(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	// As if it were in the module, without writing there.
	overlay, err := json.Marshal(map[string]any{
		"Replace": map[string]string{filepath.Join(built.root, "workers", "greet", "main.go"): source},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := build(binary, "./workers/greet", filepath.Join(dir, "overlay.json")); err != nil {
		t.Fatal(err)
	}

	w := newWorld(t)
	t.Cleanup(func() { forgetAny(t, w.rabbitmq, w.topology.WorkerQueue("greet"), w.topology.TapeStream()) })
	g, admin := w.gate(), freePort(t)
	greet := start(t, w.env(), binary, "--admin", admin)
	w.consumed("greet", 1)
	// The commands beside it in README.md, at this test's address.
	if got := command(t, nil, 0, "call", "greet.hello", `"world"`, "--gate", g.ws); got != "\"hello, world\"\n" {
		t.Errorf("greet.hello of world prints %q", got)
	}
	if got := command(t, nil, 1, "call", "greet.hello", `""`, "--gate", g.tcp); !strings.Contains(got, "INVALID_ARGUMENT: whom?") {
		t.Errorf("greet.hello of nobody prints %q", got)
	}
	// It is a process like the others.
	if code, body := fetch(t, admin, "/readyz"); code != http.StatusOK {
		t.Errorf("it is not ready: %d\n%s", code, body)
	}
	if _, body := fetch(t, admin, "/metrics"); !strings.Contains(body, `route="greet.hello"`) {
		t.Error("its metrics do not know its route")
	}
	eventually(t, "what it answered is on the tape", func() bool {
		said := command(t, w.env(), 0, "tail", "--no-follow", "--full")
		return strings.Contains(said, "greet.hello") && strings.Contains(said, "hello, world") && strings.Contains(said, "INVALID_ARGUMENT")
	})
	if said := command(t, w.env(), 0, "tail", "--no-follow", "--route", "shop.*"); !strings.HasPrefix(said, "nothing in the tape of "+w.topology.Prefix()) {
		t.Errorf("of a service that nobody asked, tail says %q", said)
	}
	greet.signal(t, syscall.SIGINT)
	greet.ends(t, 0)
	if said := greet.out.String(); !strings.Contains(said, "ended; everything was finished") {
		t.Errorf("at its end it says\n%s", tail(said))
	}
	for _, bad := range [][]string{{"--worker-prefetch", "0"}, {"--production"}, {"--no-such"}, {"argument"}} {
		refused := start(t, w.env(), binary, bad...)
		refused.ends(t, 1)
		if said := refused.out.String(); !strings.HasPrefix(said, "greet: ") {
			t.Errorf("%q: it says\n%s", bad, tail(said))
		}
	}
}

// readmeExample is README.md's first block of Go that is a command.
func readmeExample(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(built.root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range strings.Split(string(b), "\n```go\n")[1:] {
		code, _, closed := strings.Cut(block, "\n```")
		if closed && strings.HasPrefix(code, "package main\n") {
			return code + "\n"
		}
	}
	t.Fatal("README.md has no block of Go with package main")
	return ""
}
