// Package sensitive knows the fields of messages that nobody may read who looks at what
// went over the wire: those with the option (common.sensitive) of
// proto/commonpb/options.proto.
//
// It refuses to guess: what is inside a google.protobuf.Any, or in bytes that are a
// message of their own, it does not see. Such a field is to be marked itself.
package sensitive

import (
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/motto123/minigate/proto/commonpb"
)

// Masked stands where a sensitive text was.
const Masked = "***"

// known is what Has has found, by descriptor: as many as the program has messages.
var known sync.Map // of protoreflect.MessageDescriptor to bool

// Has reports whether a message of this kind may have a sensitive field in it, however
// deep. It is safe to call at once, and cheap the second time.
func Has(d protoreflect.MessageDescriptor) bool {
	if found, ok := known.Load(d); ok {
		return found == true
	}
	found := has(d, make(map[protoreflect.FullName]bool))
	known.Store(d, found)
	return found
}

// has looks at a message that is not one of those seen, since messages may have
// themselves in them.
func has(d protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) bool {
	if seen[d.FullName()] {
		return false
	}
	seen[d.FullName()] = true
	fields := d.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if marked(f) || f.Message() != nil && has(f.Message(), seen) {
			return true
		}
	}
	return false
}

func marked(f protoreflect.FieldDescriptor) bool {
	is, ok := proto.GetExtension(f.Options(), commonpb.E_Sensitive).(bool)
	return ok && is
}

// Mask takes what is sensitive out of a message, and reports whether there was any:
// texts become Masked, also each of a list, and anything else is cleared. Fields that
// this program does not know go too, however deep, since nobody knows what they are.
func Mask(m proto.Message) bool { return mask(m.ProtoReflect()) }

func mask(m protoreflect.Message) (any bool) {
	if !m.IsValid() {
		return false // nil
	}
	if len(m.GetUnknown()) > 0 {
		m.SetUnknown(nil)
		any = true
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case marked(f):
			conceal(m, f, v)
			any = true
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					any = mask(v.Message()) || any
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				any = mask(v.List().Get(i).Message()) || any
			}
		default:
			any = mask(v.Message()) || any
		}
		return true
	})
	return any
}

// conceal masks one field that is set.
func conceal(m protoreflect.Message, f protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch masked := protoreflect.ValueOfString(Masked); {
	case f.Kind() != protoreflect.StringKind: // of a map it is another one
		m.Clear(f)
	case f.IsList():
		for i := range v.List().Len() {
			v.List().Set(i, masked)
		}
	default:
		m.Set(f, masked)
	}
}
