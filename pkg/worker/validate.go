package worker

import (
	"context"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-playground/validator/v10"
	"github.com/pkg/errors"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/proto/commonpb"
)

// Validator checks messages against the validate tags of their fields, and of
// the messages in them; those in a list only where the list's tag says dive.
// Beside the validator package's own rules there are
//
//	account     ASCII letters, digits, '.', '_' and '-'
//	maxbytes=N  at most N bytes, where max=N counts characters
//
// It keeps what it has learnt of a type, so one is made and used by all. Check
// is safe to call at once.
type Validator struct {
	rules *validator.Validate
}

// NewValidator returns a Validator.
func NewValidator() (*Validator, error) {
	v := validator.New(validator.WithRequiredStructEnabled())
	v.RegisterTagNameFunc(jsonName)
	if err := v.RegisterValidation("account", isAccount); err != nil {
		return nil, errors.WithStack(err)
	}
	if err := v.RegisterValidation("maxbytes", isWithinBytes); err != nil {
		return nil, errors.WithStack(err)
	}
	return &Validator{rules: v}, nil
}

// Check returns nil for a message that keeps its rules, else INVALID_ARGUMENT
// that names each bad field as in JSON, and the rule that it broke.
func (v *Validator) Check(m proto.Message) error {
	err := v.rules.Struct(m)
	if err == nil {
		return nil
	}
	var broken validator.ValidationErrors
	if !errors.As(err, &broken) {
		return errors.WithStack(err)
	}
	violations := make([]*commonpb.Violation, len(broken))
	for i, b := range broken {
		_, field, _ := strings.Cut(b.Namespace(), ".") // it begins with the struct's name
		violations[i] = &commonpb.Violation{Field: field, Rule: rule(b)}
	}
	return invalid(violations)
}

// wrap is Check as a middleware.
func (v *Validator) wrap(next HandlerFunc) HandlerFunc {
	return func(ctx context.Context, in any) (any, error) {
		m, ok := in.(proto.Message)
		if !ok {
			return nil, errors.Errorf("validate: input is a %T", in)
		}
		if err := v.Check(m); err != nil {
			return nil, err
		}
		return next(ctx, in)
	}
}

// rulesOf is the check of a route's input, nil where there are no rules.
func (w *Worker) rulesOf(in proto.Message) Middleware {
	if !hasRules(reflect.TypeOf(in), make(map[reflect.Type]bool)) {
		return nil
	}
	return w.validator.wrap
}

// rule is a broken rule as its tag says it. The rules that name another field
// name it by its Go name, which begins in upper case.
func rule(b validator.FieldError) string {
	param := b.Param()
	if param == "" {
		return b.Tag()
	}
	if first, size := utf8.DecodeRuneInString(param); unicode.IsUpper(first) && namesField(b.Tag()) {
		param = string(unicode.ToLower(first)) + param[size:]
	}
	return b.Tag() + "=" + param
}

func namesField(tag string) bool {
	return strings.HasSuffix(tag, "field") || strings.HasPrefix(tag, "required_") || strings.HasPrefix(tag, "excluded_")
}

// jsonName is the name of a generated field as in JSON, from
// `protobuf:"bytes,3,opt,name=client_id,json=clientId,proto3"`; where both names
// are the same there is no json=. The wrapper of a oneof has neither.
func jsonName(f reflect.StructField) string {
	name := ""
	for part := range strings.SplitSeq(f.Tag.Get("protobuf"), ",") {
		if v, ok := strings.CutPrefix(part, "json="); ok {
			return v
		}
		if v, ok := strings.CutPrefix(part, "name="); ok {
			name = v
		}
	}
	return name
}

func isAccount(fl validator.FieldLevel) bool {
	for _, c := range []byte(fl.Field().String()) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

func isWithinBytes(fl validator.FieldLevel) bool {
	n := 0
	for _, c := range []byte(fl.Param()) {
		if c < '0' || c > '9' || n > 1<<30 {
			return false // a tag that says nothing lets nothing pass
		}
		n = n*10 + int(c-'0')
	}
	return fl.Field().Len() <= n
}

// hasRules reports whether a message, or one that it can hold, has a validate
// tag: for the others the check would only cost time.
func hasRules(t reflect.Type, seen map[reflect.Type]bool) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return hasRules(t.Elem(), seen)
	case reflect.Interface:
		return true // a oneof: its wrappers are not to be seen from here
	case reflect.Struct:
	default:
		return false
	}
	if seen[t] {
		return false
	}
	seen[t] = true
	for i := range t.NumField() {
		f := t.Field(i)
		if f.IsExported() && (f.Tag.Get("validate") != "" || hasRules(f.Type, seen)) {
			return true
		}
	}
	return false
}
