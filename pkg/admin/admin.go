// Package admin serves what operators and their tools ask a process: its metrics,
// whether it is alive, whether it is ready, and its profiles where they are
// switched on.
//
// It refuses to know the parts of a process: they register what they count and
// how they are. It refuses strangers nothing, since it has no logins: its address
// belongs on loopback or on a network of its own.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/singleflight"

	"github.com/motto123/minigate/pkg/metrics"
	"github.com/motto123/minigate/pkg/settings"
)

// DefaultAddress is where a process is asked unless told.
const DefaultAddress = "127.0.0.1:7180"

// Config is what New needs.
type Config struct {
	// Address is the host:port to listen on; nothing is served where it is empty.
	// Where it is DefaultAddress and another process has that, one of the next nine
	// ports is taken, or none where all are taken: several processes may run on one
	// desk. Any other address has to be free.
	Address string
	// Pprof serves profiles under /debug/pprof.
	Pprof bool
	// Version is shown as the metric minigate_build_info.
	Version string
	// Log is logrus' standard logger where it is nil.
	Log logrus.FieldLogger
}

// Settings declares what of the configuration a person may set.
func (c *Config) Settings(s settings.Set) {
	s.Address(&c.Address, "admin", DefaultAddress, true, "where metrics, health and profiles are had, without a login; of a taken default, the next free port")
	s.Bool(&c.Pprof, "pprof", false, "serve profiles on the admin address, under /debug/pprof")
}

// Insecure says which of the settings are for development only, and what to do.
func (c *Config) Insecure() []string {
	if !c.Pprof || c.Address == "" || settings.Loopback(c.Address) {
		return nil
	}
	return []string{"pprof: other machines reach the admin address " + c.Address + ", and profiles show what is in memory; switch it off, or set admin to a loopback address"}
}

const (
	// nextPorts is how many ports are tried from the default one on.
	nextPorts = 10
	// maxConnections bounds the clients at once, and maxScrapes those of them that
	// get metrics.
	maxConnections = 64
	maxScrapes     = 4
	maxHeader      = 16 << 10

	readTimeout  = 5 * time.Second
	idleTimeout  = time.Minute
	writeTimeout = 30 * time.Second
	// profileTimeout bounds a profile; package pprof refuses one that would take
	// longer.
	profileTimeout = 3 * time.Minute
	// stopTimeout is what running requests get when the process ends.
	stopTimeout = 2 * time.Second
)

