package worker

import (
	"bytes"
	"context"
	"strings"
	"unicode/utf8"

	"github.com/pkg/errors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// codec is the middleware between the data of a message and what a handler given
// to Handle wants, as DataType says.
type codec struct {
	inName  string
	newIn   func() proto.Message
	text    protoreflect.FieldDescriptor // the first string field; nil for none
	nothing proto.Message                // the answer of a handler that has none
	secret  bool                         // there are sensitive fields in the input
}

func (c *codec) wrap(next HandlerFunc) HandlerFunc {
	return func(ctx context.Context, in any) (any, error) {
		raw, ok := in.(*Raw)
		if !ok {
			return nil, errors.Errorf("decode: input is a %T", in)
		}
		message, err := c.decode(raw)
		if err != nil {
			return nil, err
		}
		out, err := next(ctx, message)
		if err != nil {
			return nil, err
		}
		answer, ok := out.(proto.Message)
		if !ok {
			return nil, errors.Errorf("encode: answer is a %T", out)
		}
		call, ok := ctx.Value(callKey{}).(*call)
		if !ok || call.caller.Type != Request {
			return raw, nil // nobody reads it
		}
		raw.Name = string(answer.ProtoReflect().Descriptor().FullName())
		raw.Data, err = encode(call.buffer(), raw.DataType, answer)
		if err != nil {
			return nil, err
		}
		return raw, nil
	}
}

func (c *codec) decode(raw *Raw) (proto.Message, error) {
	if raw.Name != "" && raw.Name != c.inName {
		return nil, status.Errorf(codes.InvalidArgument, "the data is %s, want %s", raw.Name, c.inName)
	}
	m := c.newIn()
	if len(raw.Data) == 0 {
		return m, nil
	}
	switch raw.DataType {
	case Protobuf:
		if err := proto.Unmarshal(raw.Data, m); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "the data is not %s in protobuf", c.inName)
		}
		return m, nil
	case JSON:
		return m, c.decodeJSON(raw.Data, m)
	case Text:
		return m, c.decodeText(raw.Data, m)
	}
	return nil, status.Errorf(codes.InvalidArgument, "data type %d is not known", raw.DataType)
}

func (c *codec) decodeJSON(data []byte, m proto.Message) error {
	err := protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, m)
	if err == nil {
		return nil
	}
	err = status.Errorf(codes.InvalidArgument, "the data is not %s in JSON: %s", c.inName, plain(err))
	if c.secret {
		return &quoting{err}
	}
	return err
}

// plain is what protojson says, without the name of the module at its front and
// the space behind that, which differs between builds.
func plain(err error) string {
	text, _ := strings.CutPrefix(err.Error(), "proto:")
	return strings.TrimSpace(text)
}

func (c *codec) decodeText(data []byte, m proto.Message) error {
	switch {
	case bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte{'{'}):
		return c.decodeJSON(data, m)
	case !utf8.Valid(data):
		return status.Error(codes.InvalidArgument, "the text is not UTF-8")
	case c.text == nil:
		return status.Errorf(codes.InvalidArgument, "%s has no field for text: want JSON", c.inName)
	}
	m.ProtoReflect().Set(c.text, protoreflect.ValueOfString(string(data)))
	return nil
}

// firstString is the field that takes plain text.
func firstString(message protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	fields := message.Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.Kind() == protoreflect.StringKind && !f.IsList() && f.ContainingOneof() == nil {
			return f
		}
	}
	return nil
}

// encode appends a message to the buffer, which is empty, in the form that a
// client of that data type reads.
func encode(to *buffer, as DataType, m proto.Message) (data []byte, err error) {
	if as == Protobuf {
		data, err = proto.MarshalOptions{}.MarshalAppend(to.b[:0], m)
	} else {
		data, err = protojson.MarshalOptions{}.MarshalAppend(to.b[:0], m)
	}
	if err != nil {
		return nil, errors.Wrap(err, "encode the answer")
	}
	to.b = data
	return data, nil
}
