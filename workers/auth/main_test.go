package auth

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/pkg/errors"
	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/emailpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("away")

// fixture is a service with its surroundings.
type fixture struct {
	*Service
	events  *recorder
	gates   *gates
	redis   *redis.Client
	traffic *traffic
}

// each runs a test on MySQL and Redis, and on what embedded mode has in their
// place.
func each(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	t.Run("servers", func(t *testing.T) { test(t, newFixture(t, sqldbtest.MySQL(t), realRedis(t), Config{})) })
	t.Run("embedded", func(t *testing.T) { test(t, newFixture(t, sqldbtest.SQLite(t), inProcess(t), Config{})) })
}

// newFixture fills in what cfg leaves open: cheap hashes and no limits.
func newFixture(t *testing.T, db *sqldb.DB, client *redis.Client, cfg Config) *fixture {
	t.Helper()
	f := &fixture{events: &recorder{}, gates: &gates{}, redis: client, traffic: &traffic{}}
	client.AddHook(f.traffic)
	cfg.DB, cfg.Redis, cfg.IDs, cfg.Events, cfg.Log = db, client, &counter{}, f.events, logrus.New()
	cfg.Log.(*logrus.Logger).SetOutput(io.Discard)
	cfg.Prefix = "test-" + rand.Text()
	if cfg.Passwords == (PasswordConfig{}) {
		cfg.Passwords = PasswordConfig{MemoryKiB: 64, Iterations: 1}
	}
	if cfg.Limits == (Limits{}) {
		none := Limit{Burst: -1}
		cfg.Limits = Limits{none, none, none, none, none, none, none}
	}
	service, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	service.gates = f.gates
	service.caller = func(ctx context.Context) worker.Caller {
		c, _ := ctx.Value(callerKey{}).(worker.Caller)
		return c
	}
	f.Service = service
	t.Cleanup(func() {
		names, err := client.Keys(context.Background(), cfg.Prefix+":*").Result()
		if err == nil && len(names) > 0 {
			client.Del(context.Background(), names...)
		}
	})
	return f
}

// run starts the service's Run, and returns what ends it.
func (f *fixture) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Run:", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func realRedis(t *testing.T) *redis.Client {
	t.Helper()
	address := os.Getenv("MINIGATE_TEST_REDIS")
	if address == "" {
		t.Fatal("MINIGATE_TEST_REDIS is not set: it must name a Redis server, for example 127.0.0.1:6379")
	}
	return open(t, address)
}

func inProcess(t *testing.T) *redis.Client {
	t.Helper()
	return open(t, miniredis.RunT(t).Addr())
}

func open(t *testing.T, address string) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: address, MaxRetries: -1, DialTimeout: time.Second, DialerRetries: 1})
	t.Cleanup(func() { client.Close() })
	return client
}

// deaf is an address where nobody listens.
func deaf(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

type callerKey struct{}

func as(t *testing.T, c worker.Caller) context.Context {
	return context.WithValue(t.Context(), callerKey{}, c)
}

var session = worker.Session{Gate: "g1", GateAddress: "gate:1", ID: 7}

// from is somebody on session who is not logged in.
func from(t *testing.T) context.Context {
	return as(t, worker.Caller{Session: session, Address: netip.MustParseAddr("192.0.2.1")})
}

// user is somebody on session who is.
func by(t *testing.T, id int64) context.Context {
	return as(t, worker.Caller{Session: session, User: id, Address: netip.MustParseAddr("192.0.2.1")})
}

const secret = "correct horse"

// add registers an account and returns its user and code.
func (f *fixture) add(t *testing.T, account string) (*authpb.User, string) {
	t.Helper()
	answer, err := f.RegisterUser(from(t), &authpb.RegisterRequest{Account: account, Password: secret, Email: account + "@example.com"})
	if err != nil {
		t.Fatal("register:", err)
	}
	mail, ok := f.events.last(eventVerification).(*emailpb.Verification)
	if !ok || mail.GetTo() != account+"@example.com" {
		t.Fatalf("the mail to %s is %v", account, mail)
	}
	return answer.GetUser(), mail.GetCode()
}

func (f *fixture) login(t *testing.T, account, password string) (*authpb.LoginResponse, error) {
	t.Helper()
	return f.Login(from(t), &authpb.LoginRequest{Account: account, Password: password})
}

func (f *fixture) mustLogin(t *testing.T, account, password string) *authpb.LoginResponse {
	t.Helper()
	answer, err := f.login(t, account, password)
	if err != nil {
		t.Fatal("login:", err)
	}
	return answer
}

// whose returns the user of a token, 0 where it is nobody's.
func (f *fixture) whose(t *testing.T, token string) int64 {
	t.Helper()
	answer, err := server{service: f.Service}.Verify(t.Context(), &authpb.VerifyRequest{Token: token})
	if err != nil && status.Code(err) != codes.Unauthenticated {
		t.Fatal("verify:", err)
	}
	return answer.GetUser()
}

// keys are the names of a kind in Redis.
func (f *fixture) keys(t *testing.T, kind string) []string {
	t.Helper()
	names, err := f.redis.Keys(t.Context(), f.cfg.Prefix+":auth:"+kind+"*").Result()
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// wrong is a code that is not the given one.
func wrong(code string) string {
	b := []byte(code)
	b[0] = '0' + (b[0]-'0'+1)%10
	return string(b)
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatal("not within 20 s: " + what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// counter makes ids.
type counter struct{ n atomic.Int64 }

func (c *counter) Next(context.Context) (int64, error) { return 1000 + c.n.Add(1), nil }

// recorder is an event exchange.
type recorder struct {
	mu     sync.Mutex
	events []event
	fail   map[string]error
}

type event struct {
	of      context.Context
	name    string
	message proto.Message
}

func (r *recorder) Publish(ctx context.Context, name string, m proto.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fail[name]; err != nil {
		return err
	}
	r.events = append(r.events, event{ctx, name, m})
	return nil
}

func (r *recorder) failing(name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = map[string]error{name: err}
}

func (r *recorder) last(name string) proto.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range slices.Backward(r.events) {
		if e.name == name {
			return e.message
		}
	}
	return nil
}

func (r *recorder) count(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		if e.name == name {
			n++
		}
	}
	return n
}

// gates remembers who is bound.
type gates struct {
	mu     sync.Mutex
	bound  map[worker.Session]int64
	kicked []int64
	fail   error
}

func (g *gates) Bind(_ context.Context, s worker.Session, user int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		return g.fail
	}
	if g.bound == nil {
		g.bound = map[worker.Session]int64{}
	}
	g.bound[s] = user
	return nil
}

func (g *gates) KickUser(ctx context.Context, user int64, _, _ string) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	g.kicked = append(g.kicked, user)
	return 1, g.fail
}

// traffic is what goes to Redis; a test may have some of it fail, or act
// between two commands.
type traffic struct {
	mu     sync.Mutex
	names  []string
	before func(cmd redis.Cmder) error
}

func (h *traffic) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *traffic) see(cmd redis.Cmder) error {
	h.mu.Lock()
	h.names = append(h.names, cmd.Name())
	before := h.before
	h.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(cmd)
}

func (h *traffic) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := h.see(cmd); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func (h *traffic) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if err := h.see(cmd); err != nil {
				cmd.SetErr(err)
				return err
			}
		}
		return next(ctx, cmds)
	}
}

func (h *traffic) intercept(before func(cmd redis.Cmder) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before = before
}

// take returns the names since the last call.
func (h *traffic) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := h.names
	h.names = nil
	return names
}
