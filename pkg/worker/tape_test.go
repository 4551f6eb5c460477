package worker

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/errors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/sensitive"
	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
	"github.com/motto123/minigate/proto/commonpb"
)

// reel is a Tape in memory.
type reel struct {
	mu      sync.Mutex
	entries []tape.Entry
}

func (r *reel) Record(e tape.Entry) {
	e.Envelope = bytes.Clone(e.Envelope)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, e)
}

func (r *reel) all() []tape.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.entries
}

// taped runs a worker with a tape.
func taped(t *testing.T, b bus.Bus, to Tape, name string, register func(*Worker)) (*Worker, func() error) {
	t.Helper()
	w := New(name, Config{Bus: b, Log: quiet(), Tape: to})
	register(w)
	return w, run(t, w)
}

func requestsIn(t *testing.T, e tape.Entry) (h bus.Header, all []bus.Request) {
	t.Helper()
	if err := bus.ReadRequests(e.Envelope, &h, func(r *bus.Request) error { all = append(all, *r); return nil }); err != nil {
		t.Fatal(err)
	}
	return h, all
}

func repliesIn(t *testing.T, e tape.Entry) (all []bus.Reply) {
	t.Helper()
	if err := bus.ReadReplies(e.Envelope, func(r *bus.Reply) error { all = append(all, *r); return nil }, func(*bus.Announcement) error { return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestTape: what is taken and answered is on it as it was, requests first, and nothing
// else is.
func TestTape(t *testing.T) {
	b, to := newMem(t), new(reel)
	_, stop := taped(t, b, to, "auth", func(w *Worker) {
		Handle(w, "auth.find", func(_ context.Context, in *authpb.FindRequest) (*authpb.FindResponse, error) {
			if in.GetAccount() == "nobody" {
				return nil, status.Error(codes.NotFound, "nobody")
			}
			return &authpb.FindResponse{User: &authpb.User{Account: in.GetAccount()}}, nil
		})
		HandleRaw(w, "auth.raw", func(_ context.Context, in Raw) (Raw, error) { return in, nil })
		HandleAck(w, "auth.pushed", func(context.Context, uint64) error { return nil })
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	before := time.Now()
	r := g.call("auth.find", JSON, `{"account":"alice"}`)
	g.call("auth.find", Protobuf, marshal(t, &authpb.FindRequest{Account: "nobody"}))
	g.call("auth.raw", Text, "geheim")
	g.send("auth.find", bus.Request{Session: 1, User: 42, Type: uint8(Notify), DataType: uint8(Text), Data: []byte("bob")})
	g.send("auth.pushed", bus.Request{Session: 1, User: 42, Type: uint8(Ack), ID: 77})
	g.publish("auth.find", []byte{1, 2, 3}) // a dead letter
	g.publish(bus.NewTopology("").AnnounceKey(), bus.AppendHeader(nil, bus.Header{Gate: "g1"}))
	g.send("auth.find",
		bus.Request{Session: 1, Sequence: 11, User: 42, DataType: uint8(Text), Data: []byte("carol")},
		bus.Request{Session: 2, Sequence: 12, User: 42, DataType: uint8(Text), Data: []byte("dave")})
	g.reply()
	g.reply()
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	var requests, replies []tape.Entry
	for _, e := range to.all() {
		if e.Worker != "auth" || e.Masked || e.Redelivered || e.Time.Before(before) || time.Since(e.Time) > wait {
			t.Errorf("got %+v", e)
		}
		if e.Kind == tape.Requests {
			requests = append(requests, e)
			if e.Sent.Before(before) || e.Sent.After(e.Time) {
				t.Errorf("sent at %v, taken at %v", e.Sent, e.Time)
			}
			continue
		}
		if replies = append(replies, e); len(replies) > len(requests)+1 || e.Kind != tape.Replies || e.Gate != "g1" || !e.Sent.IsZero() {
			t.Errorf("got %+v behind %d requests", e, len(requests))
		}
	}
	if len(requests) != 6 || len(replies) != 5 {
		t.Fatalf("%d envelopes of requests and %d replies, want 6 and 5", len(requests), len(replies))
	}
	h, all := requestsIn(t, requests[0])
	if h.Gate != "g1" || h.GateAddress != "g1.invalid:7101" || h.Route != "auth.find" || len(all) != 1 ||
		string(all[0].Data) != `{"account":"alice"}` || all[0].ID != 3 || all[0].User != 42 || all[0].Deadline == 0 {
		t.Errorf("got %+v %+v", h, all)
	}
	if all := repliesIn(t, replies[0]); len(all) != 1 || string(all[0].Data) != string(r.Data) || all[0].Sequence != 9 || string(all[0].Name) != "auth.FindResponse" {
		t.Errorf("got %+v, the client got %+v", all, r)
	}
	if all := repliesIn(t, replies[1]); codes.Code(all[0].Code) != codes.NotFound || !strings.Contains(string(all[0].Data), "nobody") {
		t.Errorf("the error is %+v", all)
	}
	if all := repliesIn(t, replies[2]); string(all[0].Data) != "geheim" {
		t.Errorf("the raw one is %+v", all)
	}
	if _, all := requestsIn(t, requests[5]); len(all) != 2 || string(all[1].Data) != "dave" {
		t.Errorf("the last envelope is %+v", all)
	}
}

// readyBus is an instantBus that says when it consumes.
type readyBus struct{ *instantBus }

func (b readyBus) Consume(ctx context.Context, c bus.Consumer) error {
	c.Ready()
	return b.instantBus.Consume(ctx, c)
}

// What comes a second time says so.
func TestTapeOfRedelivered(t *testing.T) {
	to := new(reel)
	fake := readyBus{&instantBus{deliveries: make(chan bus.Delivery)}}
	taped(t, fake, to, "auth", func(w *Worker) { Handle(w, "auth.find", find) })
	body := bus.AppendHeader(nil, bus.Header{Gate: "g1", GateAddress: "x:1", Route: "auth.find"})
	body = bus.AppendRequest(body, &bus.Request{Session: 1, Sequence: 1, User: 42})
	fake.deliveries <- bus.Delivery{Body: body, Redelivered: true, Settle: func(bus.Settlement) error { return nil }}
	eventually(t, "it is answered", func() bool { return len(to.all()) == 2 })
	if e := to.all()[0]; !e.Redelivered || !bytes.Equal(e.Envelope, body) || !e.Sent.IsZero() {
		t.Errorf("got %+v", e)
	}
}

const (
	password = "geheim-password"
	token    = "geheim-token"
	code     = "471147"
)

// secretService has the routes that take passwords and codes, and give tokens.
func secretService(t *testing.T) func(*Worker) {
	return func(w *Worker) {
		Handle(w, "auth.login", func(_ context.Context, in *authpb.LoginRequest) (*authpb.LoginResponse, error) {
			switch in.GetPassword() {
			case password:
				return &authpb.LoginResponse{Token: token, User: &authpb.User{Account: in.GetAccount()}}, nil
			case "":
				return nil, errors.New("no password, though it is required")
			}
			return nil, status.Error(codes.Unauthenticated, "account or password is wrong")
		})
		Handle(w, "auth.verify_email", func(_ context.Context, in *authpb.VerifyEmailRequest) (*authpb.VerifyEmailResponse, error) {
			if in.GetCode() != code {
				t.Errorf("the handler gets the code %q", in.GetCode())
			}
			return &authpb.VerifyEmailResponse{User: &authpb.User{Account: "alice"}}, nil
		})
		HandleAck(w, "auth.pushed", func(context.Context, uint64) error { return nil })
	}
}

// TestSecretsAreMasked in all three data types: the client and the handler have them,
// the tape has not.
func TestSecretsAreMasked(t *testing.T) {
	login := &authpb.LoginRequest{Account: "alice", Password: password}
	masked := &authpb.LoginRequest{Account: "alice", Password: sensitive.Masked}
	asJSON, err := protojson.Marshal(login)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		as   DataType
		data string
	}{"protobuf": {Protobuf, marshal(t, login)}, "JSON": {JSON, string(asJSON)}, "text": {Text, string(asJSON)}} {
		t.Run(name, func(t *testing.T) {
			b, to := newMem(t), new(reel)
			taped(t, b, to, "auth", secretService(t))
			g := newGate(t, b, bus.NewTopology(""), "g1")
			if r := g.call("auth.login", c.as, c.data); !strings.Contains(string(r.Data), token) {
				t.Errorf("the client gets %q", r.Data)
			}
			all := to.all()
			if len(all) != 2 || !all[0].Masked || !all[1].Masked {
				t.Fatalf("got %+v", all)
			}
			read := func(data []byte, into proto.Message) proto.Message {
				var err error
				if c.as == Protobuf {
					err = proto.Unmarshal(data, into)
				} else {
					err = protojson.Unmarshal(data, into)
				}
				if err != nil {
					t.Error(err)
				}
				return into
			}
			h, requests := requestsIn(t, all[0])
			if got := read(requests[0].Data, new(authpb.LoginRequest)); h.Route != "auth.login" || !proto.Equal(got, masked) || requests[0].ID != 3 || DataType(requests[0].DataType) != c.as {
				t.Errorf("the request is %+v %+v", h, requests)
			}
			reply := repliesIn(t, all[1])[0]
			want := &authpb.LoginResponse{Token: sensitive.Masked, User: &authpb.User{Account: "alice"}}
			if got := read(reply.Data, new(authpb.LoginResponse)); !proto.Equal(got, want) || reply.Sequence != 9 || string(reply.Name) != "auth.LoginResponse" || DataType(reply.DataType) != c.as {
				t.Errorf("the reply is %+v", reply)
			}
		})
	}
}

// TestNothingToMask: a request without anything sensitive is not said to be masked, and
// so can be sent again.
func TestNothingToMask(t *testing.T) {
	r := &route{secrets: secretsOf(&codec{
		newIn: func() proto.Message { return new(authpb.LoginRequest) }, nothing: new(authpb.LoginResponse),
	})}
	plain := &authpb.LoginRequest{Account: "alice"}
	for _, c := range []struct {
		as   DataType
		data string
		want bool
	}{
		{Protobuf, marshal(t, plain), false},
		{JSON, `{"account":"alice"}`, false},
		{JSON, `{"account":"alice","password":"x"}`, true},
		{JSON, `{"account":"alice","pasword":"x"}`, true},
		{Protobuf, marshal(t, plain) + "\x7a\x01x", true},
	} {
		body := bus.AppendHeader(nil, bus.Header{Gate: "g", GateAddress: "a:1", Route: "auth.login"})
		body = bus.AppendRequest(body, &bus.Request{Session: 1, Sequence: 1, DataType: uint8(c.as), Data: []byte(c.data)})
		envelope, masked := r.masked(body)
		if masked != c.want || len(envelope) == 0 || !c.want && c.as == Protobuf && !bytes.Equal(envelope, body) {
			t.Errorf("%q: masked is %v, want %v; %q", c.data, masked, c.want, envelope)
		}
	}
}

// TestNoSecretIsInAnyByte of a tape, whatever a client sends.
func TestNoSecretIsInAnyByte(t *testing.T) {
	b, dir := newMem(t), filepath.Join(t.TempDir(), "tape")
	folder, err := tape.CreateFolder(tape.FolderConfig{Path: dir, MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	recorder := tape.NewRecorder(tape.RecorderConfig{Store: folder, Log: quiet()})
	ctx, cancel := context.WithCancel(context.Background())
	recorded := make(chan error, 1)
	go func() { recorded <- recorder.Run(ctx) }()
	_, stop := taped(t, b, recorder, "auth", secretService(t))
	g := newGate(t, b, bus.NewTopology(""), "g1")

	login := marshal(t, &authpb.LoginRequest{Account: "alice", Password: password})
	sent := []struct {
		route, name string
		as          DataType
		data        string
	}{
		{"auth.login", "", Protobuf, login},
		{"auth.login", "auth.LoginRequest", Protobuf, login},
		{"auth.login", "auth.RegisterRequest", Protobuf, login},     // of another type
		{"auth.login", "", Protobuf, login + "\xff"},                // broken
		{"auth.login", "", Protobuf, login + "\x7a\x0f" + password}, // a field of a later version
		{"auth.login", "", JSON, `{"account":"alice","password":"` + password + `"}`},
		{"auth.login", "", JSON, `{"account":"alice","password":"` + password}, // broken
		{"auth.login", "", JSON, `{"account":"alice","password":471147}`},      // what the error quotes
		{"auth.login", "", JSON, `{"account":"alice","pasword":"` + password + `"}`},
		{"auth.login", "", JSON, `{"account":"alice","password":"` + password + ` wrong"}`},
		{"auth.login", "", JSON, `"` + password + `"`},
		{"auth.login", "", Text, `{"account":"alice","password":"` + password + `"}`},
		{"auth.login", "", 7, password},
		{"auth.logn", "", JSON, `{"account":"alice","password":"` + password + `"}`}, // no such route
		{"auth.verify_email", "", Text, code},
		{"auth.verify_email", "", JSON, `{"code":"` + code + `"}`},
	}
	for i, c := range sent {
		g.send(c.route, bus.Request{Session: 1, Sequence: uint32(i + 1), User: 42, DataType: uint8(c.as), Name: []byte(c.name), Data: []byte(c.data)})
		g.reply()
	}
	for _, c := range []struct{ route, data string }{{"auth.login", login}, {"auth.pushed", password}} {
		g.send(c.route, bus.Request{Session: 1, User: 42, Type: uint8(Ack), DataType: uint8(Protobuf), Data: []byte(c.data)})
	}
	g.send("auth.login", bus.Request{Session: 1, User: 42, Type: uint8(Notify), DataType: uint8(Protobuf), Data: []byte(login)})
	g.call("auth.verify_email", Text, code) // when the others were taken
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := errors.WithMessage(<-recorded, "record"); err != nil {
		t.Fatal(err)
	}
	if err := folder.Close(); err != nil {
		t.Fatal(err)
	}

	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("files %q, %v", files, err)
	}
	for _, path := range files {
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{password, token, code} {
			if at := bytes.Index(file, []byte(secret)); at >= 0 {
				t.Errorf("%q is on the tape: %q", secret, file[max(0, at-100):min(len(file), at+50)])
			}
		}
	}
	source, err := tape.OpenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	if err := source.Read(t.Context(), tape.Start{}, false, func(e *tape.Entry) error {
		if e.Kind != tape.Requests {
			return nil
		}
		if !e.Masked {
			t.Errorf("envelope %d does not say that it is masked", i)
		}
		if h, all := requestsIn(t, *e); i < len(sent) && (len(all) != 1 || h.Route != sent[i].route || string(all[0].Name) != sent[i].name || len(all[0].Data) == 0) {
			t.Errorf("envelope %d is %+v %+v", i, h, all)
		}
		i++
		return nil
	}); err != nil {
		t.Error(err)
	}
	if want := len(sent) + 4; i != want {
		t.Errorf("%d envelopes of requests, want %d", i, want)
	}
	if err := source.Close(); err != nil {
		t.Error(err)
	}
}

// What can not be read keeps its size, and nothing else.
func TestUnreadableKeepsItsSize(t *testing.T) {
	b, to := newMem(t), new(reel)
	taped(t, b, to, "auth", secretService(t))
	g := newGate(t, b, bus.NewTopology(""), "g1")
	g.call("auth.login", JSON, `{"password":"`+password)
	r := g.call("auth.login", JSON, `{"password":471147}`)
	if !strings.Contains(string(r.Data), "471147") {
		t.Errorf("the client is told %q, which quotes nothing", r.Data)
	}
	_, all := requestsIn(t, to.all()[0])
	if !bytes.Equal(all[0].Data, make([]byte, len(`{"password":"`+password))) {
		t.Errorf("the request is %q", all[0].Data)
	}
	e := to.all()[3]
	if reply := repliesIn(t, e)[0]; !e.Masked || !bytes.Equal(reply.Data, make([]byte, len(r.Data))) || codes.Code(reply.Code) != codes.InvalidArgument {
		t.Errorf("the reply is %+v %+v", e, reply)
	}
}

// Errors of handlers and rules are on the tape, also of routes with secrets.
func TestErrorsAreNotMasked(t *testing.T) {
	b, to := newMem(t), new(reel)
	taped(t, b, to, "auth", secretService(t))
	g := newGate(t, b, bus.NewTopology(""), "g1")
	for _, c := range []string{`{"account":"alice","password":"wrong"}`, `{"account":"` + strings.Repeat("a", 40) + `"}`} {
		n := len(to.all())
		r := g.call("auth.login", JSON, c)
		if e := to.all()[n+1]; e.Masked || string(repliesIn(t, e)[0].Data) != string(r.Data) || r.Code == 0 {
			t.Errorf("the reply is %+v, the client got %+v", e, r)
		}
	}
}

// A route that has nothing to mask costs a copy: its bytes are those of the bus.
func TestPlainRoutesAreRecordedAsTheyAre(t *testing.T) {
	for name, s := range map[string]*secrets{
		"chat.send":  secretsOf(codecOf(new(chatpb.SendRequest), new(chatpb.SendResponse))),
		"auth.find":  secretsOf(codecOf(new(authpb.FindRequest), new(authpb.FindResponse))),
		"auth.empty": secretsOf(codecOf(new(commonpb.Empty), new(commonpb.Empty))),
	} {
		if s != nil {
			t.Errorf("%s has secrets", name)
		}
	}
	if s := secretsOf(codecOf(new(authpb.VerifyEmailRequest), new(authpb.VerifyEmailResponse))); s == nil || !s.in || s.out {
		t.Errorf("auth.verify_email: %+v", s)
	}
	if s := secretsOf(codecOf(new(commonpb.Empty), new(authpb.LoginResponse))); s == nil || s.in || !s.out {
		t.Errorf("an answer with a token: %+v", s)
	}
}

func codecOf(in, out proto.Message) *codec {
	return &codec{newIn: func() proto.Message { return in }, nothing: out}
}
