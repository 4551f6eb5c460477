package worker

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pkg/errors"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/logging/loggingtest"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/commonpb"
)

// find answers with the account that it was asked for.
func find(_ context.Context, in *authpb.FindRequest) (*authpb.FindResponse, error) {
	return &authpb.FindResponse{User: &authpb.User{Id: 1 << 60, Account: in.GetAccount(), EmailVerified: true}}, nil
}

func service(t *testing.T, b bus.Bus, name string, register func(*Worker)) (*Worker, *loggingtest.Lines) {
	t.Helper()
	logger, l := logged()
	w := New(name, Config{Bus: b, Log: logger})
	register(w)
	run(t, w)
	return w, l
}

func TestProtobufJSONAndTextReachTheSameHandler(t *testing.T) {
	b := newMem(t)
	service(t, b, "auth", func(w *Worker) { Handle(w, "auth.find", find) })
	g := newGate(t, b, bus.NewTopology(""), "g1")

	r := g.call("auth.find", Protobuf, marshal(t, &authpb.FindRequest{Account: "alice"}))
	var answer authpb.FindResponse
	if err := proto.Unmarshal(r.Data, &answer); err != nil {
		t.Fatal(err)
	}
	if string(r.Name) != "auth.FindResponse" || DataType(r.DataType) != Protobuf || r.Code != 0 || answer.GetUser().GetAccount() != "alice" {
		t.Errorf("protobuf: got %+v", r)
	}
	for _, c := range []struct {
		as   DataType
		data string
	}{
		{JSON, `{"account":"alice","newer":{"member":[1]}}`},
		{Text, `  {"account":"alice"}`},
		{Text, `alice`},
	} {
		r := g.call("auth.find", c.as, c.data)
		got := strings.ReplaceAll(string(r.Data), " ", "") // protojson spaces at random
		if want := `{"user":{"id":"1152921504606846976","account":"alice","emailVerified":true}}`; got != want {
			t.Errorf("%s: got %s, want %s", c.data, got, want)
		}
		if string(r.Name) != "auth.FindResponse" || DataType(r.DataType) != c.as || r.Code != 0 {
			t.Errorf("%s: got %+v", c.data, r)
		}
	}
}

