package dead

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/sensitive"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/commonpb"
	"github.com/motto123/minigate/proto/emailpb"
)

const secret = "geheim-123456"

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// written is a letter for people and as JSON.
func written(t *testing.T, l *Letter, body []byte) string {
	t.Helper()
	s := shown{row: newRow(l), Payload: readPayload(l, body)}
	p := &page{now: time.Now()}
	if err := p.write(&s); err != nil {
		t.Fatal(err)
	}
	document, err := asJSON(s, " ")
	if err != nil {
		t.Fatal(err)
	}
	return p.String() + document
}

func TestEventsAreDecodedAndMasked(t *testing.T) {
	mail := &emailpb.Verification{To: "a@example.org", Nickname: "名前\x1b[31m", Code: secret, ExpiresAt: 5}
	event := func(name string) *Letter {
		return &Letter{Letter: bus.Letter{Event: "email.verification"}, Type: name}
	}
	any, err := anypb.New(mail)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		kind string
		body []byte
		want string
	}{
		"event":         {"email.Verification", marshal(t, mail), `"to": "a@example.org"`},
		"Any":           {"google.protobuf.Any", marshal(t, any), "may hold a secret"},
		"unknown type":  {"no.Such", marshal(t, mail), "no type of that name"},
		"no type":       {"", marshal(t, mail), "nothing says of what type"},
		"no such event": {"email.Verification", []byte(secret), "no email.Verification"},
	} {
		text := written(t, event(c.kind), c.body)
		if !strings.Contains(text, c.want) {
			t.Errorf("%s: want %q in\n%s", name, c.want, text)
		}
		if strings.Contains(text, secret) || strings.Contains(text, "\x1b") {
			t.Errorf("%s: shown is\n%s", name, text)
		}
		if name == "event" && (strings.Count(text, sensitive.Masked) != 2 || !strings.Contains(text, `名前\u001b[31m`)) {
			t.Errorf("%s: shown is\n%s", name, text)
		}
	}
	text := written(t, event("email.Verification"), append(marshal(t, mail), 0xa2, 0x06, 0x01, 'x'))
	if !strings.Contains(text, "does not know") {
		t.Errorf("a field of a later version: %s", text)
	}
}

func TestEnvelopesAreShownOneByOne(t *testing.T) {
	login := &authpb.LoginRequest{Account: "alice", Password: secret}
	deadline := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	body := bus.AppendHeader(nil, bus.Header{Gate: "g1", GateAddress: "10.0.0.1:7101", Route: "auth.login"})
	requests := []bus.Request{
		{Session: 7, Sequence: 3, User: 42, ID: 9, DataType: uint8(codec.Protobuf), Name: []byte("auth.LoginRequest"), Data: marshal(t, login), Deadline: deadline.UnixMilli(), Address: []byte{10, 1, 2, 3}},
		{Session: 7, Type: uint8(codec.Notify), DataType: uint8(codec.JSON), Name: []byte("auth.LoginRequest"), Data: []byte(`{"account":"bob","password":"` + secret + `","more":1}`)},
		{Session: 8, DataType: uint8(codec.JSON), Data: []byte(`{"account":"carol","deep":[{"PassWord":"` + secret + `"}],"n":12345678901234567890}`)},
		{Session: 8, DataType: uint8(codec.JSON), Data: []byte(`"` + secret + `"`)},
		{Session: 8, DataType: uint8(codec.JSON), Data: []byte(secret)},
		{Session: 8, DataType: uint8(codec.Text), Data: []byte(secret)},
		{Session: 8, DataType: uint8(codec.Protobuf), Data: []byte(secret)},
		{Session: 8, DataType: uint8(codec.Protobuf), Name: []byte("common.Error"), Data: marshal(t, &commonpb.Error{Code: 13, Message: "not hidden"})},
		{Session: 8, Type: uint8(codec.Ack), ID: 5},
	}
	for i := range requests {
		body = bus.AppendRequest(body, &requests[i])
	}
	l := &Letter{Letter: bus.Letter{Route: "auth.login"}, Queue: "worker.auth", Size: len(body)}
	text := written(t, l, body)
	for _, want := range []string{
		"9 requests of gate g1 (10.0.0.1:7101), route auth.login",
		"request 1: request, session 7, number 3, user 42, id 9, from 10.1.2.3, answered until 2026-01-02 03:04:05.000 UTC",
		"protobuf, auth.LoginRequest", `"account": "alice"`, `"account": "bob"`, `"account": "carol"`, "12345678901234567890",
		"request 2: notify", "request 9: ack, session 8, id 5, 0 bytes", `"code": 13`, `"message": "not hidden"`,
		"text is not shown", "no JSON", "a value without a name", "nothing says of what type",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, secret) || strings.Count(text, sensitive.Masked) != 6 {
		t.Errorf("shown is\n%s", text)
	}

	// As much as can be read of what is malformed.
	for name, c := range map[string]struct {
		body []byte
		want string
	}{
		"cut":         {body[:len(body)-3], "can not be read"},
		"junk":        {[]byte{0xff}, "no envelope of requests"},
		"nothing":     {nil, "names no gate"},
		"no requests": {bus.AppendHeader(nil, bus.Header{Gate: "g1", Route: "auth.login"}), "an envelope without requests"},
	} {
		text := written(t, l, c.body)
		if !strings.Contains(text, c.want) || strings.Contains(text, secret) || strings.Contains(text, "carol") != (name == "cut") {
			t.Errorf("%s: shown is\n%s", name, text)
		}
	}
	many := bus.AppendHeader(nil, bus.Header{Gate: "g1", Route: "auth.login"})
	for range maxShown + 1 {
		many = bus.AppendRequest(many, &bus.Request{Session: 1})
	}
	if p := readEnvelope(many); len(p.Requests) != maxShown || p.Problem == "" {
		t.Errorf("%d requests, %q", len(p.Requests), p.Problem)
	}
}
