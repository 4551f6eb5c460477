package failure

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/proto/commonpb"
)

var invalid = &commonpb.Error{Code: 3, Message: "two fields break a rule", Violations: []*commonpb.Violation{
	{Field: "email", Rule: "required"}, {Field: "items[2].name", Rule: "min=8"},
}}

func TestEncodeGivesTheBytesOfTheProtocol(t *testing.T) {
	for _, c := range []struct {
		name string
		e    *commonpb.Error
		data codec.DataType
		want string
	}{
		{"text", &commonpb.Error{Code: 5, Message: "no such route"}, codec.Text, "NOT_FOUND: no such route"},
		{"text with violations", invalid, codec.Text, "INVALID_ARGUMENT: two fields break a rule [email required, items[2].name min=8]"},
		{"JSON", &commonpb.Error{Code: 5, Message: "no"}, codec.JSON, `{"code":5,"message":"no"}`},
		{"JSON with violations", invalid, codec.JSON,
			`{"code":3,"message":"two fields break a rule","violations":[{"field":"email","rule":"required"},{"field":"items[2].name","rule":"min=8"}]}`},
		{"protobuf", &commonpb.Error{Code: 5, Message: "no"}, codec.Protobuf, "\x08\x05\x12\x02no"},
		{"unknown code", &commonpb.Error{Code: 99, Message: "m"}, codec.Text, "UNKNOWN: m"},
	} {
		got, err := Encode(c.e, c.data)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

func TestDecodeReadsWhatEncodeWrote(t *testing.T) {
	for _, data := range []codec.DataType{codec.JSON, codec.Protobuf} {
		b, err := Encode(invalid, data)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b, data)
		if err != nil {
			t.Fatalf("%v: %v", data, err)
		}
		if diff := cmp.Diff(invalid, got, protocmp.Transform()); diff != "" {
			t.Errorf("%v: %s", data, diff)
		}
	}
	got, err := Decode([]byte("NOT_FOUND: no: route"), codec.Text)
	if err != nil || got.GetCode() != 5 || got.GetMessage() != "no: route" {
		t.Errorf("text: got %v, %v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("NOT_FOUND: no"), uint8(codec.Text))
	f.Add([]byte(`{"code":5,"message":"no","violations":[{"field":"a","rule":"b"}]}`), uint8(codec.JSON))
	f.Add([]byte("\x08\x05\x12\x02no"), uint8(codec.Protobuf))
	f.Fuzz(func(t *testing.T, b []byte, data uint8) {
		e, err := Decode(b, codec.DataType(data%3))
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("an error that is not ErrMalformed: %v", err)
			}
			return
		}
		if e.GetCode() == 0 {
			t.Fatal("an error with code 0")
		}
	})
}
