package worker

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
	"github.com/motto123/minigate/proto/emailpb"
)

func TestValidationNamesEachBadField(t *testing.T) {
	b := newMem(t)
	service(t, b, "auth", func(w *Worker) {
		Handle(w, "auth.register", func(context.Context, *authpb.RegisterRequest) (*authpb.RegisterResponse, error) {
			t.Error("the handler got a request that breaks rules")
			return nil, nil
		}, Public())
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	for _, as := range []DataType{JSON, Protobuf} {
		in := &authpb.RegisterRequest{Account: "a b", Password: strings.Repeat("é", 65), Nickname: strings.Repeat("é", 65), Email: "nobody"}
		data := marshal(t, in)
		if as == JSON {
			data = `{"account":"a b","password":"` + in.Password + `","nickname":"` + in.Nickname + `","email":"nobody"}`
		}
		e := wantCode(t, g.call("auth.register", as, data), codes.InvalidArgument)
		for _, words := range []string{"account: may have only letters", "nickname: at most 64 characters", "email: is not an e-mail address"} {
			if !strings.Contains(e.GetMessage(), words) {
				t.Errorf("the message is %q, want %q in it", e.GetMessage(), words)
			}
		}
		got := make(map[string]string)
		for _, v := range e.GetViolations() {
			got[v.GetField()] = v.GetRule()
		}
		want := map[string]string{"account": "account", "password": "maxbytes=128", "nickname": "max=64", "email": "email"}
		for field, rule := range want {
			if got[field] != rule {
				t.Errorf("%s: got %q, want %q", field, got[field], rule)
			}
		}
		if len(got) != len(want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

// nested is a message with others in it, as protoc would make it.
type nested struct {
	proto.Message `validate:"-"`

	Job   *emailpb.Verification    `protobuf:"bytes,1,opt,name=next_job,json=nextJob,proto3"`
	Items []*emailpb.PasswordReset `protobuf:"bytes,2,rep,name=items,proto3" validate:"dive"`
	State int                      // as protobuf's own fields, without a tag
}

func TestValidatorLooksIntoMessages(t *testing.T) {
	v, err := NewValidator()
	if err != nil {
		t.Fatal(err)
	}
	good := &emailpb.PasswordReset{To: "a@example.org", Code: "1"}
	err = v.Check(&nested{
		Job:   &emailpb.Verification{Code: "1"},
		Items: []*emailpb.PasswordReset{good, {To: "x", Code: "1"}},
	})
	got := make([]string, 0, 2)
	for _, violation := range problemOf(err).GetViolations() {
		got = append(got, violation.GetField()+" "+violation.GetRule())
	}
	if want := "nextJob.to required, items[1].to email"; strings.Join(got, ", ") != want {
		t.Errorf("got %q, want %q", strings.Join(got, ", "), want)
	}
	if err := v.Check(&nested{Items: []*emailpb.PasswordReset{good}}); err != nil {
		t.Errorf("a good one: %v", err)
	}
	broken := problemOf(v.Check(&chatpb.SendRequest{ClientId: "c", Text: "t"})).GetViolations()
	if len(broken) != 1 || broken[0].GetField() != "to" || broken[0].GetRule() != "required_without=room" {
		t.Errorf("got %v, want to required_without=room", broken)
	}
}
