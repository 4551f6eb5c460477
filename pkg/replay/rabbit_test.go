package replay

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/tail"
	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/pkg/tape/stream"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/tapepb"
)

// broker is the URL of the broker that the tests share.
func broker(t *testing.T) string {
	t.Helper()
	url := os.Getenv("MINIGATE_TEST_RABBITMQ")
	if url == "" {
		t.Fatal("MINIGATE_TEST_RABBITMQ is not set: want amqp://user:password@host:port/")
	}
	return url
}

// installation is a prefix of the test's own; what is under it on the broker is gone
// afterwards, with the queues of the services.
func installation(t *testing.T, services ...string) bus.Topology {
	t.Helper()
	topology := bus.NewTopology("test-replay-" + rand.Text()[:10])
	t.Cleanup(func() {
		conn, err := amqp.Dial(broker(t))
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		channel, err := conn.Channel()
		if err != nil {
			t.Error(err)
			return
		}
		queues := []string{topology.DeadQueue(), topology.TapeStream()}
		for _, service := range services {
			queues = append(queues, topology.WorkerQueue(service))
		}
		for _, name := range queues {
			_, err = channel.QueueDelete(name, false, false, false)
			if err != nil {
				t.Errorf("remove %s: %v", name, err)
			}
		}
		for _, name := range topology.Exchanges() {
			if err := channel.ExchangeDelete(name, false, false); err != nil {
				t.Errorf("remove %s: %v", name, err)
			}
		}
	})
	return topology
}

// onRabbit is a bus on the real broker.
func onRabbit(t *testing.T, topology bus.Topology) *shadow {
	t.Helper()
	b, err := rabbit.Open(rabbit.Config{URL: broker(t), Topology: topology, Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close the bus: %v", err)
		}
	})
	eventually(t, "the broker is there", func() bool { return b.State() == bus.Up })
	return &shadow{b, topology}
}

