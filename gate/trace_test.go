package gate

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/pkg/tracing/tracingtest"
	"github.com/motto123/minigate/proto/gatepb"
)

// tracedBy has a gate trace a share of its requests.
func tracedBy(t testing.TB, share float64) (*tracingtest.Recorder, func(*Config)) {
	tracer, spans := tracingtest.New(t, share)
	return spans, func(c *Config) { c.Tracer = tracer }
}

// elsewhere is a span of another process, as an envelope names it.
func elsewhere(flags byte) (trace, span string, envelope []byte) {
	b := []byte{0x0a, 15: 0x9c, 16: 0xb7, 23: 0x31, 24: flags}
	return "0a00000000000000000000000000009c", "b700000000000031", b
}

// below wants one span below another.
func below(t *testing.T, all tracingtest.Spans, above tracingtest.Span, kind, name string) tracingtest.Span {
	t.Helper()
	found := all.Below(above).Named(name)
	if len(found) != 1 || found[0].Kind != kind {
		t.Fatalf("below %s: got %s, want one %s span %s", above.Name, all.Below(above).Names(), kind, name)
	}
	return found[0]
}

// TestTracedRequest: a span of the request, one of its publishing, which the envelope
// names, and one of the reply below whoever published that.
func TestTracedRequest(t *testing.T) {
	spans, traced := tracedBy(t, 1)
	r := start(t, traced, withUsers(t))
	s := serve(t, r.bus, "a", nil)
	s.announced(r, "a.b")
	c := r.login(t, overTCP, "user 7")
	c.send(request(99, "a.b", "hello"))
	got := s.next()
	_, span, from := elsewhere(1)
	s.reply(got.gate, &bus.Reply{Session: got.Session, Sequence: got.Sequence, Data: []byte("bye"), Code: 5, Trace: from})
	c.message()

	asked := tracingtest.One(t, spans, "a.b")
	all := spans.Spans()
	publish := below(t, all, asked, "producer", "publish a.b")
	if c, ok := tracing.Parse(got.Trace); !ok || !c.IsSampled() || c.TraceID().String() != asked.Trace || c.SpanID().String() != publish.ID {
		t.Errorf("the envelope names % x, want trace %s and span %s", got.Trace, asked.Trace, publish.ID)
	}
	deliver := tracingtest.One(t, spans, "deliver a.b")
	if deliver.Parent != span || deliver.Kind != "consumer" || deliver.Attributes["minigate.gate"] != r.gate.ID() {
		t.Errorf("the reply's span is %+v", deliver)
	}
	for name, want := range map[string]string{
		"rpc.method": "a.b", "rpc.response.status_code": "NOT_FOUND", "user.id": "7", "messaging.message.id": "99", "minigate.request_number": "1", "minigate.gate": r.gate.ID(),
	} {
		if asked.Attributes[name] != want {
			t.Errorf("%s is %q, want %q", name, asked.Attributes[name], want)
		}
	}
	if asked.Kind != "server" || asked.Parent != "" || asked.Failed || publish.Attributes["messaging.destination.name"] != r.topology.RequestExchange() {
		t.Errorf("got %+v and %+v", asked, publish)
	}
	handshake := tracingtest.One(t, spans, "handshake")
	if handshake.Trace == asked.Trace || handshake.Attributes["rpc.response.status_code"] != "OK" {
		t.Errorf("the handshake's span is %+v", handshake)
	}
}

