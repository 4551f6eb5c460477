// Package stack takes the stack out of an error that github.com/pkg/errors made.
//
// It refuses to log it: who logs decides where it stands.
package stack

import (
	"fmt"

	"github.com/pkg/errors"
)

// Of is what an error knows of where it comes from, empty where that is
// nothing: the field "stack" for whoever logs the error at a level, or to a
// logger, that would not show it by itself. Of errors that were wrapped with a
// stack each it is the innermost alone: the others repeat most of it.
func Of(err error) string {
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
	if _, traced := err.(interface{ StackTrace() errors.StackTrace }); traced {
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
