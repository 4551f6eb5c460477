package e2e_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/pkg/tracing/tracingtest"
	"github.com/motto123/minigate/proto/chatpb"
)

// root is a trace that a client has begun.
type root struct{ trace, span string }

func newRoot() root {
	return root{fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()), fmt.Sprintf("%016x", rand.Uint64()|1)}
}

// connectTraced is connect, in a trace that the client has begun.
func connectTraced(t *testing.T, address string, p *person, of root) *person {
	t.Helper()
	in := &inbox{changed: make(chan struct{})}
	c, err := client.Dial(t.Context(), address, client.Options{
		Token: p.token, OnPush: in.take, Timeout: patience, PushPatience: patience, TraceParent: "00-" + of.trace + "-" + of.span + "-01",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	other := *p
	other.Client, other.inbox = c, in
	return &other
}

// of are the spans of a trace.
func of(all tracingtest.Spans, trace string) (mine tracingtest.Spans) {
	for _, s := range all {
		if s.Trace == trace {
			mine = append(mine, s)
		}
	}
	return mine
}

// step is a span as the test expects it: what makes it, what kind it is, how it is
// named.
type step struct{ service, kind, name string }

// follow goes from a span down to the one below it that a step names, and so on. It
// is the test's end where one is missing.
func follow(t *testing.T, all tracingtest.Spans, from tracingtest.Span, steps ...step) tracingtest.Span {
	t.Helper()
	for _, want := range steps {
		var found tracingtest.Spans
		for _, s := range all.Below(from) {
			if s.Service == "minigate-"+want.service && s.Kind == want.kind && s.Name == want.name {
				found = append(found, s)
			}
		}
		if len(found) == 0 {
			t.Fatalf("below %s %s: no %s span %s of %s; there are: %s", from.Service, from.Name, want.kind, want.name, want.service, all.Below(from).Names())
		}
		from = found[0]
	}
	return from
}

// attributes wants a span to have some.
func attributes(t *testing.T, s tracingtest.Span, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if s.Attributes[name] != value {
			t.Errorf("%s %s: %s is %q, want %q", s.Service, s.Name, name, s.Attributes[name], value)
		}
	}
}

// TestTraceOfAMessage: one chat message across two gates is one trace, with a span of
// everything that it passes, each below the right one, and with nothing of what it
// says.
func TestTraceOfAMessage(t *testing.T) {
	t.Parallel()
	w, c := newWorld(t), tracingtest.NewCollector(t)
	settings := []string{"--trace-endpoint", c.Address, "--trace-sample", "1", "--log-format", "json", "--log-level", "debug"}
	one, two := w.gate(append(settings, "--trace-clients")...), w.gate(settings...)
	w.worker(append(settings, "auth", "--auth-grpc", w.authAddresses[0])...)
	chat, email := w.worker(append(settings, "chat")...), w.worker(append(settings, "email")...)
	w.consumed("auth", 1)
	w.consumed("chat", 1)
	w.mailed()

	registering := newRoot()
	alice := connectTraced(t, one.tcp, connect(t, one.tcp, "alice"), registering)
	bob := connect(t, two.ws, "bob")
	for _, p := range []*person{alice, bob} {
		p.register()
		p.login()
		p.verify(mailedCode(t, p.email, "Confirm"))
	}
	ignored := newRoot() // by a gate that is not told to take what clients say
	bob = connectTraced(t, two.ws, bob, ignored)

	sending := newRoot()
	alice = connectTraced(t, one.tcp, alice, sending)
	const secret = "the words of the message"
	ask[chatpb.SendResponse](alice, "chat.send", &chatpb.SendRequest{To: bob.id, ClientId: "a-clients-id", Text: secret})
	bob.inbox.wait(t, 1)
	alice.refused(codes.NotFound, "chat.send", &chatpb.SendRequest{To: 1, ClientId: "another-id", Text: secret})
	alice.refused(codes.NotFound, "nobody."+"made-this", wrapperspb.String(secret))
	w.stop() // with which everything is exported

	all := of(c.Spans(), sending.trace)
	client := tracingtest.Span{Trace: sending.trace, ID: sending.span}
	asked := follow(t, all, client, step{"gate", "server", "chat.send"})
	process := follow(t, all, asked, step{"gate", "producer", "publish chat.send"}, step{"chat", "consumer", "process chat.send"})
	for _, name := range []string{
		"SELECT messages", "SELECT conversations", "INSERT conversations", "BEGIN", "UPDATE conversations", "INSERT messages", "COMMIT", "HGETALL",
	} {
		follow(t, all, process, step{"chat", "client", name})
	}
	follow(t, all, process, step{"chat", "client", "auth.Auth/Users"}, step{"auth", "server", "auth.Auth/Users"}, step{"auth", "client", "SELECT users"})
	push := follow(t, all, process, step{"chat", "producer", "publish chat.message"}, step{"gate", "consumer", "deliver chat.message"})
	reply := follow(t, all, process, step{"chat", "producer", "reply chat.send"}, step{"gate", "consumer", "deliver chat.send"})
	follow(t, all, client, step{"gate", "server", "handshake"}, step{"gate", "client", "auth.Auth/Verify"}, step{"auth", "server", "auth.Auth/Verify"}, step{"auth", "client", "GET"})

	a, b := asked.Attributes["minigate.gate"], push.Attributes["minigate.gate"]
	if a == "" || b == "" || a == b || reply.Attributes["minigate.gate"] != a {
		t.Errorf("asked on gate %q, pushed on %q, replied on %q", a, b, reply.Attributes["minigate.gate"])
	}
	names := map[string]string{
		"rpc.method": "chat.send", "minigate.gate": a, "minigate.session": asked.Attributes["minigate.session"],
		"minigate.request_number": "1", "user.id": fmt.Sprint(alice.id), "messaging.message.id": "1",
	}
	attributes(t, asked, names)
	attributes(t, process, names)
	attributes(t, asked, map[string]string{"rpc.response.status_code": "OK"})
	attributes(t, process, map[string]string{
		"rpc.response.status_code": "OK", "messaging.system": "rabbitmq", "messaging.operation.type": "process",
		"messaging.destination.name": w.topology.RequestExchange(), "messaging.rabbitmq.destination.routing_key": "chat.send",
	})
	attributes(t, push, map[string]string{"minigate.sessions": "1", "messaging.destination.name": w.topology.ReplyExchange()})

	// The one that failed, and the one whose route nobody has.
	failed := all.Named("chat.send")
	if len(failed) != 2 || len(all.Named("other")) != 1 {
		t.Fatalf("%d spans of chat.send and %d of what nobody has, want 2 and 1", len(failed), len(all.Named("other")))
	}
	codesOf := failed[0].Attributes["rpc.response.status_code"] + " " + failed[1].Attributes["rpc.response.status_code"]
	if codesOf != "OK NOT_FOUND" && codesOf != "NOT_FOUND OK" {
		t.Errorf("chat.send was answered %s", codesOf)
	}
	attributes(t, all.Named("other")[0], map[string]string{"rpc.method": "nobody.made-this", "rpc.response.status_code": "NOT_FOUND"})
	attributes(t, follow(t, all, all.Named("other")[0], step{"gate", "producer", "publish other"}), map[string]string{"error.type": "returned"})

	if n := len(of(c.Spans(), ignored.trace)); n != 0 {
		t.Errorf("%d spans are in a trace that a client has named to a gate which must not take it", n)
	}
	for _, s := range c.Spans() {
		if s.Service == "" || len(s.Trace) != 32 {
			t.Errorf("got %+v", s)
		}
		for _, private := range []string{secret, "a-clients-id", alice.password, alice.token, alice.email} {
			if text := fmt.Sprint(s); strings.Contains(text, private) {
				t.Errorf("a span tells what a message says: %s", text)
			}
		}
	}

	// The job that a request has left is in its trace, too.
	all = of(c.Spans(), registering.trace)
	follow(t, all, tracingtest.Span{Trace: registering.trace, ID: registering.span}, step{"gate", "server", "auth.register"},
		step{"gate", "producer", "publish auth.register"}, step{"auth", "consumer", "process auth.register"},
		step{"auth", "producer", "publish email.verification"}, step{"email", "consumer", "process email.verification"})
	follow(t, all, all.Named("process auth.login")[0], step{"auth", "client", "gate.Gate/Bind"}, step{"gate", "server", "gate.Gate/Bind"}, step{"gate", "client", "EVALSHA"})

	request := map[string]any{"gate": a, "session": decimal(asked.Attributes["minigate.session"]), "request": 2.0, "trace_id": sending.trace, "route": "chat.send"}
	says(t, chat, "the request failed", request)
	says(t, email, "email: sent", map[string]any{"gate": a, "trace_id": registering.trace, "request": decimal(all.Named("auth.register")[0].Attributes["minigate.request_number"])})
}

func decimal(text string) (n float64) {
	_, _ = fmt.Sscan(text, &n)
	return n
}

// says wants a line of JSON in a process's log with a message and these fields.
func says(t *testing.T, p *process, message string, fields map[string]any) {
	t.Helper()
	var near []string
	for line := range strings.Lines(p.out.String()) {
		var got map[string]any
		if json.Unmarshal([]byte(line), &got) != nil || got["msg"] != message {
			continue
		}
		near = append(near, line)
		same := true
		for name, value := range fields {
			same = same && got[name] == value
		}
		if same {
			return
		}
	}
	t.Errorf("%s does not say %q with %v, but: %q", p.name, message, fields, near)
}

// TestTheCollectorIsAway: with a collector that is not there, requests are answered,
// processes end in time, and the log says so once.
func TestTheCollectorIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	settings := []string{"--trace-endpoint", freePort(t), "--trace-sample", "1"}
	g := w.gate(settings...)
	echo := w.worker(append(settings, "echo")...)
	w.consumed("echo", 1)
	alice := connect(t, g.tcp, "alice")
	for range 100 {
		if got := ask[wrapperspb.StringValue](alice, "echo.echo", wrapperspb.String("hello")); got.GetValue() != "hello" {
			t.Fatalf("got %v", got)
		}
	}
	w.stop()
	for _, p := range []*process{g.process, echo} {
		if n := strings.Count(p.out.String(), "traces are lost"); n != 1 {
			t.Errorf("%s: %d lines say that traces are lost, want 1", p.name, n)
		}
	}
}
