package e2e_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/worker"
)

// debian is a program of Debian's package prometheus.
func debian(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%v: install Debian's package prometheus, as deploy/services.sh does", err)
	}
	return path
}

// TestAlerts runs promtool's tests of the alerts, and sees that each alert has one
// that fires it, and a place in the document.
func TestAlerts(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(built.root, "deploy", "prometheus")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, debian(t, "promtool"), "test", "rules", filepath.Join(dir, "alerts_test.yaml")).CombinedOutput(); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Labels      struct{ Severity string }
				Annotations struct{ Summary string }
			}
		}
	}
	var tests struct {
		Tests []struct {
			Cases []struct {
				Alert  string `yaml:"alertname"`
				Expect []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	for name, into := range map[string]any{"alerts.yaml": &rules, "alerts_test.yaml": &tests} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = yaml.Unmarshal(b, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	fired, silent := make(map[string]bool), make(map[string]bool)
	for _, test := range tests.Tests {
		for _, c := range test.Cases {
			fired[c.Alert] = fired[c.Alert] || len(c.Expect) > 0
			silent[c.Alert] = silent[c.Alert] || len(c.Expect) == 0
		}
	}
	written := operations(t)
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			if !fired[r.Alert] || !silent[r.Alert] {
				t.Errorf("%s has no test that fires it, or none in which it is silent", r.Alert)
			}
			if !strings.Contains(written, "| `"+r.Alert+"` | "+r.Labels.Severity+" |") {
				t.Errorf("docs/operations.md does not say what to do when %s (%s) fires", r.Alert, r.Labels.Severity)
			}
			if r.Annotations.Summary == "" {
				t.Errorf("%s says nothing", r.Alert)
			}
		}
	}
	if written := len(regexp.MustCompile("(?m)^\\| `Minigate").FindAllString(written, -1)); n < 25 || n != written {
		t.Errorf("%d alerts, %d in docs/operations.md", n, written)
	}
}

// TestReadiness: who must not get requests says so, at once when it is told to stop.
func TestReadiness(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admin := freePort(t)
	g := w.gate("--admin", admin, "--pprof", "--gate-drain", "1m", "--request-timeout", "5m")
	eventually(t, "the gate is ready", func() bool { code, _ := fetch(t, admin, "/readyz"); return code == http.StatusOK })
	if code, _ := fetch(t, admin, "/debug/pprof/heap"); code != http.StatusOK {
		t.Errorf("with --pprof there is no profile: %d", code)
	}

	// A worker whose database has no tables.
	without := freePort(t)
	start(t, append(w.env(), "MINIGATE_DATABASE="+address(t, "MYSQL")+"minigate_absent"), built.binary, "worker", "chat", "--admin", without).says(t, "waiting")
	var body string
	eventually(t, "it says why it is not ready", func() bool {
		code := 0
		code, body = fetch(t, without, "/readyz")
		return code == http.StatusServiceUnavailable && regexp.MustCompile(`"worker chat":"[^"]*not consuming`).MatchString(body) && regexp.MustCompile(`"database":"[^"]*minigate_absent`).MatchString(body)
	})
	if code, body := fetch(t, without, "/healthz"); code != http.StatusOK {
		t.Errorf("a worker that waits for its tables is not alive: %d %s", code, body)
	}
	if code, _ := fetch(t, without, "/debug/pprof/heap"); code != http.StatusNotFound {
		t.Errorf("without --pprof there are profiles: %d", code)
	}

	// A gate that has something to finish.
	release, asked := make(chan struct{}), make(chan struct{}, 1)
	greeter(t, w, func() { asked <- struct{}{}; <-release })
	p := connect(t, g.tcp, "alice")
	answered := make(chan error, 1)
	go func() {
		answered <- p.Call(t.Context(), "greet.hello", wrapperspb.String("you"), nil)
	}()
	<-asked
	g.signal(t, syscall.SIGTERM)
	eventually(t, "the gate is draining", func() bool {
		var code int
		code, body = fetch(t, admin, "/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(body, `"state":"draining"`)
	})
	if code, body := fetch(t, admin, "/healthz"); code != http.StatusOK {
		t.Errorf("a gate that drains is not alive: %d %s", code, body)
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the request that it waited for: %v", err)
	}
	g.ends(t, 0)
}

// greeter is a service of the test's own, greet, that does what it is told before it
// answers.
func greeter(t *testing.T, w *world, do func()) {
	t.Helper()
	b, err := rabbit.Open(rabbit.Config{URL: w.rabbitmq, Topology: w.topology})
	if err != nil {
		t.Fatal(err)
	}
	greet := worker.New("greet", worker.Config{Bus: b, Topology: w.topology, Timeout: 5 * time.Minute})
	worker.Handle(greet, "greet.hello", func(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		do()
		return wrapperspb.String("hello, " + in.GetValue()), nil
	}, worker.Public())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- greet.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the worker takes requests", func() bool { return greet.Health() == nil })
}
