package logging

import (
	"maps"

	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/stack"
)

// stacks formats entries with the stack of their error: as an indented block
// behind the line for people, as the field "stack" in JSON.
type stacks struct{ logrus.Formatter }

// Format formats one entry.
func (s stacks) Format(e *logrus.Entry) ([]byte, error) {
	text := stackOf(e)
	if text == "" {
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
		return append(line, indent(text)...), nil
	}
	with.Data["stack"] = text
	return s.Formatter.Format(&with)
}

// stackOf is the stack of an entry: of its error, or as a panic's handler gave it.
func stackOf(e *logrus.Entry) string {
	if text, ok := e.Data["stack"].(string); ok {
		return text
	}
	if e.Level > logrus.ErrorLevel {
		return ""
	}
	err, ok := e.Data[logrus.ErrorKey].(error)
	if !ok {
		return ""
	}
	return stack.Of(err)
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
