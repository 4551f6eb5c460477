// Package failure is the one form in which a client sees an error: the message
// common.Error, in the data type that the client speaks. Gates and workers write
// it, clients read it. It refuses to decide what is an error and which code it
// has.
package failure

import (
	"encoding/json"
	"errors"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/proto/commonpb"
)

// Name is the protobuf name by which a Response is known to be an error.
const Name = "common.Error"

// ErrMalformed: the data of a Response named common.Error is none.
var ErrMalformed = errors.New("failure: malformed common.Error")

// document is common.Error in JSON, where a code is a number and a violation has
// both of its members.
type document struct {
	Code       int32       `json:"code"`
	Message    string      `json:"message"`
	Violations []violation `json:"violations,omitempty"`
}

type violation struct {
	Field string `json:"field"`
	Rule  string `json:"rule"`
}

// Encode returns e in a data type of the wire: protobuf, JSON, or the text
// "NOT_FOUND: no service has this route", with the broken rules in brackets.
func Encode(e *commonpb.Error, data codec.DataType) ([]byte, error) {
	switch data {
	case codec.Protobuf:
		return proto.Marshal(e)
	case codec.JSON:
		d := document{Code: e.GetCode(), Message: e.GetMessage()}
		for _, v := range e.GetViolations() {
			d.Violations = append(d.Violations, violation{v.GetField(), v.GetRule()})
		}
		return json.Marshal(d)
	default:
		var b strings.Builder
		b.WriteString(CodeName(e.GetCode()))
		b.WriteString(": ")
		b.WriteString(e.GetMessage())
		for i, v := range e.GetViolations() {
			b.WriteString(map[bool]string{true: " [", false: ", "}[i == 0])
			b.WriteString(v.GetField() + " " + v.GetRule())
		}
		if len(e.GetViolations()) > 0 {
			b.WriteByte(']')
		}
		return []byte(b.String()), nil
	}
}

// Decode reads what Encode wrote. The violations of a text stay in its message.
func Decode(b []byte, data codec.DataType) (*commonpb.Error, error) {
	e := new(commonpb.Error)
	switch data {
	case codec.Protobuf:
		if err := proto.Unmarshal(b, e); err != nil {
			return nil, errors.Join(ErrMalformed, err)
		}
	case codec.JSON:
		var d document
		if err := json.Unmarshal(b, &d); err != nil {
			return nil, errors.Join(ErrMalformed, err)
		}
		e.Code, e.Message = d.Code, d.Message
		for _, v := range d.Violations {
			e.Violations = append(e.Violations, &commonpb.Violation{Field: v.Field, Rule: v.Rule})
		}
	default:
		name, message, found := strings.Cut(string(b), ": ")
		value, known := code.Code_value[name]
		if !found || !known {
			return nil, ErrMalformed
		}
		e.Code, e.Message = value, message
	}
	if e.GetCode() == 0 {
		return nil, ErrMalformed
	}
	return e, nil
}

// CodeName is the canonical name of a gRPC code, for example NOT_FOUND.
func CodeName(c int32) string {
	if name, ok := code.Code_name[c]; ok {
		return name
	}
	return code.Code_UNKNOWN.String()
}
