package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/pkg/tracing/tracingtest"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

// web keeps no connection for a next time.
var web = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// fetch gets a page of a process. Its code is 0 where nobody answers.
func fetch(t *testing.T, address, path string) (code int, body string) {
	t.Helper()
	answer, err := web.Get("http://" + address + path)
	if err != nil {
		return 0, err.Error()
	}
	b, err := io.ReadAll(answer.Body)
	if closed := answer.Body.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(b)
}

// TestMetrics looks at a gate and workers under a little load as their operators
// do: with the alerts, the dashboard and the document that we ship, on a real
// Prometheus.
func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admins := []string{freePort(t), freePort(t)}
	collector := tracingtest.NewCollector(t).Address
	g := w.gate("--admin", admins[0], "--trace-endpoint", collector)
	w.worker("auth", "chat", "email", "echo", "--auth-grpc", w.authAddresses[0], "--admin", admins[1], "--trace-endpoint", collector)
	for _, service := range []string{"auth", "chat", "echo"} {
		w.consumed(service, 1)
	}
	w.mailed()
	for _, address := range admins {
		eventually(t, "all parts are ready", func() bool { code, _ := fetch(t, address, "/readyz"); return code == http.StatusOK })
	}

	alice, bob := connect(t, g.tcp, "alice"), connect(t, g.ws, "bob")
	for _, p := range []*person{alice, bob} {
		p.register()
		p.login()
	}
	stop := traffic(t, alice, bob, g.tcp)
	defer stop()
	p := newPrometheus(t, admins)

	t.Run("Dashboard", func(t *testing.T) {
		queries := dashboard(t)
		if len(queries) < 70 {
			t.Errorf("the dashboard has %d queries", len(queries))
		}
		for _, q := range queries {
			p.has(t, q)
		}
	})
	t.Run("Alerts", func(t *testing.T) {
		alerts := p.alerts(t)
		for name, expression := range alerts {
			// What is compared has to be there, whatever comes of it.
			q := regexp.MustCompile(`(==|>) (\d)`).ReplaceAllString(expression, "$1 bool $2")
			if q == expression {
				t.Errorf("%s compares nothing: %s", name, expression)
			}
			p.has(t, q)
		}
	})
	t.Run("Document", func(t *testing.T) {
		found := families(t, admins)
		written := documented(t)
		for name, f := range found {
			if written[name] != f {
				t.Errorf("%s is %+v, docs/operations.md says %+v", name, f, written[name])
			}
		}
		for _, name := range regexp.MustCompile(`minigate_(?:gate|bus|worker|events|tape|tracing)_\w+`).FindAllString(operations(t), -1) {
			if _, ok := found[name]; !ok {
				t.Errorf("docs/operations.md speaks of %s, which no process has", name)
			}
		}
		for name := range written {
			if _, ok := found[name]; !ok {
				t.Errorf("docs/operations.md has %s, which no process has", name)
			}
		}
	})
	t.Run("Labels", func(t *testing.T) {
		_, before := fetch(t, admins[1], "/metrics")
		for i := range 50 { // names that nobody has
			alice.refused(codes.NotFound, fmt.Sprintf("echo.made%d", i), wrapperspb.String("x"))
			alice.refused(codes.NotFound, fmt.Sprintf("made%d.up", i), wrapperspb.String("x"))
		}
		for _, address := range admins {
			if _, after := fetch(t, address, "/metrics"); strings.Contains(after, `="echo.made`) || strings.Contains(after, `="made`) {
				t.Errorf("%s has series that a client made up", address)
			}
		}
		_, after := fetch(t, admins[1], "/metrics")
		if b, a := strings.Count(before, "\n"), strings.Count(after, "\n"); a > b+3 {
			t.Errorf("%d lines of metrics, %d before a client made up routes", a, b)
		}
	})
	stop()
	w.stop()
}

// traffic keeps two people busy, rightly and wrongly, until it is stopped. The calls
// that run then come to their end: who ends next would wait for them in vain.
func traffic(t *testing.T, alice, bob *person, gate string) (stop func()) {
	t.Helper()
	ctx := t.Context()
	over := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for i := 0; ; i++ {
			var out wrapperspb.StringValue
			_ = alice.Call(ctx, "echo.echo", wrapperspb.String("hello"), &out)
			_ = bob.Call(ctx, "auth.find", &authpb.FindRequest{Account: "alice"}, nil)
			_ = alice.Call(ctx, "echo.nothing", wrapperspb.String("hello"), nil)
			_ = alice.Call(ctx, "nobody.here", wrapperspb.String("hello"), nil)
			_ = alice.Call(ctx, "chat.send", &chatpb.SendRequest{To: bob.id, ClientId: strconv.Itoa(i), Text: "hello"}, nil)
			if i%10 == 0 { // whose end is an event
				if again, err := client.Dial(ctx, gate, client.Options{Token: alice.token}); err == nil {
					_ = again.Close()
				}
			}
			select {
			case <-time.After(20 * time.Millisecond): // a little load is enough
			case <-over:
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(over); running.Wait() })
}

