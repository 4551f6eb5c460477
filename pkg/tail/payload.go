package tail

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/sensitive"
)

// Decode reads data as the protobuf message of a name. It is an error where the name
// is not known here, or the data is not that message.
func Decode(name string, data []byte) (proto.Message, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		return nil, fmt.Errorf("tail: message %q is not known here: %w", name, err)
	}
	m := kind.New().Interface()
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("tail: decode %s: %w", name, err)
	}
	return m, nil
}

// Masked is data without what is sensitive in the message of its name. Data that does
// not fit the name of such a message is left out altogether.
func Masked(dataType uint8, name string, data []byte) []byte {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil || len(data) == 0 || !sensitive.Has(kind.Descriptor()) {
		return data
	}
	m := kind.New().Interface()
	switch codec.DataType(dataType) {
	case codec.Protobuf:
		if err = proto.Unmarshal(data, m); err == nil {
			sensitive.Mask(m)
			data, err = proto.MarshalOptions{Deterministic: true}.Marshal(m)
		}
	case codec.JSON:
		if err = (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, m); err == nil {
			sensitive.Mask(m)
			data, err = protojson.Marshal(m)
		}
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	return data
}

// Payload is data in JSON on one line, without what is sensitive: protobuf by its name,
// JSON as it is, and text as a string. What is none of these, or is not known here, is
// shown in hexadecimal, with how many bytes there are.
func Payload(dataType uint8, name string, data []byte) json.RawMessage {
	all := data
	data = Masked(dataType, name, all)
	if Blank(all) || data == nil && len(all) > 0 { // left out
		return json.RawMessage(fmt.Sprintf(`{"bytes":%d}`, len(all)))
	}
	switch codec.DataType(dataType) {
	case codec.Protobuf:
		m, err := Decode(name, data)
		if err != nil {
			break
		}
		text, err := protojson.MarshalOptions{}.Marshal(m)
		if err != nil {
			break
		}
		return compact(text)
	case codec.JSON:
		if len(data) == 0 {
			return json.RawMessage("null")
		}
		if json.Valid(data) {
			return compact(data)
		}
		return text(data)
	case codec.Text:
		return text(data)
	}
	shown := data[:min(len(data), maxHex)]
	return json.RawMessage(fmt.Sprintf(`{"bytes":%d,"hex":%q}`, len(data), hex.EncodeToString(shown)))
}

// Blank reports whether data is nothing but zeros, as workers record what they can not
// mask: it is neither text nor JSON nor protobuf.
func Blank(data []byte) bool {
	return len(data) > 0 && len(bytes.Trim(data, "\x00")) == 0
}

// maxHex bounds what is shown of data that nobody can read.
const maxHex = 1024

// compact leaves out the spaces, of which protojson writes more or less at random.
func compact(b []byte) json.RawMessage {
	var out bytes.Buffer
	if json.Compact(&out, b) != nil { // it is what encoders wrote or Valid took
		return text(b)
	}
	return json.RawMessage(Clean(out.String()))
}

func text(b []byte) json.RawMessage {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(string(b)) != nil { // a string is always encoded
		return json.RawMessage("null")
	}
	return json.RawMessage(Clean(string(bytes.TrimSpace(out.Bytes()))))
}
