package dead

import (
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/events"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/emailpb"
)

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// runs runs something until the test ends.
func runs(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A job whose handler panics: its letter says where, and the job is done when the
// handler is mended and the letter put back.
func TestJobWhoseHandlerPanics(t *testing.T) {
	r := newRig(t)
	e, err := events.New(events.Config{Topology: r.topology, URL: r.url, RetryDelay: time.Millisecond}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	r.queues = append(r.queues, r.topology.EventQueue("mailer", "email.verification"))
	var mended atomic.Bool
	sent := make(chan string, 1)
	events.Subscribe(e, "mailer", "email.verification", func(_ context.Context, in *emailpb.Verification) error {
		if !mended.Load() {
			var template []string
			_ = template[len(in.GetTo())]
		}
		sent <- in.GetCode()
		return nil
	}, events.Retries(2))
	runs(t, e.Run)
	mail := &emailpb.Verification{To: "alice@example.org", Nickname: "Alice", Code: "123456"}
	if err := e.Publish(t.Context(), "email.verification", mail); err != nil {
		t.Fatal(err)
	}
	r.waiting(r.topology.DeadQueue(), 1)
	list, _ := says(t, r, "list", "--event", "email.verification")
	if !regexp.MustCompile(`mailer\.email\.verification +email\.verification +3 +panic: runtime error: index out of range \[17\] with length 0\n$`).MatchString(list) {
		t.Errorf("listed is %q", list)
	}
	id := strings.Fields(list)[0]
	shown, _ := says(t, r, "show", id)
	for _, want := range []string{"reason      panic: runtime error: index out of range", "stack\n", "TestJobWhoseHandlerPanics", "live_test.go:", `"to": "alice@example.org"`, `"code": "***"`, "attempts    3\n"} {
		if !strings.Contains(shown, want) {
			t.Errorf("want %q in\n%s", want, shown)
		}
	}
	if strings.Contains(shown, "123456") {
		t.Errorf("the code is shown:\n%s", shown)
	}
	mended.Store(true)
	if out, _ := says(t, r, "requeue", id, "--yes"); !strings.HasPrefix(out, "requeued 1 letter: ") {
		t.Errorf("got %q", out)
	}
	select {
	case code := <-sent:
		if code != "123456" {
			t.Errorf("the code of the mail is %s", code)
		}
	case <-time.After(patience):
		t.Fatal("the mail is not sent")
	}
	r.waiting(r.topology.DeadQueue(), 0)
}

// A malformed envelope: its letter says what is wrong with it, and shows what can be
// read of it.
func TestMalformedEnvelope(t *testing.T) {
	r := newRig(t)
	b, err := rabbit.Open(rabbit.Config{URL: r.url, Topology: r.topology, Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	r.queues = append(r.queues, r.topology.WorkerQueue("auth"))
	w := worker.New("auth", worker.Config{Bus: b, Topology: r.topology, Log: quiet()})
	worker.Handle(w, "auth.login", func(context.Context, *authpb.LoginRequest) (*authpb.LoginResponse, error) {
		return nil, errors.New("nobody should come here")
	}, worker.Public())
	runs(t, w.Run)
	eventually(t, "the worker consumes", func() bool { return w.Health() == nil })
	body := bus.AppendHeader(nil, bus.Header{Gate: "g1", GateAddress: "g1.invalid:7101", Route: "auth.login"})
	body = bus.AppendRequest(body, &bus.Request{
		Session: 5, Sequence: 1, DataType: uint8(codec.Protobuf), Name: []byte("auth.LoginRequest"),
		Data: marshal(t, &authpb.LoginRequest{Account: "alice", Password: secret}),
	})
	p, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	p.Publish(bus.Message{Exchange: r.topology.RequestExchange(), Key: "auth.login", Body: append(body, 0x22, 0x7f, 0x08)}, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.waiting(r.topology.DeadQueue(), 1)
	list, _ := says(t, r, "list", "--route", "auth.*")
	if !regexp.MustCompile(`worker\.auth +auth\.login +1 +bus: malformed envelope: unexpected EOF\n$`).MatchString(list) {
		t.Errorf("listed is %q", list)
	}
	shown, _ := says(t, r, "show", strings.Fields(list)[0])
	for _, want := range []string{
		"route       auth.login\n", "reason      bus: malformed envelope: unexpected EOF\n", "1 request of gate g1 (g1.invalid:7101), route auth.login",
		`"account": "alice"`, `"password": "***"`, "what is behind the last of these requests can not be read",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("want %q in\n%s", want, shown)
		}
	}
	if strings.Contains(shown, secret) {
		t.Errorf("the password is shown:\n%s", shown)
	}
	// Put back, it dies again, and tells of both times.
	if out, _ := says(t, r, "requeue", "--all", "--yes"); !strings.HasPrefix(out, "requeued 1 letter: ") {
		t.Errorf("got %q", out)
	}
	r.waiting(r.topology.DeadQueue(), 1)
	again, _ := says(t, r, "list", "--route", "auth.login")
	if again[:10] != list[:10] || strings.Fields(again)[0] == strings.Fields(list)[0] {
		t.Errorf("listed is %q, and was %q", again, list)
	}
	if shown, _ := says(t, r, "show", strings.Fields(again)[0]); !strings.Contains(shown, "deaths      2\n") || !strings.Contains(shown, "died first") {
		t.Errorf("after its second death:\n%s", shown)
	}
}
