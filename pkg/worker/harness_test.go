package worker

import (
	"context"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	wire "github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/failure"
	"github.com/motto123/minigate/pkg/logging/loggingtest"
	"github.com/motto123/minigate/pkg/presence"
	"github.com/motto123/minigate/proto/commonpb"
)

const wait = 10 * time.Second

// logged is a log, with what is for debugging, and what is in it.
func logged() (*logrus.Logger, *loggingtest.Lines) {
	logger, l := loggingtest.New()
	logger.SetLevel(logrus.DebugLevel)
	return logger, l
}

func quiet() *logrus.Logger {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return logger
}

func newMem(t *testing.T) *mem.Bus {
	t.Helper()
	b := mem.New(mem.Config{})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close the bus: %v", err)
		}
	})
	return b
}

// run runs a worker until the test ends or stop is called, and returns when it
// consumes. stop returns what Run returned.
func run(t *testing.T, w *Worker) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(2 * wait):
			t.Error("Run does not return")
			return nil
		}
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	eventually(t, "the worker consumes", func() bool { return w.Health() == nil || len(ended) > 0 })
	return stop
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(wait); !condition(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", wait, what)
		}
	}
}

// gate is what a worker sees of a gate: requests from it and a queue of its own.
type gate struct {
	t         *testing.T
	id        string
	address   string
	topology  bus.Topology
	publisher bus.Publisher

	replies       chan *bus.Reply
	announcements chan bus.Announcement
}

func newGate(t *testing.T, b bus.Bus, topology bus.Topology, id string) *gate {
	t.Helper()
	publisher, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{
		t: t, id: id, address: id + ".invalid:7101", topology: topology, publisher: publisher,
		replies:       make(chan *bus.Reply, 1<<16),
		announcements: make(chan bus.Announcement, 64),
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}, 16), make(chan error, 1)
	go func() {
		ended <- b.Consume(ctx, bus.Consumer{
			Queue: bus.Queue{
				Name: topology.GateQueue(id),
				Bindings: []bus.Binding{
					{Exchange: topology.ReplyExchange(), Key: topology.GateKey(id)},
					{Exchange: topology.ReplyExchange(), Key: topology.AllGates()},
				},
				Expires: time.Minute,
			},
			Ready:  func() { ready <- struct{}{} },
			Handle: g.handle,
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("gate %s: %v", id, err)
		}
		if err := publisher.Close(); err != nil {
			t.Errorf("gate %s: %v", id, err)
		}
	})
	select {
	case <-ready:
	case <-time.After(wait):
		t.Fatalf("gate %s has no queue", id)
	}
	return g
}

func (g *gate) handle(d bus.Delivery) {
	err := bus.ReadReplies(d.Body, func(r *bus.Reply) error {
		reply := *r
		g.replies <- &reply
		return nil
	}, func(a *bus.Announcement) error {
		g.announcements <- bus.Announcement{Service: a.Service, Routes: slices.Clone(a.Routes)}
		return nil
	})
	if err != nil {
		g.t.Errorf("gate %s: %v", g.id, err)
	}
	if err := d.Ack(); err != nil {
		g.t.Errorf("gate %s: %v", g.id, err)
	}
}

// publish sends bytes to a key of the request exchange and waits for the
// broker.
func (g *gate) publish(key string, body []byte) {
	g.t.Helper()
	done := make(chan error, 1)
	g.publisher.Publish(bus.Message{Exchange: g.topology.RequestExchange(), Key: key, Body: body}, func(err error) { done <- err })
	if err := <-done; err != nil {
		g.t.Fatalf("publish %s: %v", key, err)
	}
}

// send sends one envelope. Requests without a deadline get one.
func (g *gate) send(route string, requests ...bus.Request) {
	g.t.Helper()
	body := bus.AppendHeader(nil, bus.Header{Gate: g.id, GateAddress: g.address, Route: route})
	for _, r := range requests {
		if r.Deadline == 0 {
			r.Deadline = time.Now().Add(wait).UnixMilli()
		}
		body = bus.AppendRequest(body, &r)
	}
	g.publish(route, body)
}

// reply is the next reply or push.
func (g *gate) reply() *bus.Reply {
	g.t.Helper()
	select {
	case r := <-g.replies:
		return r
	case <-time.After(wait):
		g.t.Fatalf("gate %s: no reply", g.id)
		return nil
	}
}

// call sends one request of user 42 and returns its answer.
func (g *gate) call(route string, as DataType, data string) *bus.Reply {
	g.t.Helper()
	g.send(route, bus.Request{Session: 1, Sequence: 9, User: 42, DataType: uint8(as), ID: 3, Data: []byte(data)})
	r := g.reply()
	if r.Session != 1 || r.Sequence != 9 {
		g.t.Fatalf("reply to session %d, sequence %d, want 1 and 9", r.Session, r.Sequence)
	}
	return r
}

// problem is the error that a reply carries; it fails the test where there is
// none.
func problem(t *testing.T, r *bus.Reply) *commonpb.Error {
	t.Helper()
	if string(r.Name) != failure.Name {
		t.Fatalf("got %q named %q, want a common.Error", r.Data, r.Name)
	}
	e, err := failure.Decode(r.Data, wire.DataType(r.DataType))
	if err != nil {
		t.Fatal(err)
	}
	if int32(r.Code) != e.GetCode() {
		t.Errorf("the reply's code is %d, its error's %d", r.Code, e.GetCode())
	}
	return e
}

func wantCode(t *testing.T, r *bus.Reply, code codes.Code) *commonpb.Error {
	t.Helper()
	e := problem(t, r)
	if codes.Code(e.GetCode()) != code {
		t.Errorf("got %v, want %v", e, code)
	}
	return e
}

func marshal(t *testing.T, m proto.Message) string {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// newPresence is a store in a real Redis, with keys of the test's own.
func newPresence(t *testing.T) *presence.Store {
	t.Helper()
	address := os.Getenv("MINIGATE_TEST_REDIS")
	if address == "" {
		t.Fatal("MINIGATE_TEST_REDIS is not set: want host:port of a Redis server")
	}
	client := redis.NewClient(&redis.Options{Addr: address})
	prefix := "test-" + t.Name() + "-" + time.Now().Format("150405.000000000")
	t.Cleanup(func() {
		keys, err := client.Keys(context.Background(), prefix+"*").Result()
		if err != nil {
			t.Errorf("list the test's keys: %v", err)
		}
		if len(keys) > 0 {
			client.Del(context.Background(), keys...)
		}
		if err := client.Close(); err != nil {
			t.Errorf("close Redis: %v", err)
		}
	})
	store, err := presence.New(presence.Config{Redis: client, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	return store
}
