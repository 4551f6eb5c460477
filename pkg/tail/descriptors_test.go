package tail

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/motto123/minigate/proto/commonpb"
)

// own is a service of somebody's own, as protoc writes its descriptors.
const own = `
name: "game.proto" package: "tailtest" syntax: "proto3" dependency: "commonpb/options.proto"
message_type {
  name: "Move"
  field { name: "piece" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "piece" }
  field { name: "key" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "key" options { [common.sensitive]: true } }
  field { name: "tags" number: 3 type: TYPE_MESSAGE type_name: ".tailtest.Move.TagsEntry" label: LABEL_REPEATED json_name: "tags" }
  nested_type {
    name: "TagsEntry"
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "key" }
    field { name: "value" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "value" }
    options { map_entry: true }
  }
  nested_type { name: "Inner" field { name: "n" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL json_name: "n" } }
}`

func TestMessagesOfOnesOwnAreLearned(t *testing.T) {
	data := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "rook")
	data = protowire.AppendString(protowire.AppendTag(data, 2, protowire.BytesType), "s3cret")
	if got := string(Payload(2, "tailtest.Move", data)); !strings.HasPrefix(got, `{"bytes":14,"hex":`) {
		t.Errorf("before it is learned it is %s", got)
	}
	file := new(descriptorpb.FileDescriptorProto)
	if err := prototext.Unmarshal([]byte(own), file); err != nil {
		t.Fatal(err)
	}
	// With its imports, which this program has already.
	options := protodesc.ToFileDescriptorProto(commonpb.File_commonpb_options_proto)
	b, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{options, file}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "game.descriptors")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing new
		if err := Learn(path); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(Payload(2, "tailtest.Move", data)); got != `{"piece":"rook","key":"***"}` {
		t.Errorf("learned it is %s", got)
	}
	if got := string(Payload(2, "tailtest.Move.Inner", []byte{8, 5})); got != `{"n":5}` {
		t.Errorf("one within another is %s", got)
	}

	if err := os.WriteFile(path, []byte("message Move {}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Learn(path); err == nil || !strings.Contains(err.Error(), "--descriptor_set_out") {
		t.Errorf("what is no set is %v", err)
	}
	if err := Learn(path + "x"); err == nil {
		t.Error("a file that is not there is learned")
	}
	for name, data := range map[string][]byte{"google.protobuf.StringValue": {10, 1, 'x'}, "google.protobuf.Empty": {}, "google.protobuf.Duration": {8, 1}} {
		if got := string(Payload(2, name, data)); strings.Contains(got, "hex") {
			t.Errorf("%s is not known: %s", name, got)
		}
	}
}

// Descriptors that were made from another folder name what is known here by another path:
// that is said, and does not end the process.
func TestDescriptorsOfAnotherRootAreRefused(t *testing.T) {
	options := protodesc.ToFileDescriptorProto(commonpb.File_commonpb_options_proto)
	options.Name = proto.String("proto/" + options.GetName())
	b, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{options}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "other.descriptors")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Learn(path); err == nil || !strings.Contains(err.Error(), "name conflict over common.sensitive: is it the path") {
		t.Errorf("got %v", err)
	}
}
