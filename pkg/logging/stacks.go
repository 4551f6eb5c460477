package logging

import (
	"fmt"
	"maps"

	pkgerrors "github.com/pkg/errors"
	"github.com/sirupsen/logrus"
)

// stacks formats entries with the stack of their error: as an indented block
// behind the line for people, as the field "stack" in JSON.
type stacks struct{ logrus.Formatter }

// Format formats one entry.
func (s stacks) Format(e *logrus.Entry) ([]byte, error) {
	stack := stackOf(e)
	if stack == "" {
		return s.Formatter.Format(e)
	}
	with := *e
	with.Data = maps.Clone(e.Data)
	if _, people := s.Formatter.(*logrus.TextFormatter); people {
		delete(with.Data, "stack")
		line, err := s.Formatter.Format(&with)
		if err != nil {
			return nil, err
		}
		return append(line, indent(stack)...), nil
	}
	with.Data["stack"] = stack
	return s.Formatter.Format(&with)
}

// stackOf is the stack of an entry: of its error, or as a panic's handler gave it.
func stackOf(e *logrus.Entry) string {
	if stack, ok := e.Data["stack"].(string); ok {
		return stack
	}
	if e.Level > logrus.ErrorLevel {
		return ""
	}
	err, ok := e.Data[logrus.ErrorKey].(error)
	if !ok {
		return ""
	}
	return Stack(err)
}

// Stack is what an error knows of where it comes from, empty where that is
// nothing: the field "stack" for whoever logs the error at a level, or to a
// logger, that would not show it by itself. Of errors that were wrapped with a
// stack each it is the innermost alone: the others repeat most of it.
func Stack(err error) string {
	if origin := deepest(err); origin != nil {
		return fmt.Sprintf("%+v", origin)
	}
	if s := fmt.Sprintf("%+v", err); s != err.Error() {
		return s
	}
	return ""
}

// deepest is the innermost error with a stack: where it all came from. Of joined
// errors it is that of the first that has one.
func deepest(err error) error {
	var found error
	if _, traced := err.(interface{ StackTrace() pkgerrors.StackTrace }); traced {
		found = err
	}
	switch w := err.(type) {
	case interface{ Unwrap() error }:
		if inner := w.Unwrap(); inner != nil {
			if d := deepest(inner); d != nil {
				found = d
			}
		}
	case interface{ Unwrap() []error }:
		for _, inner := range w.Unwrap() {
			if d := deepest(inner); d != nil {
				return d
			}
		}
	}
	return found
}

func indent(text string) []byte {
	b := []byte("    ")
	for i := range len(text) {
		b = append(b, text[i])
		if text[i] == '\n' && i < len(text)-1 {
			b = append(b, "    "...)
		}
	}
	if b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	return b
}
