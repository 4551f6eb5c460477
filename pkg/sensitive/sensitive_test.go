package sensitive_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/motto123/minigate/pkg/sensitive"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
	"github.com/motto123/minigate/proto/commonpb"
	"github.com/motto123/minigate/proto/emailpb"
)

// Passwords, codes and tokens of the shipped messages are marked: whoever adds one
// marks it, too.
func TestShippedMessages(t *testing.T) {
	var marked []string
	for _, file := range []protoreflect.FileDescriptor{authpb.File_authpb_auth_proto, emailpb.File_emailpb_email_proto, chatpb.File_chatpb_chat_proto} {
		for i := range file.Messages().Len() {
			m := file.Messages().Get(i)
			for j := range m.Fields().Len() {
				f := m.Fields().Get(j)
				is := proto.GetExtension(f.Options(), commonpb.E_Sensitive).(bool)
				named := slices.Contains([]string{"password", "code", "token"}, string(f.Name()))
				if is != named {
					t.Errorf("%s is sensitive: %v, want %v", f.FullName(), is, named)
				}
				if is {
					marked = append(marked, string(m.Name()))
				}
			}
			if want := slices.Contains(marked, string(m.Name())); sensitive.Has(m) != want {
				t.Errorf("Has(%s) is not %v", m.FullName(), want)
			}
		}
	}
	if len(marked) != 9 {
		t.Errorf("%d fields are marked: %q", len(marked), marked)
	}
}

func TestMask(t *testing.T) {
	in := &authpb.ResetPasswordRequest{Account: "alice", Code: "123456", Password: "geheim"}
	sensitive.Mask(in)
	if want := (&authpb.ResetPasswordRequest{Account: "alice", Code: sensitive.Masked, Password: sensitive.Masked}); !proto.Equal(in, want) {
		t.Errorf("got %v, want %v", in, want)
	}
	// What is not set stays so.
	out := &authpb.LoginResponse{ExpiresAt: 5, User: &authpb.User{Account: "alice"}}
	want := proto.Clone(out)
	if sensitive.Mask(out); !proto.Equal(out, want) {
		t.Errorf("got %v, want %v", out, want)
	}
	sensitive.Mask((*authpb.LoginRequest)(nil))
}

// compile makes a file of text, with [S] for sensitive.
func compile(t *testing.T, text string) protoreflect.FileDescriptor {
	t.Helper()
	file := new(descriptorpb.FileDescriptorProto)
	if err := prototext.Unmarshal([]byte(strings.ReplaceAll(text, "[S]", "options { [common.sensitive]: true }")), file); err != nil {
		t.Fatal(err)
	}
	descriptor, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return descriptor
}

const everything = `
name: "x.proto" package: "x" syntax: "proto3"
message_type {
  name: "Plain"
  field { name: "text" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "again" number: 2 type: TYPE_MESSAGE type_name: ".x.Plain" label: LABEL_REPEATED }
}
message_type {
  name: "Leaf"
  field { name: "text" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "secret" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL [S] }
  field { name: "bytes" number: 3 type: TYPE_BYTES label: LABEL_OPTIONAL [S] }
  field { name: "number" number: 4 type: TYPE_INT64 label: LABEL_OPTIONAL [S] }
  field { name: "secrets" number: 5 type: TYPE_STRING label: LABEL_REPEATED [S] }
  field { name: "numbers" number: 6 type: TYPE_INT64 label: LABEL_REPEATED [S] }
  field { name: "plain" number: 7 type: TYPE_MESSAGE type_name: ".x.Plain" label: LABEL_OPTIONAL [S] }
  field { name: "choice" number: 8 type: TYPE_STRING label: LABEL_OPTIONAL oneof_index: 0 [S] }
  field { name: "map" number: 9 type: TYPE_MESSAGE type_name: ".x.Leaf.MapEntry" label: LABEL_REPEATED [S] }
  oneof_decl { name: "one" }
  nested_type {
    name: "MapEntry"
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
    options { map_entry: true }
  }
}
message_type {
  name: "Tree"
  field { name: "leaf" number: 1 type: TYPE_MESSAGE type_name: ".x.Leaf" label: LABEL_OPTIONAL }
  field { name: "leaves" number: 2 type: TYPE_MESSAGE type_name: ".x.Leaf" label: LABEL_REPEATED }
  field { name: "named" number: 3 type: TYPE_MESSAGE type_name: ".x.Tree.NamedEntry" label: LABEL_REPEATED }
  field { name: "tree" number: 4 type: TYPE_MESSAGE type_name: ".x.Tree" label: LABEL_OPTIONAL }
  nested_type {
    name: "NamedEntry"
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".x.Leaf" label: LABEL_OPTIONAL }
    options { map_entry: true }
  }
}
message_type {
  name: "Loop"
  field { name: "loop" number: 1 type: TYPE_MESSAGE type_name: ".x.Loop" label: LABEL_OPTIONAL }
  field { name: "tree" number: 2 type: TYPE_MESSAGE type_name: ".x.Tree" label: LABEL_OPTIONAL }
}
dependency: "commonpb/options.proto"
`

