package dead

import (
	"errors"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/motto123/minigate/pkg/sensitive"
	"github.com/motto123/minigate/proto/commonpb"
)

// closed knows no messages, so that one inside of a google.protobuf.Any is not
// opened: package sensitive does not see what is in there.
type closed struct {
	protoregistry.ExtensionTypeResolver
}

var errClosed = errors.New("a google.protobuf.Any may hold a secret")

func (closed) FindMessageByName(protoreflect.FullName) (protoreflect.MessageType, error) {
	return nil, errClosed
}

func (closed) FindMessageByURL(string) (protoreflect.MessageType, error) { return nil, errClosed }

// sensitiveNames are those of all sensitive fields that this program knows, as they
// are in JSON and in the .proto, in lower case.
var sensitiveNames = sync.OnceValue(func() map[string]bool {
	names := make(map[string]bool)
	var visit func(protoreflect.MessageDescriptors)
	visit = func(all protoreflect.MessageDescriptors) {
		for i := range all.Len() {
			fields := all.Get(i).Fields()
			for j := range fields.Len() {
				f := fields.Get(j)
				if is, ok := proto.GetExtension(f.Options(), commonpb.E_Sensitive).(bool); ok && is {
					names[strings.ToLower(f.JSONName())] = true
					names[strings.ToLower(f.TextName())] = true
				}
			}
			visit(all.Get(i).Messages())
		}
	}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		visit(f.Messages())
		return true
	})
	return names
})

// maskMembers is a JSON value without the members of these names.
func maskMembers(v any, names map[string]bool) any {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if names[strings.ToLower(name)] {
				v[name] = sensitive.Masked
			} else {
				v[name] = maskMembers(value, names)
			}
		}
	case []any:
		for i, value := range v {
			v[i] = maskMembers(value, names)
		}
	}
	return v
}