// Server answers for one process. Run it once; all its methods are safe to call at
// once. Those that register take a nil Server too, which nobody asks.
type Server struct {
	cfg      Config
	log      logrus.FieldLogger
	registry *prometheus.Registry
	families metrics.Families
	ready    *metrics.Family
	live     *metrics.Family
	depends  *metrics.Family
	build    *metrics.Family

	state   atomic.Int32
	looking singleflight.Group // at the checks of one kind

	mu     sync.Mutex
	checks [kinds][]check

	listening chan struct{}
	address   string // once listening is closed
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Address != "" {
		if _, _, err := net.SplitHostPort(cfg.Address); err != nil {
			return nil, fmt.Errorf("admin: address: got %q, want host:port: %w", cfg.Address, err)
		}
	}
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	s := &Server{cfg: cfg, log: cfg.Log, registry: prometheus.NewRegistry(), listening: make(chan struct{})}
	s.ready = s.families.Gauge("minigate_ready", "1 where a check of readiness passes; process is 0 while it starts and when it ends.", "check")
	s.live = s.families.Gauge("minigate_live", "1 where a check of liveness passes.", "check")
	s.depends = s.families.Gauge("minigate_dependency", "1 where there is what the process uses and goes on without: of gates, the broker.", "check")
	s.build = s.families.Gauge("minigate_build_info", "1, for what runs.", "version", "go")
	err := s.Measure(s, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector(
		collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/sched/latencies:seconds$`)}),
	))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Measure has what is counted served under /metrics.
func (s *Server) Measure(all ...prometheus.Collector) error {
	if s == nil {
		return nil
	}
	for _, c := range all {
		if err := s.registry.Register(c); err != nil {
			return fmt.Errorf("admin: register metrics of %T: %w", c, err)
		}
	}
	return nil
}

// Listening is closed when the server can be asked, or when it is known that it
// never will be.
func (s *Server) Listening() <-chan struct{} { return s.listening }

// Address is where the server listens, or empty where it does not. It is valid
// once Listening is closed.
func (s *Server) Address() string { return s.address }

// Run serves until ctx ends. It returns when all requests have ended, or an error
// where the address can not be had.
func (s *Server) Run(ctx context.Context) error {
	listener, err := s.listen(ctx)
	if err != nil {
		return err
	}
	if listener == nil {
		close(s.listening)
		<-ctx.Done()
		return nil
	}
	s.address = listener.Addr().String()
	s.log.WithField("pprof", s.cfg.Pprof).Infof("admin: metrics, health and readiness are on http://%s", s.address)
	close(s.listening)

	server := &http.Server{
		Handler:     s.handler(),
		ReadTimeout: readTimeout, ReadHeaderTimeout: readTimeout, IdleTimeout: idleTimeout, WriteTimeout: writeTimeout,
		MaxHeaderBytes: maxHeader,
		// Checks end with their request; those of a process that ends, too.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	if s.cfg.Pprof {
		server.WriteTimeout = profileTimeout
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(netutil.LimitListener(listener, maxConnections)) }()
	select {
	case err := <-served:
		return fmt.Errorf("admin: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		_ = server.Close() // cuts off who is slower than that
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

// listen returns nil where nothing is to be served.
func (s *Server) listen(ctx context.Context) (net.Listener, error) {
	address := s.cfg.Address
	if address == "" {
		return nil, nil
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err == nil {
		return l, nil
	}
	if address != DefaultAddress || !errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("admin: listen (--admin): %w", err)
	}
	host, first, err := defaultPort()
	if err != nil {
		return nil, err
	}
	if l := nextFree(ctx, host, first); l != nil {
		return l, nil
	}
	s.log.Warnf("admin: %s and the %d ports behind it are taken: nobody can ask this process (--admin)", address, nextPorts-1)
	return nil, nil
}

// nextFree listens on the first port behind first that is free, or returns nil.
func nextFree(ctx context.Context, host string, first int) net.Listener {
	var config net.ListenConfig
	for port := first + 1; port < first+nextPorts; port++ {
		if l, err := config.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil {
			return l
		}
	}
	return nil
}

func defaultPort() (host string, port int, err error) {
	host, text, err := net.SplitHostPort(DefaultAddress)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	return host, port, err
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes, Timeout: writeTimeout - checkTimeout,
		ErrorLog: scrapeLog{s.log}, ErrorHandling: promhttp.ContinueOnError,
	}))
	mux.HandleFunc("GET /healthz", s.serveLive)
	mux.HandleFunc("GET /readyz", s.serveReady)
	if s.cfg.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// scrapeLog says what is wrong with a metric; the others are served all the same.
type scrapeLog struct{ log logrus.FieldLogger }

func (l scrapeLog) Println(v ...any) { l.log.Warn("admin: ", fmt.Sprint(v...)) }

// Describe is half of a prometheus.Collector, for the server's own metrics.
func (s *Server) Describe(to chan<- *prometheus.Desc) { s.families.Describe(to) }

// Collect is the other half. It looks at all checks.
func (s *Server) Collect(to chan<- prometheus.Metric) {
	s.build.Send(to, 1, s.cfg.Version, runtime.Version())
	ready, live := s.look(context.Background(), readiness), s.look(context.Background(), liveness)
	depends := s.look(context.Background(), dependency)
	s.ready.Send(to, metrics.Flag(state(s.state.Load()) == running), "process")
	for name, err := range ready {
		s.ready.Send(to, metrics.Flag(err == nil), name)
	}
	for name, err := range live {
		s.live.Send(to, metrics.Flag(err == nil), name)
	}
	for name, err := range depends {
		s.depends.Send(to, metrics.Flag(err == nil), name)
	}
}
