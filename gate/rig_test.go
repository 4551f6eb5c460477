package gate

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/presence"
	"github.com/motto123/minigate/proto/gatepb"
)

// patience is how long a test waits for what must happen.
const patience = 15 * time.Second

// rig is a running gate and what stands around it.
type rig struct {
	t        testing.TB
	gate     *Gate
	bus      *mem.Bus
	topology bus.Topology
	stop     func() error // ends the gate, once, and returns what Run returned
}

// start runs a gate on a bus in memory.
func start(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	b := mem.New(mem.Config{})
	t.Cleanup(func() { _ = b.Close() })
	return startOn(t, b, change...)
}

// startOn runs a gate on a bus that others may share.
func startOn(t testing.TB, b *mem.Bus, change ...func(*Config)) *rig {
	t.Helper()
	cfg := Config{
		TCP: "127.0.0.1:0", WebSocket: "127.0.0.1:0", GRPC: "127.0.0.1:0",
		Bus: b, Log: quiet(), Loops: 2,
	}
	for _, f := range change {
		f(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, gate: g, bus: b, topology: bus.NewTopology("")}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if n := g.stats.Panics.Load(); n != 0 {
			t.Errorf("%d panics", n)
		}
	})
	select {
	case <-g.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatalf("Run: %v", err)
	case <-time.After(patience):
		t.Fatal("the gate is not ready")
	}
	return r
}

func quiet() *logrus.Logger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	if os.Getenv("MINIGATE_TEST_LOG") != "" {
		l.SetOutput(os.Stderr)
		l.SetLevel(logrus.DebugLevel)
	}
	return l
}

// eventually waits until f says true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	end := time.Now().Add(patience)
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for !f() {
		if time.Now().After(end) {
			t.Fatalf("it never happens that %s", what)
		}
		<-ticker.C
	}
}

// both runs a test over TCP and over WebSocket.
func both(t *testing.T, f func(t *testing.T, over transport)) {
	for _, over := range []transport{overTCP, overWebSocket} {
		t.Run(over.String(), func(t *testing.T) { f(t, over) })
	}
}

// store is a presence store of the test's own, in a real Redis.
func store(t testing.TB) *presence.Store {
	t.Helper()
	address := os.Getenv("MINIGATE_TEST_REDIS")
	if address == "" {
		t.Fatal("MINIGATE_TEST_REDIS is not set: want host:port of a Redis")
	}
	client := redis.NewClient(&redis.Options{Addr: address})
	t.Cleanup(func() { _ = client.Close() })
	return storeOn(t, client)
}

var stores atomic.Int64