func TestDataThatIsNotTheMessageIsInvalid(t *testing.T) {
	b := newMem(t)
	service(t, b, "auth", func(w *Worker) {
		Handle(w, "auth.find", find)
		Handle(w, "auth.nothing", func(context.Context, *commonpb.Empty) (*commonpb.Empty, error) { return nil, nil })
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	for _, c := range []struct {
		what, route string
		as          DataType
		name, data  string
	}{
		{"protobuf", "auth.find", Protobuf, "", "\x0a\xff"},
		{"JSON", "auth.find", JSON, "", `{"account":`},
		{"a member's type", "auth.find", JSON, "", `{"account":7}`},
		{"text that is no UTF-8", "auth.find", Text, "", "\xff\xfe"},
		{"text without a field for it", "auth.nothing", Text, "", "hello"},
		{"the name", "auth.find", Protobuf, "auth.LoginRequest", ""},
		{"the data type", "auth.find", 3, "", "x"},
	} {
		g.send(c.route, bus.Request{
			Session: 1, Sequence: 1, User: 42, DataType: uint8(c.as), Name: []byte(c.name), Data: []byte(c.data),
		})
		r := g.reply()
		if c.as == 3 {
			r.DataType = uint8(Text) // that is how an error is written for a type nobody knows
		}
		if e := problem(t, r); e.GetCode() != int32(codes.InvalidArgument) || len(e.GetViolations()) > 0 {
			t.Errorf("%s: got %v", c.what, e)
		} else if strings.Contains(e.GetMessage(), "proto:") || strings.Contains(e.GetMessage(), " a auth") {
			t.Errorf("%s: got %q, want it in plain words", c.what, e.GetMessage())
		} else if c.what == "a member's type" && !strings.Contains(e.GetMessage(), "field account: 7") {
			t.Errorf("%s: got %q, want the field's name", c.what, e.GetMessage())
		}
	}
	// Empty data is an empty message, in each form.
	for _, as := range []DataType{Text, JSON, Protobuf} {
		if r := g.call("auth.nothing", as, ""); r.Code != 0 || string(r.Name) != "common.Empty" {
			t.Errorf("data type %d: got %+v", as, r)
		}
	}
}

func TestWhoMayCall(t *testing.T) {
	b := newMem(t)
	w, _ := service(t, b, "auth", func(w *Worker) {
		Handle(w, "auth.find", find)
		Handle(w, "auth.open", find, Public())
		HandleRaw(w, "auth.raw", func(_ context.Context, in Raw) (Raw, error) { return in, nil })
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	nobody := bus.Request{Session: 1, Sequence: 1, DataType: uint8(Text), Data: []byte("alice")}
	for route, want := range map[string]codes.Code{
		"auth.find": codes.Unauthenticated, "auth.raw": codes.Unauthenticated, "auth.open": codes.OK,
		"auth.gone": codes.NotFound,
	} {
		g.send(route, nobody)
		if r := g.reply(); codes.Code(r.Code) != want {
			t.Errorf("%s: got %v, want %v", route, codes.Code(r.Code), want)
		} else if want != codes.OK {
			wantCode(t, r, want)
		}
	}
	if failed := w.Stats().Failed; failed[codes.Unauthenticated] != 2 {
		t.Errorf("counted %v, want 2 unauthenticated", failed)
	}
}

func TestFromSaysWhoAsks(t *testing.T) {
	b := newMem(t)
	callers := make(chan Caller, 1)
	service(t, b, "auth", func(w *Worker) {
		Handle(w, "auth.find", func(ctx context.Context, in *authpb.FindRequest) (*authpb.FindResponse, error) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			callers <- From(ctx)
			return find(ctx, in)
		})
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	g.send("auth.find", bus.Request{
		Session: 1 << 40, Sequence: 2, User: 42, DataType: uint8(Text), ID: 1 << 50, Data: []byte("x"), Address: []byte{192, 0, 2, 7},
	})
	g.reply()
	want := Caller{
		Session: Session{Gate: "g1", GateAddress: "g1.invalid:7101", ID: 1 << 40},
		User:    42, Address: netip.MustParseAddr("192.0.2.7"), Route: "auth.find", Type: Request, DataType: Text, ID: 1 << 50, Sequence: 2,
	}
	if got := <-callers; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := From(context.Background()); got != (Caller{}) {
		t.Errorf("without a request: got %+v", got)
	}
}

func TestDeadlines(t *testing.T) {
	b := newMem(t)
	called := make(chan time.Time, 8)
	w, _ := service(t, b, "auth", func(w *Worker) {
		Handle(w, "auth.find", func(ctx context.Context, _ *authpb.FindRequest) (*authpb.FindResponse, error) {
			end, _ := ctx.Deadline()
			called <- end
			<-ctx.Done()
			return nil, ctx.Err()
		})
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	end := time.Now().Add(500 * time.Millisecond).Truncate(time.Millisecond)
	g.send("auth.find",
		bus.Request{Session: 1, Sequence: 1, User: 1, Data: []byte("a"), Deadline: time.Now().Add(-time.Second).UnixMilli()},
		bus.Request{Session: 2, Sequence: 2, User: 1, Data: []byte("a"), Deadline: end.UnixMilli()})
	r := g.reply()
	if wantCode(t, r, codes.DeadlineExceeded); r.Sequence != 2 {
		t.Errorf("got an answer to %d, want one to 2 only", r.Sequence)
	}
	if got := <-called; !got.Equal(end) {
		t.Errorf("the handler's deadline is %v, want %v", got, end)
	}
	if s := w.Stats(); s.Expired != 1 || len(called) != 0 {
		t.Errorf("counted %d expired and %d further calls, want 1 and 0", s.Expired, len(called))
	}
}

func TestAHandlersContextEndsWhenItReturns(t *testing.T) {
	b := newMem(t)
	contexts := make(chan context.Context, 2)
	service(t, b, "auth", func(w *Worker) {
		Handle(w, "auth.find", func(ctx context.Context, in *authpb.FindRequest) (*authpb.FindResponse, error) {
			contexts <- ctx
			return find(ctx, in)
		})
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	g.call("auth.find", Text, "bob")
	ctx := <-contexts
	select {
	case <-ctx.Done():
	case <-time.After(wait / 2):
		t.Fatal("the context goes on")
	}
	if !errors.Is(ctx.Err(), context.Canceled) || From(ctx).User != 42 {
		t.Errorf("got %v, user %d", ctx.Err(), From(ctx).User)
	}
}

func TestNotifyAndAckGetNoAnswer(t *testing.T) {
	b := newMem(t)
	acked := make(chan uint64, 4)
	notified := make(chan string, 4)
	w, _ := service(t, b, "chat", func(w *Worker) {
		HandleAck(w, "chat.message", func(ctx context.Context, id uint64) error {
			if From(ctx).Type != Ack {
				return errors.New("no ack")
			}
			acked <- id
			return nil
		})
		HandleRaw(w, "chat.raw", func(_ context.Context, in Raw) (Raw, error) {
			notified <- string(in.Data)
			return in, errors.New("nobody hears this")
		})
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	g.send("chat.message", bus.Request{Session: 1, User: 1, Type: uint8(Ack), ID: 77})
	g.send("chat.other", bus.Request{Session: 1, User: 1, Type: uint8(Ack), ID: 78})
	g.send("chat.raw", bus.Request{Session: 1, User: 1, Type: uint8(Notify), Data: []byte("psst")})
	g.send("chat.raw", bus.Request{Session: 1, Sequence: 4, User: 1, Data: []byte("hey")})
	if id := <-acked; id != 77 {
		t.Errorf("got push %d, want 77", id)
	}
	if first := <-notified; first != "psst" {
		t.Errorf("got %q, want psst", first)
	}
	if r := g.reply(); r.Sequence != 4 || len(g.replies) != 0 {
		t.Errorf("got an answer to %d and %d more, want one to 4", r.Sequence, len(g.replies))
	}
	if s := w.Stats(); s.UnknownAcks != 1 || s.Handled != 3 || s.Failed[codes.Internal] != 2 {
		t.Errorf("counted %+v, want 1 unknown ack, 3 handled, 2 failed", s)
	}
}

func TestMiddlewareIsAroundValidRequestsOnly(t *testing.T) {
	b := newMem(t)
	order := make(chan string, 16)
	service(t, b, "auth", func(w *Worker) {
		Handle(w, "auth.find", find)
		for _, name := range []string{"outer", "inner"} {
			w.Use(func(next HandlerFunc) HandlerFunc {
				return func(ctx context.Context, in any) (any, error) {
					order <- name + " " + in.(*authpb.FindRequest).GetAccount()
					out, err := next(ctx, in)
					order <- name + " done"
					return out, err
				}
			})
		}
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	wantCode(t, g.call("auth.find", JSON, `{}`), codes.InvalidArgument)
	g.call("auth.find", Text, "bob")
	for _, want := range []string{"outer bob", "inner bob", "inner done", "outer done"} {
		if got := <-order; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestObserveSeesEveryOutcome(t *testing.T) {
	b := newMem(t)
	type outcome struct {
		route string
		code  codes.Code
	}
	seen := make(chan outcome, 4)
	w := New("auth", Config{Bus: b, Log: quiet(), Observe: func(route string, code codes.Code, took time.Duration) {
		if took <= 0 {
			t.Errorf("%s took %v", route, took)
		}
		seen <- outcome{route, code}
	}})
	Handle(w, "auth.find", find)
	run(t, w)
	g := newGate(t, b, bus.NewTopology(""), "g1")
	g.call("auth.find", Text, "bob")
	g.call("auth.lost", Text, "bob")
	for _, want := range []outcome{{"auth.find", codes.OK}, {"", codes.NotFound}} {
		if got := <-seen; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}
