package auth

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/gatepb"
)

// gate is one as a worker sees it: a queue of replies and a gRPC service.
type gate struct {
	gatepb.UnimplementedGateServer
	t         *testing.T
	address   string
	publisher bus.Publisher
	replies   chan *bus.Reply

	mu    sync.Mutex
	bound map[uint64]int64
}

func (g *gate) Bind(_ context.Context, in *gatepb.BindRequest) (*gatepb.BindResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bound[in.GetSession()] = in.GetUser()
	return &gatepb.BindResponse{}, nil
}

func (g *gate) user(session uint64) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.bound[session]
}

func newGate(t *testing.T, b bus.Bus) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	publisher, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{t: t, address: listener.Addr().String(), publisher: publisher, replies: make(chan *bus.Reply, 16), bound: map[uint64]int64{}}
	server := grpc.NewServer()
	gatepb.RegisterGateServer(server, g)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	topology := bus.NewTopology("")
	ready := make(chan struct{}, 1)
	wg.Go(func() {
		if err := server.Serve(listener); err != nil {
			t.Error("serve:", err)
		}
	})
	wg.Go(func() {
		err := b.Consume(ctx, bus.Consumer{
			Queue: bus.Queue{Name: topology.GateQueue("g1"), Expires: time.Minute,
				Bindings: []bus.Binding{{Exchange: topology.ReplyExchange(), Key: topology.GateKey("g1")}}},
			Ready: func() { ready <- struct{}{} },
			Handle: func(d bus.Delivery) {
				keep := func(r *bus.Reply) error { reply := *r; g.replies <- &reply; return nil }
				if err := bus.ReadReplies(d.Body, keep, func(*bus.Announcement) error { return nil }); err != nil {
					t.Error("read replies:", err)
				}
				if err := d.Ack(); err != nil {
					t.Error("ack:", err)
				}
			},
		})
		if err != nil {
			t.Error("consume:", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		server.Stop()
		wg.Wait()
		if err := publisher.Close(); err != nil {
			t.Error("close the publisher:", err)
		}
	})
	<-ready
	return g
}

// call sends a request in JSON and returns the answer.
func (g *gate) call(route string, user int64, data string) *bus.Reply {
	g.t.Helper()
	body := bus.AppendHeader(nil, bus.Header{Gate: "g1", GateAddress: g.address, Route: route})
	body = bus.AppendRequest(body, &bus.Request{
		Session: 7, Sequence: 1, User: user, DataType: uint8(worker.JSON), ID: 1, Data: []byte(data),
		Deadline: time.Now().Add(time.Minute).UnixMilli(), Address: []byte{192, 0, 2, 1},
	})
	done := make(chan error, 1)
	g.publisher.Publish(bus.Message{Exchange: bus.NewTopology("").RequestExchange(), Key: route, Body: body}, func(err error) { done <- err })
	if err := <-done; err != nil {
		g.t.Fatalf("publish %s: %v", route, err)
	}
	select {
	case r := <-g.replies:
		return r
	case <-time.After(30 * time.Second):
		g.t.Fatalf("%s: no answer", route)
		return nil
	}
}

func (g *gate) want(r *bus.Reply, code codes.Code, part string) {
	g.t.Helper()
	if codes.Code(r.Code) != code || !strings.Contains(string(r.Data), part) {
		g.t.Errorf("answered %v %s, want %v and %q", codes.Code(r.Code), r.Data, code, part)
	}
}

// The service behind the worker's base: rules of fields, who is asking, errors
// as clients see them, and the session bound over gRPC.
func TestBehindAWorker(t *testing.T) {
	f := newFixture(t, sqldbtest.SQLite(t), inProcess(t), Config{})
	f.caller = worker.From
	b := mem.New(mem.Config{})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error("close the bus:", err)
		}
	})
	g := newGate(t, b)
	w := worker.New("auth", worker.Config{Bus: b, Log: f.log})
	f.Register(w)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Run:", err)
		}
	})
	eventually(t, "the worker consumes", func() bool { return w.Health() == nil })

	g.want(g.call("auth.register", 0, `{"account":"ann b","password":"short","email":"nowhere"}`), codes.InvalidArgument, `"rule":"min=8"`)
	g.want(g.call("auth.register", 0, `{"account":"Ann","password":"correct horse","email":"ann@example.com"}`), codes.OK, `"account":"Ann"`)
	g.want(g.call("auth.register", 0, `{"account":"ANN","password":"correct horse","email":"ann@example.com"}`), codes.AlreadyExists, "taken")
	g.want(g.call("auth.login", 0, `{"account":"ann","password":"wrong horse"}`), codes.Unauthenticated, "wrong account or password")
	g.want(g.call("auth.verify_email", 0, `{"code":"123456"}`), codes.Unauthenticated, "log in first")

	r := g.call("auth.login", 0, `{"account":"ann","password":"correct horse"}`)
	g.want(r, codes.OK, "token")
	login := new(authpb.LoginResponse)
	if err := protojson.Unmarshal(r.Data, login); err != nil {
		t.Fatal(err)
	}
	user := login.GetUser().GetId()
	if user == 0 || g.user(7) != user {
		t.Fatalf("user %d logged in, the session is bound to %d", user, g.user(7))
	}
	g.want(g.call("auth.find", user, `{"account":"ann"}`), codes.OK, `"nickname":"Ann"`)
	g.want(g.call("auth.logout", user, `{}`), codes.OK, "{}")
	if g.user(7) != 0 || f.whose(t, login.GetToken()) != 0 {
		t.Error("after logout the session is bound, or the token good")
	}
}
