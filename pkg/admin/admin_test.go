package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/logging/loggingtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// serve runs a server until the test ends or stop is called.
func serve(t *testing.T, cfg Config) (s *Server, log *loggingtest.Lines, stop func() error) {
	t.Helper()
	cfg.Log, log = loggingtest.New()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			t.Error("Run does not return")
			return nil
		}
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-s.Listening():
	case <-time.After(patience):
		t.Fatal("it does not listen")
	}
	return s, log, stop
}

// client keeps no connection for a next time.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

func get(t *testing.T, s *Server, path string) (code int, body string) {
	t.Helper()
	answer, err := client.Get("http://" + s.Address() + path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(answer.Body)
	if closed := answer.Body.Close(); err == nil {
		err = closed
	}
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(b)
}

// health is an answer of /readyz or /healthz.
func health(t *testing.T, s *Server, path string) (code int, r report) {
	t.Helper()
	code, body := get(t, s, path)
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatalf("%s answers %q: %v", path, body, err)
	}
	return code, r
}

func pass(context.Context) error { return nil }

func TestReadiness(t *testing.T) {
	s, _, _ := serve(t, Config{Address: "127.0.0.1:0"})
	s.Ready("broker", pass)
	if code, r := health(t, s, "/readyz"); code != http.StatusServiceUnavailable || *r.Ready || r.State != "starting" || r.Checks["broker"] != "ok" {
		t.Errorf("while it starts: %d, %+v; want 503, starting", code, r)
	}
	s.Started()
	if code, r := health(t, s, "/readyz"); code != http.StatusOK || !*r.Ready || r.State != "running" || len(r.Checks) != 1 {
		t.Errorf("when it has started: %d, %+v; want 200, running", code, r)
	}
	s.Ready("database", func(context.Context) error {
		return errors.New("connection refused " + strings.Repeat("é", 2*maxReason))
	})
	code, r := health(t, s, "/readyz")
	if code != http.StatusServiceUnavailable || *r.Ready || r.Checks["broker"] != "ok" || !strings.HasPrefix(r.Checks["database"], "connection refused") || len(r.Checks["database"]) > maxReason {
		t.Errorf("without a database: %d, %+v", code, r)
	}
	s.Ready("database", pass)
	if code, _ := health(t, s, "/readyz"); code != http.StatusOK {
		t.Errorf("when the database is back: %d, want 200", code)
	}
	s.Depends("mail", func(context.Context) error { return errors.New("no mail server") })
	s.Depends("cache", pass)
	if code, r := health(t, s, "/readyz"); code != http.StatusOK || !*r.Ready || len(r.Checks) != 2 || r.Dependencies["mail"] != "no mail server" || r.Dependencies["cache"] != "ok" {
		t.Errorf("without what it can do without: %d, %+v, want 200 and that it is said", code, r)
	}
	s.Draining()
	s.Started() // which does not bring it back
	if code, r := health(t, s, "/readyz"); code != http.StatusServiceUnavailable || *r.Ready || r.State != "draining" {
		t.Errorf("while it drains: %d, %+v; want 503, draining", code, r)
	}
	if code, r := health(t, s, "/healthz"); code != http.StatusOK || !*r.Live || r.State != "draining" {
		t.Errorf("while it drains it is alive: %d, %+v", code, r)
	}
}