// write puts entries on the tape of an installation, so many in a message.
func write(t *testing.T, topology bus.Topology, entries []*tape.Entry, together int) {
	t.Helper()
	store, err := stream.NewStore(stream.Config{URL: broker(t), Topology: topology, MaxBytes: 1 << 30, MaxAge: time.Hour, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }()
	outcomes := make(chan error)
	batches := slices.Collect(slices.Chunk(entries, together))
	go func() {
		for _, chunk := range batches {
			batch := new(tapepb.Batch)
			for _, e := range chunk {
				one := &tapepb.Entry{Kind: uint32(e.Kind), Time: e.Time.UnixNano(), Worker: e.Worker, Gate: e.Gate, Redelivered: e.Redelivered, Masked: e.Masked, Envelope: e.Envelope}
				if !e.Sent.IsZero() {
					one.Sent = e.Sent.UnixNano()
				}
				batch.Entries = append(batch.Entries, one)
			}
			body, err := proto.Marshal(batch)
			if err != nil {
				outcomes <- err
				continue
			}
			store.Write(ctx, tape.Batch{Body: body, Entries: len(chunk), Last: chunk[len(chunk)-1].Time}, func(err error) { outcomes <- err })
		}
	}()
	for range batches {
		if err := <-outcomes; err != nil {
			t.Fatalf("write the tape: %v", err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// recordedOn is the tape of an installation.
func recordedOn(t *testing.T, topology bus.Topology) tape.Source {
	t.Helper()
	source, err := stream.Open(broker(t), topology)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := source.Close(); err != nil {
			t.Errorf("close the tape: %v", err)
		}
	})
	return source
}

// A hundred thousand requests of two hundred users on the tape of a real broker: tail
// finds one user's, in their order, and replay sends all of them.
func TestAHundredThousandRequests(t *testing.T) {
	const requests, users, envelope = 100_000, 200, 20
	production, shadowed := installation(t), installation(t, "echo")
	// The workers of an installation make its exchanges and its dead-letter queue.
	onRabbit(t, production)
	r := new(recorded)
	for i := 0; i < requests; i += envelope {
		var all []bus.Request
		var answers []bus.Reply
		for n := i; n < i+envelope; n++ {
			one := bus.Request{Session: uint64(n % users), Sequence: uint32(n/users + 1), User: int64(n%users) + 1000, ID: uint64(n + 1), Data: fmt.Appendf(nil, "request %d", n)}
			all = append(all, one)
			answers = append(answers, bus.Reply{Session: one.Session, Sequence: one.Sequence, Data: one.Data})
		}
		r.call(i/100, "g", "echo.echo", all...)
		r.answer(i/100+1, "g", answers...)
	}
	write(t, production, r.entries, 50)
	source := recordedOn(t, production)

	var out bytes.Buffer
	user := int64(1042)
	began := time.Now()
	n, err := tail.Run(t.Context(), tail.Config{Source: source, Filter: &tape.Filter{User: &user}, Output: &out, JSON: true})
	if err != nil || n != requests/users {
		t.Fatalf("tail by user finds %d, %v", n, err)
	}
	t.Logf("tail found a user's %d of %d requests in %v", n, requests, time.Since(began))
	next := uint32(0)
	for line := range strings.Lines(out.String()) {
		var one struct {
			User, Outcome string
			Sequence      uint32
		}
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatal(err)
		}
		if next++; one.User != "1042" || one.Sequence != next || one.Outcome != "OK" {
			t.Fatalf("instead of request %d there is %s", next, line)
		}
	}

	s := onRabbit(t, shadowed)
	s.work(t, "echo", echo)
	cfg, _ := s.config(t, source)
	result, err := Run(t.Context(), *cfg)
	if err != nil || result.Sent != requests || result.Same != requests {
		t.Fatalf("replay got %+v, %v", result, err)
	}
	t.Logf("replay sent %d in %v, %.0f requests/s", result.Sent, result.Took, float64(result.Sent)/result.Took.Seconds())
	forget(t, shadowed, cfg.Gate.ID())
}

// forget removes the queue of a gate that has ended.
func forget(t *testing.T, topology bus.Topology, gate string) {
	t.Helper()
	target, err := OpenTarget(broker(t), topology)
	if err == nil {
		err = errors.Join(target.Forget(gate), target.Close())
	}
	if err != nil {
		t.Error(err)
	}
}

func TestATargetSaysWhetherSomebodyTakesTheRequests(t *testing.T) {
	never := bus.NewTopology("test-replay-" + rand.Text()[:10])
	if _, err := OpenTarget(broker(t), never); !errors.Is(err, ErrNoWorker) || !strings.Contains(err.Error(), "--prefix "+never.Prefix()) {
		t.Errorf("of a prefix that nobody has used: %v", err)
	}
	topology := installation(t, "echo")
	s := onRabbit(t, topology)
	target, err := OpenTarget(broker(t), topology)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := target.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := target.Check(t.Context(), "echo"); err != nil {
		t.Errorf("a queue that is not there is left to the broker: %v", err)
	}
	t.Run("worker", func(t *testing.T) {
		s.work(t, "echo", echo)
		if err := target.Check(t.Context(), "echo"); err != nil {
			t.Errorf("while the worker runs: %v", err)
		}
	})
	if err := target.CheckGate(t.Context(), "nobody"); err != nil {
		t.Errorf("of a gate that is not there: %v", err)
	}
	eventually(t, "the worker is gone", func() bool { return target.Check(t.Context(), "echo") != nil })
	if err := target.Check(t.Context(), "echo"); !errors.Is(err, ErrNoWorker) || !strings.Contains(err.Error(), "minigate worker echo --prefix "+topology.Prefix()) {
		t.Errorf("when it is gone: %v", err)
	}
	if _, err := OpenTarget("amqp://someone:hidden@", topology); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("of a bad URL: %v", err)
	}
}

func TestDeadLettersAreReadAndStay(t *testing.T) {
	topology := installation(t)
	s := onRabbit(t, topology)
	publisher, err := s.bus.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	bury := func(key string, body []byte) {
		t.Helper()
		done := make(chan error, 1)
		publisher.Publish(bus.Message{Exchange: topology.DeadExchange(), Key: key, Body: body}, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	r := new(recorded)
	for i := range 20 {
		e := r.call(i, "g", "echo.echo", bus.Request{Session: 1, Sequence: uint32(i + 1), ID: uint64(i + 1)})
		bury(topology.WorkerQueue("echo"), e.Envelope)
		bury(topology.EventQueue("auth", "session.closed"), []byte("an event"))
		bury(topology.WorkerQueue("echo"), []byte{0xff}) // for which it became one
	}
	read := func(ctx context.Context, start tape.Start, each func(*tape.Entry) error) (offsets []int64, ids []uint64, err error) {
		t.Helper()
		source, err := OpenDead(broker(t), topology)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { err = errors.Join(err, source.Close()) }()
		err = source.Read(ctx, start, false, func(e *tape.Entry) error {
			var h bus.Header
			offsets = append(offsets, e.Position.Offset)
			return errors.Join(bus.ReadRequests(e.Envelope, &h, func(r *bus.Request) error { ids = append(ids, r.ID); return nil }), each(e))
		})
		return offsets, ids, err
	}
	all := func(*tape.Entry) error { return nil }
	stopped := errors.New("stopped")
	for round := range 3 {
		offsets, ids, err := read(t.Context(), tape.Start{}, all)
		if err != nil || len(ids) != 20 || !slices.IsSorted(ids) || offsets[19] != 57 {
			t.Fatalf("round %d: got %v at %v, %v", round, ids, offsets, err)
		}
		if _, ids, err = read(t.Context(), tape.Start{Position: &tape.Position{Offset: 30}}, all); err != nil || len(ids) != 10 || ids[0] != 11 {
			t.Errorf("from 30 on are %v, %v", ids, err)
		}
		n := 0
		if _, _, err := read(t.Context(), tape.Start{}, func(*tape.Entry) error {
			if n++; n == 7 {
				return stopped
			}
			return nil
		}); !errors.Is(err, stopped) {
			t.Errorf("a reader that stops gets %v", err)
		}
	}
	if err := publisher.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := read(t.Context(), tape.Start{}, all); err != nil {
		t.Error(err)
	}
	none := bus.NewTopology("test-replay-" + rand.Text()[:10])
	source, err := OpenDead(broker(t), none)
	if err != nil {
		t.Fatal(err)
	}
	if err := source.Read(t.Context(), tape.Start{}, false, all); err == nil || !strings.Contains(err.Error(), none.DeadQueue()) {
		t.Errorf("without a queue: %v", err)
	}
	if err := source.Close(); err != nil {
		t.Error(err)
	}
}

// flaky is a bus whose connection is lost when the test says so.
type flaky struct {
	bus.Bus
	watcher func(bus.State)
}

func (f *flaky) Watch(w func(bus.State)) func() {
	f.watcher = w
	return func() {}
}

func TestALostBrokerIsNoDifference(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 1)
	s := newShadow(t, "echo", func(w *worker.Worker) {
		worker.HandleRaw(w, "echo.echo", func(_ context.Context, in worker.Raw) (worker.Raw, error) {
			select {
			case arrived <- struct{}{}:
			default:
			}
			<-release
			return in, nil
		}, worker.Public())
	})
	f := &flaky{Bus: s.bus}
	s.bus = f
	cfg, found := s.config(t, echoes(1000))
	go func() {
		<-arrived
		f.watcher(bus.Down)
	}()
	result, err := Run(t.Context(), *cfg)
	close(release)
	if !errors.Is(err, errLost) || result.Sent == 0 || len(*found) != 0 || result.Next != (tape.Place{}) {
		t.Errorf("got %+v, %v, and %d that differ", result, err, len(*found))
	}
}
