package worker

import (
	"context"
	"fmt"

	"github.com/pkg/errors"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/failure"
	"github.com/motto123/minigate/proto/commonpb"
)

// Fail is an error with two faces: the client gets code and message, the log
// gets cause with its stack. For example codes.Unavailable, "try again later",
// and what the database said.
func Fail(code codes.Code, message string, cause error) error {
	return &fault{code: code, message: message, cause: cause}
}

type fault struct {
	code    codes.Code
	message string
	cause   error
}

func (f *fault) Error() string { return f.message + ": " + f.cause.Error() }

func (f *fault) Unwrap() error { return f.cause }

// GRPCStatus is what the client gets.
func (f *fault) GRPCStatus() *status.Status { return status.New(f.code, f.message) }

// Format prints the cause's stack with %+v.
func (f *fault) Format(s fmt.State, verb rune) {
	if verb == 'v' && s.Flag('+') {
		fmt.Fprintf(s, "%s: %+v", f.message, f.cause)
		return
	}
	fmt.Fprint(s, f.Error())
}

// Invalid is INVALID_ARGUMENT that names a field of the request and the rules
// that it broke. The field is named as in JSON. The message says the rules that
// package failure knows in words.
func Invalid(field string, rules ...string) error {
	problem := &commonpb.Error{}
	for _, rule := range rules {
		problem.Violations = append(problem.Violations, &commonpb.Violation{Field: field, Rule: rule})
	}
	return invalid(problem.Violations)
}

func invalid(violations []*commonpb.Violation) error {
	st, err := status.New(codes.InvalidArgument, failure.Words(violations)).
		WithDetails(&commonpb.Error{Violations: violations})
	if err != nil {
		return errors.WithStack(err)
	}
	return st.Err()
}

// statusOf is what a client gets to know of an error: nil where that is nothing
// but INTERNAL. It takes the status out of an error that was wrapped without
// the text that the wrapping added.
func statusOf(err error) *status.Status {
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) {
		st := carrier.GRPCStatus()
		if c := st.Code(); c == codes.OK || c == codes.Unknown || c == codes.Internal || c > codes.Unauthenticated {
			return nil
		}
		return st
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, "the answer was not ready in time")
	case errors.Is(err, bus.ErrUnavailable), errors.Is(err, bus.ErrUnconfirmed), errors.Is(err, bus.ErrRefused),
		errors.Is(err, bus.ErrFull), errors.Is(err, bus.ErrClosed), errors.Is(err, ErrNotRunning):
		return status.New(codes.Unavailable, "the broker is not available")
	}
	return nil
}

// problemOf is an error as it travels to a client.
func problemOf(err error) *commonpb.Error {
	st := statusOf(err)
	if st == nil {
		return &commonpb.Error{Code: int32(codes.Internal), Message: "internal error"}
	}
	problem := &commonpb.Error{Code: int32(st.Code()), Message: st.Message()}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *commonpb.Error:
			problem.Violations = append(problem.Violations, d.GetViolations()...)
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				problem.Violations = append(problem.Violations,
					&commonpb.Violation{Field: v.GetField(), Rule: v.GetDescription()})
			}
		}
	}
	return problem
}

// codeOf is the code of an error as a client gets it.
func codeOf(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	if st := statusOf(err); st != nil {
		return st.Code()
	}
	return codes.Internal
}