// prometheus is a real one that scrapes the processes of a test.
type prometheus struct{ address string }

func newPrometheus(t *testing.T, targets []string) *prometheus {
	t.Helper()
	dir, rules := t.TempDir(), filepath.Join(built.root, "deploy", "prometheus", "alerts.yaml")
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: 500ms, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n"+
		"  - job_name: minigate\n    static_configs: [{targets: [%s]}]\n", rules, strings.Join(targets, ", "))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &prometheus{address: freePort(t)}
	start(t, nil, debian(t, "prometheus"), "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.address)
	eventually(t, "Prometheus scrapes all", func() bool { return len(p.values(t, `up{job="minigate"} == 1`)) == len(targets) })
	return p
}

// values is what a query finds now; nothing where Prometheus does not answer yet.
func (p *prometheus) values(t *testing.T, query string) (values []float64) {
	t.Helper()
	code, body := fetch(t, p.address, "/api/v1/query?query="+url.QueryEscape(query))
	if code == 0 || code == http.StatusServiceUnavailable {
		return nil
	}
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s: %d: %s %v", query, code, answer.Error, err)
	}
	for _, series := range answer.Data.Result {
		v, err := strconv.ParseFloat(fmt.Sprint(series.Value[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
	}
	return values
}

// has waits until a query finds a number.
func (p *prometheus) has(t *testing.T, query string) {
	t.Helper()
	number := func(v float64) bool { return !math.IsNaN(v) }
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		values := p.values(t, query)
		if slices.ContainsFunc(values, number) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s finds no number, but %v", query, values)
			return
		}
		<-tick.C
	}
}

// alerts are the expressions of the alerts that Prometheus has taken and evaluated.
func (p *prometheus) alerts(t *testing.T) map[string]string {
	t.Helper()
	alerts := make(map[string]string)
	eventually(t, "all alerts are evaluated", func() bool {
		_, body := fetch(t, p.address, "/api/v1/rules")
		var answer struct {
			Data struct {
				Groups []struct {
					Rules []struct{ Name, Query, Health, LastError string }
				}
			}
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatal(err)
		}
		for _, g := range answer.Data.Groups {
			for _, r := range g.Rules {
				switch alerts[r.Name] = r.Query; r.Health {
				case "ok":
				case "unknown":
					return false
				default:
					t.Errorf("%s: %s", r.Name, r.LastError)
				}
			}
		}
		return len(alerts) > 0
	})
	return alerts
}

// dashboard is every query of the dashboard, as Grafana would send it.
func dashboard(t *testing.T) (queries []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(built.root, "deploy", "grafana", "minigate.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dash struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &dash); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*")
	for _, panel := range dash.Panels {
		for _, target := range panel.Targets {
			q := variables.Replace(target.Expr)
			if strings.Contains(q, "$") {
				t.Errorf("%s: a variable that nobody sets: %s", panel.Title, q)
			}
			queries = append(queries, q)
		}
	}
	return queries
}

// family is what a metric is.
type family struct{ kind, labels string }

// families are the metrics of ours that processes have.
func families(t *testing.T, addresses []string) map[string]family {
	t.Helper()
	found := make(map[string]family)
	labels := make(map[string]map[string]bool)
	kind, sample := regexp.MustCompile(`(?m)^# TYPE (minigate_\S+) (\w+)$`), regexp.MustCompile(`(?m)^(minigate_\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+$`)
	label := regexp.MustCompile(`(\w+)="(?:[^"\\]|\\.)*"`)
	for _, address := range addresses {
		code, text := fetch(t, address, "/metrics")
		if code != http.StatusOK {
			t.Fatalf("%s: %d: %s", address, code, text)
		}
		for _, m := range kind.FindAllStringSubmatch(text, -1) {
			found[m[1]] = family{kind: m[2]}
		}
		for _, m := range sample.FindAllStringSubmatch(text, -1) {
			if labels[m[1]] == nil {
				labels[m[1]] = make(map[string]bool)
			}
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				if l[1] != "le" {
					labels[m[1]][l[1]] = true
				}
			}
		}
	}
	for name, f := range found {
		f.labels = strings.Join(slices.Sorted(maps.Keys(labels[name])), ", ")
		found[name] = f
	}
	return found
}

// documented are the metrics that docs/operations.md has.
func documented(t *testing.T) map[string]family {
	t.Helper()
	found := make(map[string]family)
	for _, m := range regexp.MustCompile("(?m)^\\| `(minigate_\\w+)` \\| (\\w+) \\| ([^|]*) \\|").FindAllStringSubmatch(operations(t), -1) {
		if _, twice := found[m[1]]; twice {
			t.Errorf("docs/operations.md has %s twice", m[1])
		}
		found[m[1]] = family{kind: m[2], labels: strings.TrimSpace(strings.Trim(m[3], "– "))}
	}
	return found
}

func operations(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(built.root, "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
