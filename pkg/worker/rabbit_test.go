package worker

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/pkg/errors"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/commonpb"
)

// newRabbit is a bus on a real broker, in an installation of the test's own.
func newRabbit(t *testing.T, queues ...func(bus.Topology) string) (bus.Bus, bus.Topology) {
	t.Helper()
	url := os.Getenv("MINIGATE_TEST_RABBITMQ")
	if url == "" {
		t.Fatal("MINIGATE_TEST_RABBITMQ is not set: want amqp://user:password@host:port/")
	}
	topology := bus.NewTopology(fmt.Sprintf("test-worker-%d", time.Now().UnixNano()))
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, queue := range append(queues, bus.Topology.DeadQueue) {
			if _, err := channel.QueueDelete(queue(topology), false, false, false); err != nil {
				t.Errorf("delete %s: %v", queue(topology), err)
			}
		}
		for _, exchange := range topology.Exchanges() {
			if err := channel.ExchangeDelete(exchange, false, false); err != nil {
				t.Errorf("delete %s: %v", exchange, err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	b, err := rabbit.Open(rabbit.Config{URL: url, Topology: topology, Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close the bus: %v", err)
		}
	})
	eventually(t, "the broker is there", func() bool { return b.State() == bus.Up })
	return b, topology
}

// Two replicas share a service's queue on a real broker, and one of them stops
// under load: every request is answered once.
func TestReplicasOnRabbitMQ(t *testing.T) {
	const envelopes, each = 300, 10
	b, topology := newRabbit(t,
		func(t bus.Topology) string { return t.WorkerQueue("game") },
		func(t bus.Topology) string { return t.GateQueue("g1") })
	var mu sync.Mutex
	handled := make(map[uint64]int)
	replica := func() (w *Worker, stop func() error) {
		w = New("game", Config{Bus: b, Topology: topology, Log: quiet(), Prefetch: 8})
		Handle(w, "game.move", func(ctx context.Context, _ *commonpb.Empty) (*commonpb.Empty, error) {
			mu.Lock()
			handled[From(ctx).ID]++
			mu.Unlock()
			return nil, nil
		})
		return w, run(t, w)
	}
	g := newGate(t, b, topology, "g1")
	first, stop := replica()
	second, _ := replica()
	select {
	case a := <-g.announcements:
		if a.Service != "game" || len(a.Routes) != 1 {
			t.Errorf("announced %+v", a)
		}
	case <-time.After(wait):
		t.Fatal("no announcement")
	}
	for i := range uint64(envelopes) {
		var requests []bus.Request
		for j := range uint64(each) {
			id := i*each + j + 1
			requests = append(requests, bus.Request{
				Session: j, Sequence: uint32(id), ID: id, User: 1, DataType: uint8(Protobuf),
			})
		}
		g.send("game.move", requests...)
		if i == envelopes/2 {
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range envelopes * each {
		if r := g.reply(); r.Code != 0 || string(r.Name) != "common.Empty" {
			t.Fatalf("got %+v", r)
		}
	}
	if len(handled) != envelopes*each {
		t.Errorf("%d requests were handled, want %d", len(handled), envelopes*each)
	}
	for id, n := range handled {
		if n != 1 {
			t.Errorf("request %d was handled %d times", id, n)
		}
	}
	if a, b := first.Stats().Handled, second.Stats().Handled; a == 0 || b == 0 {
		t.Errorf("the replicas handled %d and %d, want both at work", a, b)
	}
}

func TestPushToAGateThatIsGoneOnRabbitMQ(t *testing.T) {
	b, topology := newRabbit(t,
		func(t bus.Topology) string { return t.WorkerQueue("auth") },
		func(t bus.Topology) string { return t.GateQueue("g1") })
	w := New("auth", Config{Bus: b, Topology: topology, Log: quiet()})
	Handle(w, "auth.find", find)
	run(t, w)
	g := newGate(t, b, topology, "g1")
	if err := w.Push(t.Context(), ToSession(Session{Gate: "gone", ID: 1}), "auth.hello", &authpb.User{}); !errors.Is(err, ErrNobody) {
		t.Errorf("got %v, want ErrNobody", err)
	}
	if err := w.Push(t.Context(), ToSession(Session{Gate: "g1", ID: 4}), "auth.hello", &authpb.User{Id: 1}); err != nil {
		t.Errorf("to a gate that is there: %v", err)
	}
	if r := g.reply(); r.Session != 4 || r.Sequence != 0 || r.Route != "auth.hello" {
		t.Errorf("got %+v", r)
	}
	g.send("auth.find", bus.Request{Session: 4, Sequence: 2, User: 1, DataType: uint8(Text), Data: []byte("alice")})
	if r := g.reply(); r.Sequence != 2 || r.Code != 0 {
		t.Errorf("got %+v", r)
	}
}