// TestNotTraced: what is not chosen leaves nothing, in spans and on the bus; nor does
// anything of a gate without a tracer, whatever comes for it.
func TestNotTraced(t *testing.T) {
	spans, traced := tracedBy(t, 0)
	for name, change := range map[string]func(*Config){"not chosen": traced, "no tracer": func(*Config) {}} {
		t.Run(name, func(t *testing.T) {
			r := start(t, change, withUsers(t))
			_, _, from := elsewhere(1)
			s := serve(t, r.bus, "a", nil)
			c := r.login(t, overTCP, "user 7")
			c.send(request(1, "a.b", "hello"))
			got := s.next()
			if len(got.Trace) != 0 {
				t.Errorf("the envelope names % x", got.Trace)
			}
			if name == "no tracer" {
				s.reply(got.gate, &bus.Reply{User: 7, Route: "a.push", Trace: from})
				c.message()
			} else {
				from = nil
			}
			s.reply(got.gate, &bus.Reply{Session: got.Session, Sequence: got.Sequence, Trace: from})
			c.message()
			if all := spans.Spans(); len(all) != 0 {
				t.Errorf("got %s", all.Names())
			}
		})
	}
}

// TestTracedEnds: every request that is traced comes to its span's end, with the code
// that its client gets, and so does its publishing.
func TestTracedEnds(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*Config)
		message *codec.Message
		reply   bool // and not nobody
		leave   bool // before there is an answer
		code    string
		span    string
		publish string // what became of it; "-" where there is none
	}{
		"answered":        {message: request(1, "a.b", ""), reply: true, code: "OK", span: "a.b"},
		"late":            {change: func(c *Config) { c.RequestTimeout = 20 * time.Millisecond }, message: request(1, "a.b", ""), code: "DEADLINE_EXCEEDED", span: "a.b"},
		"nobody's route":  {message: request(1, "nobody.here", ""), code: "NOT_FOUND", span: "other", publish: "returned"},
		"no route":        {message: request(1, "x", ""), code: "NOT_FOUND", span: "other", publish: "-"},
		"left":            {message: request(1, "a.b", ""), leave: true, code: "CANCELLED", span: "a.b"},
		"notify":          {message: &codec.Message{Type: codec.Notify, Route: []byte("a.b")}, code: "OK", span: "a.b"},
		"notify and ack":  {message: &codec.Message{Type: codec.Notify, ID: 3, Route: []byte("a.b")}, code: "OK", span: "a.b"},
		"ack":             {message: &codec.Message{Type: codec.Ack, ID: 3, Route: []byte("a.b")}, code: "OK", span: "a.b"},
		"ack of no route": {message: &codec.Message{Type: codec.Ack, ID: 3, Route: []byte("x")}, code: "NOT_FOUND", span: "other", publish: "-"},
		"unknown code":    {message: &codec.Message{ID: 3, Compressed: true, Code: 77}, code: "NOT_FOUND", span: "other", publish: "-"},
	} {
		t.Run(name, func(t *testing.T) {
			spans, traced := tracedBy(t, 1)
			if c.change == nil {
				c.change = func(*Config) {}
			}
			r := start(t, traced, c.change)
			s := serve(t, r.bus, "a", func(s *stub, a asked) {
				if s.got <- a; c.reply {
					echo(s, a)
				}
			})
			s.announced(r, "a.b")
			w := r.login(t, overTCP, "")
			w.send(c.message)
			if c.leave {
				s.next()
				w.close()
			}
			asked := tracingtest.One(t, spans, c.span)
			if got := asked.Attributes["rpc.response.status_code"]; got != c.code {
				t.Errorf("answered %s, want %s", got, c.code)
			}
			if c.publish == "-" {
				return
			}
			publish := tracingtest.One(t, spans, "publish "+c.span)
			if publish.Parent != asked.ID || publish.Attributes["error.type"] != c.publish {
				t.Errorf("the publishing's span is %+v, want error.type %q", publish, c.publish)
			}
			r.gate.publishings.mu.Lock()
			defer r.gate.publishings.mu.Unlock()
			if n := len(r.gate.publishings.spans); n != 0 {
				t.Errorf("%d publishings are left", n)
			}
		})
	}
}