func storeOn(t testing.TB, client *redis.Client) *presence.Store {
	t.Helper()
	prefix := fmt.Sprintf("gate-test-%d-%d-%d", os.Getpid(), time.Now().UnixNano(), stores.Add(1))
	s, err := presence.New(presence.Config{Redis: client, Prefix: prefix, Expiry: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// withUsers lets tokens be verified: "user N" is user N's, "unreachable" is when
// nobody can say, and all others are nobody's.
func withUsers(t testing.TB) func(*Config) {
	s := store(t)
	return func(c *Config) {
		c.Presence = s
		c.Verify = verifier(func(_ context.Context, token string) (int64, error) {
			var user int64
			switch _, err := fmt.Sscanf(token, "user %d", &user); {
			case err == nil:
				return user, nil
			case token == "unreachable":
				return 0, status.Error(codes.Unavailable, "no auth service")
			}
			return 0, status.Error(codes.Unauthenticated, "no such token")
		})
	}
}

type verifier func(ctx context.Context, token string) (int64, error)

func (v verifier) Verify(ctx context.Context, token, _ string, _ uint64) (int64, error) {
	return v(ctx, token)
}

// calls is a client of the gate's gRPC service.
func (r *rig) calls() gatepb.GateClient {
	r.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+r.gate.GRPCAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return gatepb.NewGateClient(conn)
}

// asked is a request as a service sees it.
type asked struct {
	bus.Request
	gate, address, route string
}

// stub is a service that does what the test says.
type stub struct {
	t         testing.TB
	topology  bus.Topology
	publisher bus.Publisher
	got       chan asked
}

// serve consumes all routes of a service. Requests are given to answer, where
// there is one, and otherwise to the channel got.
func serve(t testing.TB, b *mem.Bus, name string, answer func(*stub, asked)) *stub {
	t.Helper()
	s := &stub{t: t, topology: bus.NewTopology(""), got: make(chan asked, 1<<16)}
	var err error
	if s.publisher, err = b.Publisher(); err != nil {
		t.Fatal(err)
	}
	if answer == nil {
		answer = func(s *stub, a asked) { s.got <- a }
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ready := make(chan struct{})
	ended.Go(func() {
		_ = b.Consume(ctx, bus.Consumer{
			Queue: bus.Queue{
				Name:     s.topology.WorkerQueue(name),
				Bindings: []bus.Binding{{Exchange: s.topology.RequestExchange(), Key: s.topology.ServiceKey(name)}},
			},
			Handle: func(d bus.Delivery) { s.handle(d, answer) },
			Ready:  func() { close(ready) },
		})
	})
	t.Cleanup(func() { cancel(); ended.Wait() })
	<-ready
	return s
}

func (s *stub) handle(d bus.Delivery, answer func(*stub, asked)) {
	var h bus.Header
	err := bus.ReadRequests(d.Body, &h, func(r *bus.Request) error {
		answer(s, asked{*r, h.Gate, h.GateAddress, strings.Clone(h.Route)})
		return nil
	})
	if err != nil {
		s.t.Error(err)
	}
	if err := d.Ack(); err != nil {
		s.t.Error(err)
	}
}

// echo answers with what was asked.
func echo(s *stub, a asked) {
	s.reply(a.gate, &bus.Reply{Session: a.Session, Sequence: a.Sequence, DataType: a.DataType, Name: a.Name, Data: a.Data})
}

// next is the next request that came.
func (s *stub) next() asked {
	s.t.Helper()
	select {
	case a := <-s.got:
		return a
	case <-time.After(patience):
		s.t.Fatal("no request reaches the service")
		return asked{}
	}
}

func (s *stub) reply(gate string, replies ...*bus.Reply) {
	s.send(s.topology.GateKey(gate), replies...)
}

func (s *stub) toAll(replies ...*bus.Reply) { s.send(s.topology.AllGates(), replies...) }

func (s *stub) send(key string, replies ...*bus.Reply) {
	var b []byte
	for _, r := range replies {
		b = bus.AppendReply(b, r)
	}
	s.publish(key, b)
}

func (s *stub) announce(service string, routes ...string) {
	s.publish(s.topology.AllGates(), bus.AppendAnnouncement(nil, &bus.Announcement{Service: service, Routes: routes}))
}

func (s *stub) publish(key string, b []byte) {
	s.publisher.Publish(bus.Message{Exchange: s.topology.ReplyExchange(), Key: key, Body: b}, func(err error) {
		if err != nil {
			s.t.Errorf("publish to %s: %v", key, err)
		}
	})
}

// announced makes a service known to a gate, whose dictionary has it afterwards.
func (s *stub) announced(r *rig, routes ...string) {
	s.t.Helper()
	s.announce(bus.Service(routes[0]), routes...)
	eventually(s.t, "the gate knows "+routes[len(routes)-1], func() bool {
		_, ok := r.gate.dictionary.CodeOf(routes[len(routes)-1])
		return ok
	})
}

// journal keeps events.
type journal struct {
	mu     sync.Mutex
	events []proto.Message
}

func (j *journal) Publish(_ context.Context, _ string, m proto.Message) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, m)
	return nil
}

func (j *journal) all() []proto.Message {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]proto.Message(nil), j.events...)
}

// request is a Request of a route by its text.
func request(id uint64, route, body string) *codec.Message {
	return &codec.Message{Type: codec.Request, Data: codec.Text, ID: id, Route: []byte(route), Body: []byte(body)}
}
