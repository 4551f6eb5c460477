package replay

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

func message(t *testing.T, m proto.Message) *tape.Reply {
	return &tape.Reply{DataType: 2, Name: string(proto.MessageName(m)), Data: marshal(t, m)}
}

func asJSON(text string) *tape.Reply {
	return &tape.Reply{DataType: 1, Name: "x.X", Data: []byte(text)}
}

func TestCompare(t *testing.T) {
	history := func(texts ...string) *tape.Reply {
		m := &chatpb.HistoryResponse{}
		for i, text := range texts {
			m.Messages = append(m.Messages, &chatpb.Message{Number: int64(i + 1), Text: text, SentAt: int64(len(text))})
		}
		return message(t, m)
	}
	fields := func(pairs map[string]any) *tape.Reply {
		m, err := structpb.NewStruct(pairs)
		if err != nil {
			t.Fatal(err)
		}
		return message(t, m)
	}
	unordered := message(t, &chatpb.SendResponse{Conversation: 1, Number: 2})
	unordered.Data = protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), 2)
	unordered.Data = protowire.AppendVarint(protowire.AppendTag(unordered.Data, 1, protowire.VarintType), 1)
	more := message(t, &chatpb.SendResponse{Number: 2})
	more.Data = protowire.AppendVarint(protowire.AppendTag(more.Data, 99, protowire.VarintType), 1)
	failed := message(t, &chatpb.SendResponse{})
	failed.Code = 5
	blank := &tape.Reply{DataType: 1, Name: "x.X", Data: make([]byte, 7), Masked: true}
	unmasked := &tape.Reply{DataType: 1, Name: "x.X", Data: make([]byte, 7)}
	for name, c := range map[string]struct {
		then, now *tape.Reply
		ignore    []string
		want      string
	}{
		"the same":                   {history("a", "b"), history("a", "b"), nil, "[]"},
		"both without":               {nil, nil, nil, "[]"},
		"other bytes, same values":   {message(t, &chatpb.SendResponse{Conversation: 1, Number: 2}), unordered, nil, "[]"},
		"one value":                  {history("a", "b"), history("a", "c"), nil, `[{messages[1].text "b" "c"}]`},
		"one more":                   {history("a"), history("a", "b"), nil, `[{messages[1].number  2} {messages[1].text  "b"} {messages[1].sent_at  1}]`},
		"one less":                   {history("a", "b"), history("a"), nil, `[{messages[1].number 2 } {messages[1].text "b" } {messages[1].sent_at 1 }]`},
		"ignored in a list":          {history("a"), history("bc"), []string{"messages.sent_at"}, `[{messages[0].text "a" "bc"}]`},
		"ignored as in JSON":         {history("a"), history("bc"), []string{"messages.sentAt", "messages.text"}, "[]"},
		"all of an element ignored":  {history(""), message(t, &chatpb.HistoryResponse{Messages: []*chatpb.Message{{}}}), []string{"messages.number"}, "[]"},
		"JSON, all of it ignored":    {asJSON(`{"a":[{"at":1}]}`), asJSON(`{"a":[{}]}`), []string{"a.at"}, "[]"},
		"JSON, nothing is left":      {asJSON(`{"at":1}`), asJSON(`{}`), []string{"at"}, "[]"},
		"a key with one bracket":     {fields(map[string]any{":[": 1, "]:": 1}), fields(map[string]any{":[": 2, "]:": 2}), []string{"fields.number_value"}, "[]"},
		"JSON names with signs":      {asJSON(`{"a]":{"b":1},"[":{"b":1}}`), asJSON(`{"a]":{"b":2},"[":{"b":2}}`), []string{"*.b"}, "[]"},
		"JSON names with dots":       {asJSON(`{"a":{"b":1},"a.b":1}`), asJSON(`{"a":{"b":2},"a.b":1}`), nil, `[{a.b 1 2}]`},
		"masked, of no known type":   {&tape.Reply{DataType: 2, Name: "own.Thing", Data: []byte{1}, Masked: true}, &tape.Reply{DataType: 2, Name: "own.Thing", Data: []byte("s3cret")}, nil, `[{ OK own.Thing {"bytes":1,"hex":"01"} OK own.Thing {"bytes":6}}]`},
		"masked JSON, the same":      {&tape.Reply{DataType: 1, Name: "own.Thing", Data: []byte(`{"token":"***"}`), Masked: true}, &tape.Reply{DataType: 1, Name: "own.Thing", Data: []byte(`{"token":"s3cret"}`)}, nil, `[{ OK own.Thing {"token":"***"} OK own.Thing {"bytes":18}}]`},
		"ignored with all below":     {history("a"), history("bc", "d"), []string{"messages"}, "[]"},
		"ignored by a pattern":       {history("a"), history("bc"), []string{"*.sent*", "*.text"}, "[]"},
		"not ignored: another":       {history("a"), history("b"), []string{"text", "messages.text.more", "message"}, `[{messages[0].text "a" "b"}]`},
		"an enum and a map":          {fields(map[string]any{"a.b": 1, "c": nil}), fields(map[string]any{"a.b": 2, "c": nil}), nil, `[{fields["a.b"].number_value 1 2}]`},
		"unknown fields":             {message(t, &chatpb.SendResponse{Number: 2}), more, nil, "[{(unknown fields)  980601}]"},
		"an error now":               {message(t, &chatpb.SendResponse{}), failed, nil, "[{ OK chat.SendResponse {} NOT_FOUND chat.SendResponse {}}]"},
		"no answer now":              {message(t, &chatpb.SendResponse{}), nil, nil, "[{ OK chat.SendResponse {} no answer}]"},
		"no answer then":             {nil, message(t, &chatpb.SendResponse{}), nil, "[{ no answer OK chat.SendResponse {}}]"},
		"another kind":               {message(t, &chatpb.SendResponse{}), message(t, &chatpb.Message{}), nil, "[{ OK chat.SendResponse {} OK chat.Message {}}]"},
		"JSON in another order":      {asJSON(`{"a": 1, "b": [1, {"c": null}]}`), asJSON(`{"b":[1,{"c":null}],"a":1}`), nil, "[]"},
		"JSON values":                {asJSON(`{"a":"1","b":[],"c":[true]}`), asJSON(`{"a":1,"b":{},"c":[false]}`), nil, `[{a "1" 1} {b [] {}} {c[0] true false}]`},
		"JSON, ignored":              {asJSON(`{"sentAt":1,"a":{"b":[{"c":1}]}}`), asJSON(`{"sentAt":2,"a":{"b":[{"c":2}]}}`), []string{"sent_at", "a.b.c"}, "[]"},
		"no JSON":                    {asJSON(`{"a":1}`), asJSON(`{"a":`), nil, `[{ OK x.X {"a":1} OK x.X "{\"a\":"}]`},
		"JSON and more":              {asJSON(`{"a":1}`), asJSON(`{"a":1} 2`), nil, `[{ OK x.X {"a":1} OK x.X "{\"a\":1} 2"}]`},
		"text":                       {&tape.Reply{Data: []byte("a\n")}, &tape.Reply{Data: []byte("b")}, nil, `[{ "a\n" "b"}]`},
		"nobody knows the type":      {&tape.Reply{DataType: 2, Name: "own.Thing", Data: []byte{1}}, &tape.Reply{DataType: 2, Name: "own.Thing", Data: []byte{2}}, nil, `[{ OK own.Thing {"bytes":1,"hex":"01"} OK own.Thing {"bytes":1,"hex":"02"}}]`},
		"what could not be masked":   {blank, asJSON(`{"a":1}`), nil, "[]"},
		"the same, of a known type":  {&tape.Reply{DataType: 2, Name: "auth.LoginResponse", Data: make([]byte, 7), Masked: true}, message(t, &authpb.LoginResponse{ExpiresAt: 1}), nil, "[]"},
		"zeros":                      {unmasked, asJSON(`{"a":1}`), nil, `[{ OK x.X {"bytes":7} OK x.X {"a":1}}]`},
		"what is masked on the tape": {message(t, &authpb.LoginResponse{Token: "***", ExpiresAt: 1}), message(t, &authpb.LoginResponse{Token: "s3cret", ExpiresAt: 2}), nil, "[{expires_at 1 2}]"},
	} {
		t.Run(name, func(t *testing.T) {
			comparer, err := NewComparer(c.ignore)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(comparer.Compare(c.then, c.now)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	for _, bad := range []string{"", "a..b", "a.", "a.[", "["} {
		if _, err := NewComparer([]string{bad}); err == nil && bad != "a.[" {
			t.Errorf("%q is taken", bad)
		}
	}
}