// TestClientsTraces: a client's trace is taken where the gate may, and says itself
// whether it is kept. Anything else in its place is passed over.
func TestClientsTraces(t *testing.T) {
	trace, span, _ := elsewhere(1)
	const good = `"00-0a00000000000000000000000000009c-b700000000000031-01"`
	for name, c := range map[string]struct {
		member string
		share  float64
		may    bool
		spans  int // of the request
		mine   bool
	}{
		"taken":       {good, 0, true, 1, true},
		"must not":    {good, 0, false, 0, false},
		"not kept":    {strings.Replace(good, "-01", "-00", 1), 1, true, 0, false},
		"malformed":   {`"00-0a"`, 1, true, 1, false},
		"a number":    {`7`, 1, true, 1, false},
		"an object":   {`{"a":[]}`, 1, true, 1, false},
		"nothing":     {`null`, 1, true, 1, false},
		"not allowed": {`"ff-0a00000000000000000000000000009c-b700000000000031-01"`, 1, true, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			spans, traced := tracedBy(t, c.share)
			r := start(t, traced, withUsers(t), func(cfg *Config) { cfg.TraceClients, cfg.Loops = c.may, 1 })
			s := serve(t, r.bus, "a", func(s *stub, a asked) { s.got <- a; echo(s, a) })
			s.announced(r, "a.b")
			w := r.connect(t, overTCP)
			if a := w.handshake(`{"sys":{"version":"1.0.1","traceparent":` + c.member + `},"user":{"token":"user 7"}}`); a.Code != 200 {
				t.Fatalf("the handshake is answered %+v", a)
			}
			w.call(request(1, "a.b", ""))
			if got := s.next(); (len(got.Trace) > 0) != (c.spans > 0) {
				t.Errorf("the envelope names % x", got.Trace)
			}
			w.close()
			if c.share == 0 { // the next one, who names none
				other := r.login(t, overTCP, "")
				other.call(request(1, "a.b", ""))
				if got := s.next(); len(got.Trace) != 0 {
					t.Errorf("another client's envelope names % x", got.Trace)
				}
				other.close()
			}
			eventually(t, "the client has gone", func() bool { return r.gate.stats.Connections.Load() == 0 })
			if err := r.stop(); err != nil { // with which all spans have ended
				t.Error(err)
			}
			for _, l := range r.gate.loops {
				if len(l.parents) != 0 {
					t.Error("the trace of a session that is gone is kept")
				}
			}
			for _, of := range []string{"a.b", "handshake"} {
				found := spans.Spans().Named(of)
				if len(found) != c.spans {
					t.Fatalf("%d spans %s, want %d", len(found), of, c.spans)
				}
				if c.spans > 0 && (found[0].Trace == trace && found[0].Parent == span) != c.mine {
					t.Errorf("%s is %+v", of, found[0])
				}
			}
		})
	}
}

// TestTracedPushes: a push has one span on each loop that has somebody for it, and
// none where what it names is no trace that is kept.
func TestTracedPushes(t *testing.T) {
	spans, traced := tracedBy(t, 0)
	r := start(t, traced, withUsers(t))
	s := serve(t, r.bus, "a", nil)
	c := r.login(t, overTCP, "user 7")
	id := whoAmI(t, c, s).Session
	trace, span, from := elsewhere(1)
	_, _, unkept := elsewhere(0)
	for i, target := range []bus.Reply{{Session: id}, {User: 7}, {Everyone: true}} {
		for _, bad := range [][]byte{nil, unkept, from[:20], make([]byte, len(from)), make([]byte, 5000)} {
			push := target
			push.Route, push.Trace = "a.bad", bad
			s.toAll(&push)
			c.message()
		}
		push := target
		push.Route, push.Trace = "a.push", from
		s.toAll(&push)
		c.message()
		tracingtest.Eventually(t, spans, "a push's span", func(all tracingtest.Spans) bool { return len(all) == i+1 })
	}
	s.toAll(&bus.Reply{User: 8, Route: "a.push", Trace: from}, &bus.Reply{Group: "nobody", Route: "a.push", Trace: from}, &bus.Reply{User: 7, Route: "a.end"})
	c.message()
	all := spans.Spans()
	if len(all) != 3 {
		t.Fatalf("got %s, want three", all.Names())
	}
	for _, s := range all {
		if s.Name != "deliver a.push" || s.Trace != trace || s.Parent != span || s.Attributes["minigate.sessions"] != "1" {
			t.Errorf("got %+v", s)
		}
	}
	// A reply that nobody waits for any more.
	s.reply(r.gate.ID(), &bus.Reply{Session: id, Sequence: 77, Trace: from}, &bus.Reply{Session: id + 1<<8, Sequence: 1, Trace: from})
	tracingtest.Eventually(t, spans, "spans of late replies", func(all tracingtest.Spans) bool { return len(all.Named("deliver other")) == 2 })
	for _, s := range spans.Spans().Named("deliver other") {
		if s.Attributes["minigate.late"] != "true" {
			t.Errorf("got %+v", s)
		}
	}
}

