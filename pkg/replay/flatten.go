package replay

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/tail"
)

// leaf is one value of an answer, with its path: messages[1].text.
type leaf struct{ path, value string }

// flatten takes an answer apart into its values, in a fixed order; false where
// nobody knows how to.
func flatten(dataType uint8, name string, data []byte) ([]leaf, bool) {
	switch codec.DataType(dataType) {
	case codec.Protobuf:
		m, err := tail.Decode(name, data)
		if err != nil {
			return nil, false
		}
		return flattenMessage(nil, "", m.ProtoReflect()), true
	case codec.JSON:
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.UseNumber()
		var v any
		if decoder.Decode(&v) != nil {
			return nil, false
		}
		if _, err := decoder.Token(); err != io.EOF {
			return nil, false
		}
		return flattenJSON(nil, "", v), true
	case codec.Text:
		return []leaf{{"", strconv.Quote(string(data))}}, true
	}
	return nil, false
}

func flattenMessage(to []leaf, path string, m protoreflect.Message) []leaf {
	var fields []protoreflect.FieldDescriptor
	m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		fields = append(fields, f)
		return true
	})
	slices.SortFunc(fields, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number() - b.Number()) })
	for _, f := range fields {
		at, v := member(path, string(f.Name())), m.Get(f)
		switch {
		case f.IsList():
			for i := range v.List().Len() {
				to = flattenValue(to, fmt.Sprintf("%s[%d]", at, i), f, v.List().Get(i))
			}
		case f.IsMap():
			var entries []leaf
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				entries = flattenValue(entries, fmt.Sprintf("%s[%q]", at, k.String()), f.MapValue(), v)
				return true
			})
			slices.SortStableFunc(entries, func(a, b leaf) int { return bytes.Compare([]byte(a.path), []byte(b.path)) })
			to = append(to, entries...)
		default:
			to = flattenValue(to, at, f, v)
		}
	}
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		to = append(to, leaf{member(path, "(unknown fields)"), hex.EncodeToString(unknown)})
	}
	return to
}

func flattenValue(to []leaf, path string, f protoreflect.FieldDescriptor, v protoreflect.Value) []leaf {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		inner := flattenMessage(nil, path, v.Message())
		if len(inner) == 0 { // it is there all the same
			inner = []leaf{{path, "{}"}}
		}
		return append(to, inner...)
	case protoreflect.StringKind:
		return append(to, leaf{path, strconv.Quote(v.String())})
	case protoreflect.BytesKind:
		return append(to, leaf{path, "0x" + hex.EncodeToString(v.Bytes())})
	case protoreflect.EnumKind:
		if known := f.Enum().Values().ByNumber(v.Enum()); known != nil {
			return append(to, leaf{path, string(known.Name())})
		}
		return append(to, leaf{path, strconv.Itoa(int(v.Enum()))})
	}
	return append(to, leaf{path, v.String()})
}

func flattenJSON(to []leaf, path string, v any) []leaf {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			return append(to, leaf{path, "{}"})
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			to = flattenJSON(to, member(path, name), v[name])
		}
		return to
	case []any:
		if len(v) == 0 {
			return append(to, leaf{path, "[]"})
		}
		for i, one := range v {
			to = flattenJSON(to, fmt.Sprintf("%s[%d]", path, i), one)
		}
		return to
	case string:
		return append(to, leaf{path, strconv.Quote(v)})
	}
	if v == nil {
		return append(to, leaf{path, "null"})
	}
	return append(to, leaf{path, fmt.Sprint(v)}) // a number as it was written, true or false
}

func member(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
