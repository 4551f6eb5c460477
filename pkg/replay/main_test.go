package replay

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/pkg/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what takes a moment.
const patience = 30 * time.Second

var began = time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// recorded is a tape in memory.
type recorded struct {
	entries []*tape.Entry
	each    func(i int) // called before each entry, where it is set
	err     error       // at the end
}

func (r *recorded) Read(ctx context.Context, start tape.Start, _ bool, each func(*tape.Entry) error) error {
	for i, one := range r.entries {
		if ctx.Err() != nil {
			return nil
		}
		e := *one
		if e.Position = (tape.Position{Offset: int64(i)}); start.Position != nil && int64(i) < start.Position.Offset {
			continue
		}
		if r.each != nil {
			r.each(i)
		}
		if err := each(&e); err != nil {
			return err
		}
	}
	return r.err
}

func (r *recorded) Close() error { return nil }

// call adds requests of one envelope, taken at ms, to the tape.
func (r *recorded) call(ms int, gate, route string, requests ...bus.Request) *tape.Entry {
	at := began.Add(time.Duration(ms) * time.Millisecond)
	b := bus.AppendHeader(nil, bus.Header{Gate: gate, GateAddress: "recorded.invalid:1", Route: route})
	for _, one := range requests {
		if one.Type == typeRequest {
			one.Deadline = at.Add(time.Second).UnixMilli()
		}
		b = bus.AppendRequest(b, &one)
	}
	e := &tape.Entry{Kind: tape.Requests, Time: at, Sent: at.Add(-time.Millisecond), Worker: bus.Service(route), Gate: gate, Envelope: b}
	r.entries = append(r.entries, e)
	return e
}

func (r *recorded) answer(ms int, gate string, replies ...bus.Reply) *tape.Entry {
	var b []byte
	for _, one := range replies {
		b = bus.AppendReply(b, &one)
	}
	e := &tape.Entry{Kind: tape.Replies, Time: began.Add(time.Duration(ms) * time.Millisecond), Gate: gate, Envelope: b}
	r.entries = append(r.entries, e)
	return e
}

// reply is an answer with a message.
func reply(t *testing.T, session uint64, sequence uint32, m proto.Message) bus.Reply {
	t.Helper()
	return bus.Reply{Session: session, Sequence: sequence, DataType: 2, Name: []byte(proto.MessageName(m)), Data: marshal(t, m)}
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// shadow is a bus with a worker on it.
type shadow struct {
	bus      bus.Bus
	topology bus.Topology
}

// newShadow runs a worker of a service with the routes that declare gives it.
func newShadow(t *testing.T, service string, declare func(*worker.Worker)) *shadow {
	t.Helper()
	topology := bus.NewTopology("shadow")
	b := mem.New(mem.Config{Topology: topology})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close the bus: %v", err)
		}
	})
	s := &shadow{b, topology}
	s.work(t, service, declare)
	return s
}

func (s *shadow) work(t *testing.T, service string, declare func(*worker.Worker)) {
	t.Helper()
	w := worker.New(service, worker.Config{Bus: s.bus, Topology: s.topology, Log: quiet()})
	declare(w)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the worker: %v", err)
		}
	})
	eventually(t, "the worker consumes", func() bool { return w.Health() == nil || len(ended) > 0 })
}

// differing is a call whose answer is not what it was.
type differing struct {
	call *tape.Call
	all  []Difference
}

// config is one for a tape, with what it differs in.
func (s *shadow) config(t *testing.T, source tape.Source, ignore ...string) (*Config, *[]differing) {
	t.Helper()
	gate, err := ListenGate("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := gate.Close(); err != nil {
			t.Errorf("close the gate: %v", err)
		}
	})
	comparer, err := NewComparer(ignore)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	found := new([]differing)
	return &Config{
		Source: source, Filter: &tape.Filter{}, Bus: s.bus, Topology: s.topology, Gate: gate,
		InFlight: 64, Timeout: patience, Comparer: comparer,
		Differs: func(c *tape.Call, _ *tape.Reply, all []Difference) {
			mu.Lock()
			defer mu.Unlock()
			*found = append(*found, differing{c, all})
		},
		Progress: func(Result) {},
	}, found
}