// said is what a gate logs.
type said struct {
	mu  sync.Mutex
	all []logrus.Entry
}

func (l *said) Levels() []logrus.Level { return logrus.AllLevels }

func (l *said) Fire(e *logrus.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, *e)
	return nil
}

// has reports whether a line has a message and these fields.
func (l *said) has(message string, fields logrus.Fields) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.all {
		same := strings.HasPrefix(e.Message, message)
		for name, want := range fields {
			same = same && e.Data[name] == want
		}
		if same {
			return true
		}
	}
	return false
}

// caught keeps the contexts of events.
type caught chan context.Context

func (c caught) Publish(ctx context.Context, name string, _ proto.Message) error {
	if name == "session.bound" {
		c <- ctx
	}
	return nil
}

// TestLinesOfARequest: what a gate logs of a request, and of calls that are made for
// one, says whose it is, and so do the events that they lead to.
func TestLinesOfARequest(t *testing.T) {
	spans, traced := tracedBy(t, 1)
	log, events := new(said), make(caught, 8)
	var off *tracing.Tracer
	r := start(t, traced, withUsers(t), func(c *Config) {
		logger := quiet()
		logger.SetLevel(logrus.DebugLevel)
		logger.AddHook(log)
		c.Log, c.Events, c.GRPCOptions = logger, events, off.ServerOptions()
	})
	s := serve(t, r.bus, "a", nil)
	s.announced(r, "a.b")
	c := r.login(t, overTCP, "")
	c.send(request(1, "a.b", ""))
	got := s.next()
	s.reply(got.gate, &bus.Reply{Session: got.Session, Sequence: got.Sequence, Name: make([]byte, 300)})
	c.message()
	want := logrus.Fields{
		"gate": r.gate.ID(), "route": "a.b", "session": got.Session, "request": got.Sequence, "trace_id": tracingtest.One(t, spans, "a.b").Trace,
	}
	if !log.has("encode an answer", want) {
		t.Errorf("no line of an answer has %v", want)
	}

	conn, err := grpc.NewClient("passthrough:///"+r.gate.GRPCAddress(), append(off.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	by := tracing.Request{Gate: "another", Session: 5, Sequence: 6}
	calls, ctx := gatepb.NewGateClient(conn), tracing.With(t.Context(), by)
	if _, err := calls.Bind(ctx, &gatepb.BindRequest{Session: got.Session, User: 7}); err != nil {
		t.Fatal(err)
	}
	if of, _ := tracing.RequestOf(<-events); of != by {
		t.Errorf("the event came of %v, want %v", of, by)
	}
	if _, err := calls.Kick(ctx, &gatepb.KickRequest{Session: got.Session}); err != nil {
		t.Fatal(err)
	}
	if want := (logrus.Fields{"gate": r.gate.ID(), "session": got.Session, "by": "another/5/6"}); !log.has("kick", want) {
		t.Errorf("no line of a kick has %v", want)
	}
	other := r.connect(t, overTCP)
	other.handshake(hi("unreachable"))
	handshake := tracingtest.One(t, spans, "handshake")
	if want := (logrus.Fields{"gate": r.gate.ID(), "trace_id": handshake.Trace}); !log.has("verify a token", want) || !handshake.Failed {
		t.Errorf("no line of a token has %v", want)
	}
}