// Draining is known at once, even while a check takes its time.
func TestDrainingDoesNotWaitForChecks(t *testing.T) {
	s, _, _ := serve(t, Config{Address: "127.0.0.1:0"})
	asked := make(chan struct{}, 10)
	s.Ready("slow", func(ctx context.Context) error {
		asked <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	s.Started()
	first := make(chan int, 1)
	go func() {
		code, _ := health(t, s, "/readyz")
		first <- code
	}()
	<-asked
	s.Draining()
	if _, r := health(t, s, "/readyz"); r.State != "draining" || len(asked) != 0 {
		t.Errorf("got %+v after %d further looks, want draining without one", r, len(asked))
	}
	if len(first) != 0 {
		t.Error("it waited for the check")
	}
	select {
	case code := <-first:
		if code != http.StatusServiceUnavailable {
			t.Errorf("a check that does not answer passes: %d", code)
		}
	case <-time.After(patience):
		t.Fatal("a check that does not answer keeps the question for ever")
	}
}

// Many who ask at once look once.
func TestLooksAreShared(t *testing.T) {
	s, _, _ := serve(t, Config{Address: "127.0.0.1:0"})
	release, looks := make(chan struct{}), make(chan struct{}, 100)
	s.Ready("one", func(context.Context) error { looks <- struct{}{}; <-release; return nil })
	s.Started()
	const n = 20
	var all sync.WaitGroup
	for range n {
		all.Go(func() { health(t, s, "/readyz") })
	}
	<-looks
	close(release)
	all.Wait()
	if more := len(looks); more >= n-1 {
		t.Errorf("%d looks for %d questions at once", more+1, n)
	}
}

func TestLiveness(t *testing.T) {
	s, _, _ := serve(t, Config{Address: "127.0.0.1:0"})
	if code, _ := health(t, s, "/healthz"); code != http.StatusOK {
		t.Errorf("while it starts: %d, want 200", code)
	}
	s.Live("loops", func(context.Context) error { panic("oh") })
	if code, r := health(t, s, "/healthz"); code != http.StatusServiceUnavailable || *r.Live || r.Checks["loops"] != "panic: oh" {
		t.Errorf("with a loop that stands: %d, %+v", code, r)
	}
	if code, _ := health(t, s, "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("not started: %d", code)
	}
}

type broken struct{ prometheus.Collector }

func (broken) Describe(to chan<- *prometheus.Desc) {
	to <- prometheus.NewDesc("broken", "Broken.", nil, nil)
}

func (broken) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.NewInvalidMetric(prometheus.NewDesc("broken", "Broken.", nil, nil), errors.New("on purpose"))
}

func TestMetrics(t *testing.T) {
	s, log, _ := serve(t, Config{Address: "127.0.0.1:0", Version: "v1.2.3"})
	mine := prometheus.NewCounter(prometheus.CounterOpts{Name: "mine_total", Help: "Mine."})
	if err := s.Measure(mine, broken{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Measure(mine); err == nil {
		t.Error("the same metric is registered twice")
	}
	mine.Inc()
	s.Ready("broker", pass)
	s.Ready("database", func(context.Context) error { return errors.New("no") })
	s.Depends("mail", func(context.Context) error { return errors.New("no") })
	s.Depends("cache", pass)
	s.Live("loops", pass)
	code, body := get(t, s, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("got %d: %s", code, body)
	}
	for _, want := range []string{
		"mine_total 1\n", "go_goroutines ", "process_open_fds ", "process_resident_memory_bytes ", "go_sched_latencies_seconds_count ",
		`minigate_build_info{go="go1.`, `version="v1.2.3"} 1`,
		`minigate_ready{check="broker"} 1`, `minigate_ready{check="database"} 0`, `minigate_ready{check="process"} 0`, `minigate_live{check="loops"} 1`,
		`minigate_dependency{check="mail"} 0`, `minigate_dependency{check="cache"} 1`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q", want)
		}
	}
	if !strings.Contains(log.String(), "on purpose") {
		t.Errorf("the log does not say what is wrong with a metric:\n%s", log)
	}
}

func TestProfilesAreOffUnlessAskedFor(t *testing.T) {
	s, _, _ := serve(t, Config{Address: "127.0.0.1:0"})
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile?seconds=1", "/", "/debug/vars"} {
		if code, _ := get(t, s, path); code != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", path, code)
		}
	}
	on, _, _ := serve(t, Config{Address: "127.0.0.1:0", Pprof: true})
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline", "/debug/pprof/trace?seconds=0.01", "/debug/pprof/profile?seconds=1"} {
		if code, body := get(t, on, path); code != http.StatusOK || len(body) == 0 {
			t.Errorf("%s: %d and %d bytes, want 200 and some", path, code, len(body))
		}
	}
}

// What changes nothing may be asked, and nothing else.
func TestMethods(t *testing.T) {
	s, _, _ := serve(t, Config{Address: "127.0.0.1:0"})
	for _, path := range []string{"/metrics", "/readyz", "/healthz"} {
		answer, err := client.Post("http://"+s.Address()+path, "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d, want 405", path, answer.StatusCode)
		}
	}
}

// Who connects and says nothing, or too much, is not kept.
func TestLimits(t *testing.T) {
	s, _, _ := serve(t, Config{Address: "127.0.0.1:0"})
	request, err := http.NewRequest(http.MethodGet, "http://"+s.Address()+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Large", strings.Repeat("x", 2*maxHeader))
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of %d bytes: %d, want 431", 2*maxHeader, answer.StatusCode)
	}
	silent, err := net.Dial("tcp", s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	if err := silent.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := silent.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("who says nothing: %v, want to be closed", err)
	}
}

// The end waits for who is being answered, but not for ever.
func TestRunEndsWithRequestsUnderWay(t *testing.T) {
	s, _, stop := serve(t, Config{Address: "127.0.0.1:0"})
	asked := make(chan struct{})
	s.Ready("slow", func(ctx context.Context) error {
		close(asked)
		<-ctx.Done()
		return ctx.Err()
	})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if answer, err := client.Get("http://" + s.Address() + "/readyz"); err == nil {
			_ = answer.Body.Close()
		}
	}()
	<-asked
	if err := stop(); err != nil {
		t.Error(err)
	}
	<-answered
}

func TestNobodyRegistersWithNil(t *testing.T) {
	var s *Server
	s.Ready("x", pass)
	s.Live("x", pass)
	s.Started()
	s.Draining()
	if err := s.Measure(prometheus.NewCounter(prometheus.CounterOpts{Name: "x_total", Help: "X."})); err != nil {
		t.Error(err)
	}
}
