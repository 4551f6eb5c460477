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
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/tail"
)

// leaf is one value of an answer, with its path: messages[1].text.
type leaf struct{ path, value string }

// spot is where a value is: its path, and the names on the way there, as ignores has
// them.
type spot struct {
	path  string
	names []string
}

// flattener takes an answer apart into its values, in a fixed order, but for those that
// are ignored. What has nothing else in it is as if it were empty.
type flattener struct {
	ignores func(names []string) bool
	leaves  []leaf
}

// flatten returns false where nobody knows how to.
func (f *flattener) flatten(dataType uint8, name string, data []byte) bool {
	switch codec.DataType(dataType) {
	case codec.Protobuf:
		m, err := tail.Decode(name, data)
		if err != nil {
			return false
		}
		f.message(spot{}, m.ProtoReflect())
		return true
	case codec.JSON:
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.UseNumber()
		var v any
		if decoder.Decode(&v) != nil {
			return false
		}
		if _, err := decoder.Token(); err != io.EOF {
			return false
		}
		f.json(spot{}, v)
		return true
	case codec.Text:
		f.add(spot{}, strconv.Quote(string(data)))
		return true
	}
	return false
}

func (f *flattener) add(at spot, value string) { f.leaves = append(f.leaves, leaf{at.path, value}) }

func (f *flattener) message(at spot, m protoreflect.Message) {
	var fields []protoreflect.FieldDescriptor
	m.Range(func(d protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		fields = append(fields, d)
		return true
	})
	slices.SortFunc(fields, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number() - b.Number()) })
	for _, d := range fields {
		in, v := at.member(string(d.Name())), m.Get(d)
		switch {
		case f.ignores(in.names):
		case d.IsList():
			for i := range v.List().Len() {
				f.value(in.element(strconv.Itoa(i)), d, v.List().Get(i))
			}
		case d.IsMap():
			first := len(f.leaves)
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				f.value(in.element(strconv.Quote(k.String())), d.MapValue(), v)
				return true
			})
			slices.SortStableFunc(f.leaves[first:], func(a, b leaf) int { return strings.Compare(a.path, b.path) })
		default:
			f.value(in, d, v)
		}
	}
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		if in := at.member("(unknown fields)"); !f.ignores(in.names) {
			f.add(in, hex.EncodeToString(unknown))
		}
	}
}

func (f *flattener) value(at spot, d protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch d.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		before := len(f.leaves)
		if f.message(at, v.Message()); len(f.leaves) == before { // it is there all the same
			f.add(at, "{}")
		}
	case protoreflect.StringKind:
		f.add(at, strconv.Quote(v.String()))
	case protoreflect.BytesKind:
		f.add(at, "0x"+hex.EncodeToString(v.Bytes()))
	case protoreflect.EnumKind:
		if known := d.Enum().Values().ByNumber(v.Enum()); known != nil {
			f.add(at, string(known.Name()))
		} else {
			f.add(at, strconv.Itoa(int(v.Enum())))
		}
	default:
		f.add(at, v.String())
	}
}

func (f *flattener) json(at spot, v any) {
	switch v := v.(type) {
	case map[string]any:
		before := len(f.leaves)
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if in := at.member(name); !f.ignores(in.names) {
				f.json(in, v[name])
			}
		}
		if len(f.leaves) == before {
			f.add(at, "{}")
		}
	case []any:
		if len(v) == 0 {
			f.add(at, "[]")
		}
		for i, one := range v {
			f.json(at.element(strconv.Itoa(i)), one)
		}
	case string:
		f.add(at, strconv.Quote(v))
	case nil:
		f.add(at, "null")
	default:
		f.add(at, fmt.Sprint(v)) // a number as it was written, true or false
	}
}

// member is below s by a name. One that could be taken for a path is quoted in it.
func (s spot) member(name string) spot {
	names := append(slices.Clip(s.names), strings.Split(plain(name), ".")...)
	switch {
	case name == "" || strings.ContainsAny(name, `.["]`):
		return spot{s.path + "[" + strconv.Quote(name) + "]", names}
	case s.path == "":
		return spot{name, names}
	}
	return spot{s.path + "." + name, names}
}

// element is below s without a name of its own.
func (s spot) element(key string) spot { return spot{s.path + "[" + key + "]", s.names} }