// Whatever kind the field is of, and wherever it stands.
func TestEveryKindOfField(t *testing.T) {
	messages := compile(t, everything).Messages()
	for name, want := range map[string]bool{"Plain": false, "Leaf": true, "Tree": true, "Loop": true} {
		for range 2 {
			if got := sensitive.Has(messages.ByName(protoreflect.Name(name))); got != want {
				t.Errorf("Has(%s) is %v", name, got)
			}
		}
	}
	leaf := `text: "open" secret: "geheim" bytes: "geheim" number: 4711 secrets: ["geheim", "geheim"] numbers: 4711
		plain { text: "geheim" } choice: "geheim" map { key: "geheim" value: "geheim" }`
	masked := `text: "open" secret: "***" secrets: ["***", "***"] choice: "***"`
	tree := func(leaf string) string {
		text := strings.ReplaceAll(`leaf { L } leaves { L } leaves { L } named { key: "a" value { L } } `, "L", leaf)
		return text + `tree { ` + text + `}`
	}
	for name, c := range map[string]struct{ in, want string }{
		"Plain": {`text: "open" again { text: "open" }`, `text: "open" again { text: "open" }`},
		"Leaf":  {leaf, masked},
		"Tree":  {tree(leaf), tree(masked)},
	} {
		d := messages.ByName(protoreflect.Name(name))
		in, want := dynamicpb.NewMessage(d), dynamicpb.NewMessage(d)
		if err := errors.Join(prototext.Unmarshal([]byte(c.in), in), prototext.Unmarshal([]byte(c.want), want)); err != nil {
			t.Fatal(err)
		}
		sensitive.Mask(in)
		if !proto.Equal(in, want) {
			t.Errorf("%s: got %v, want %v", name, in, want)
		}
	}
}

// Nobody knows what a field of a later version is.
func TestUnknownFieldsGo(t *testing.T) {
	later := protowire.AppendString(protowire.AppendTag(nil, 99, protowire.BytesType), "geheim")
	in := &authpb.LoginResponse{User: &authpb.User{Account: "alice"}}
	in.ProtoReflect().SetUnknown(later)
	in.GetUser().ProtoReflect().SetUnknown(later)
	sensitive.Mask(in)
	b, err := proto.Marshal(in)
	if err != nil || strings.Contains(string(b), "geheim") || in.GetUser().GetAccount() != "alice" {
		t.Errorf("got %q (%v)", b, err)
	}
}

func TestHasIsSafeToCallAtOnce(t *testing.T) {
	messages := compile(t, everything).Messages()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range messages.Len() {
				if m := messages.Get(i); sensitive.Has(m) != (m.Name() != "Plain") {
					t.Errorf("Has(%s) is wrong", m.Name())
				}
			}
		})
	}
	all.Wait()
}
