package worker

import (
	"context"
	"strings"
	"testing"

	"github.com/pkg/errors"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

func TestErrorsReachTheClientWithoutWhatIsInside(t *testing.T) {
	b := newMem(t)
	cause := errors.New("dial tcp 10.1.2.3: secret")
	detailed, err := status.New(codes.FailedPrecondition, "not so").WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "room", Description: "closed"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		err       error
		code      codes.Code
		text      string
		violation string
		logged    string
	}{
		{err: cause, code: codes.Internal, text: "internal error", logged: "errors_test.go"},
		{err: status.Error(codes.Internal, "secret"), code: codes.Internal, text: "internal error", logged: "secret"},
		{err: status.Error(codes.NotFound, "no such user"), code: codes.NotFound, text: "no such user"},
		{err: errors.Wrap(status.Error(codes.NotFound, "no such user"), "secret"), code: codes.NotFound, text: "no such user"},
		{err: Fail(codes.Unavailable, "later", cause), code: codes.Unavailable, text: "later", logged: "errors_test.go"},
		{err: errors.WithMessage(bus.ErrUnavailable, "secret"), code: codes.Unavailable, text: "the broker is not available"},
		{err: errors.WithStack(context.DeadlineExceeded), code: codes.DeadlineExceeded, text: "the answer was not ready in time"},
		{err: Invalid("to", "self", "blocked"), code: codes.InvalidArgument, text: "to: self; to: blocked", violation: "to self"},
		{err: detailed.Err(), code: codes.FailedPrecondition, text: "not so", violation: "room closed"},
	}
	next := make(chan error, 1)
	_, log := service(t, b, "auth", func(w *Worker) {
		Handle(w, "auth.find", func(context.Context, *authpb.FindRequest) (*authpb.FindResponse, error) { return nil, <-next })
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	for _, c := range cases {
		for _, as := range []DataType{Protobuf, JSON, Text} {
			next <- c.err
			r := g.call("auth.find", as, map[DataType]string{Protobuf: "\x0a\x01a", JSON: `{"account":"a"}`, Text: "a"}[as])
			e := wantCode(t, r, c.code)
			if DataType(r.DataType) != as || !strings.HasPrefix(e.GetMessage(), c.text) {
				t.Errorf("%v: got %v in data type %d", c.err, e, r.DataType)
			}
			if strings.Contains(string(r.Data), "secret") {
				t.Errorf("%v: the client got %q", c.err, r.Data)
			}
			if as != Text && c.violation != "" {
				if v := e.GetViolations(); len(v) == 0 || v[0].GetField()+" "+v[0].GetRule() != c.violation {
					t.Errorf("%v: got %v, want %s", c.err, v, c.violation)
				}
			}
		}
		if !strings.Contains(log.String(), c.logged) {
			t.Errorf("%v: the log has no %q:\n%s", c.err, c.logged, log)
		}
	}
}

func TestPanicIsOneRequestsError(t *testing.T) {
	b := newMem(t)
	w, log := service(t, b, "chat", func(w *Worker) {
		Handle(w, "chat.send", func(_ context.Context, in *chatpb.SendRequest) (*chatpb.SendResponse, error) {
			if in.GetText() == "boom" {
				explode()
			}
			return &chatpb.SendResponse{Number: 1}, nil
		})
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	e := wantCode(t, g.call("chat.send", JSON, `{"to":1,"clientId":"c","text":"boom"}`), codes.Internal)
	if strings.Contains(e.GetMessage(), "bang") {
		t.Errorf("the client got %v", e)
	}
	if r := g.call("chat.send", JSON, `{"to":1,"clientId":"c","text":"fine"}`); r.Code != 0 {
		t.Errorf("after the panic: got %s", r.Data)
	}
	if !strings.Contains(log.String(), "panic: bang") || !strings.Contains(log.String(), "worker.explode") {
		t.Errorf("the log does not say where:\n%s", log)
	}
	if n := w.Stats().Panics; n != 1 {
		t.Errorf("counted %d panics, want 1", n)
	}
}

// The stack stands in a field of its own, and the line stays a line.
func TestAStackIsLoggedOnce(t *testing.T) {
	b := newMem(t)
	_, log := service(t, b, "auth", func(w *Worker) {
		Handle(w, "auth.find", func(context.Context, *authpb.FindRequest) (*authpb.FindResponse, error) {
			return nil, errors.WithStack(errors.Wrap(errors.New("disk full"), "find"))
		})
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	wantCode(t, g.call("auth.find", JSON, `{"account":"a"}`), codes.Internal)
	if n := strings.Count(log.String(), "TestAStackIsLoggedOnce"); n != 1 {
		t.Errorf("%d stacks, want 1:\n%s", n, log)
	}
	if !strings.Contains(log.String(), `error="find: disk full"`) {
		t.Errorf("the log does not say what happened in short:\n%s", log)
	}
}

func explode() { panic("bang") }
