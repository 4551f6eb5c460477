package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/failure"
	"github.com/motto123/minigate/proto/commonpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrLost is what the error of a call wraps whose connection ended before its
// answer came: what it asked for may have been done, or not.
var ErrLost = errors.New("client: the connection was lost while a call waited for its answer")

// ErrCertificate is what the error of Dial wraps, and why a client ended that
// reconnects, where the certificate of a gate is not trusted: it has expired, or is
// of another authority, or for another host.
var ErrCertificate = errors.New("the gate's certificate is not trusted")

// certain names the errors of certificates.
func certain(err error) error {
	if wrong := new(tls.CertificateVerificationError); errors.As(err, &wrong) {
		return fmt.Errorf("%w: %w", ErrCertificate, wrong.Err)
	}
	return err
}

// Error is what every call returns that did not succeed: what the service or
// the gate answered, and also UNAVAILABLE where the connection has ended,
// DEADLINE_EXCEEDED and CANCELLED where the context has, RESOURCE_EXHAUSTED for
// a message that is too large or where too many calls wait for a connection, and INTERNAL for an answer that can not be read.
// status.Code and status.FromError understand it. It unwraps to the context's
// error, or to why the connection ended.
type Error struct {
	// Message is for people; workers have it name the fields that broke a rule.
	Message string
	// Violations are the fields that broke a rule, with INVALID_ARGUMENT.
	Violations []Violation

	code  codes.Code
	cause error
}

// Violation names a field and the rule that it broke.
type Violation struct {
	Field string
	Rule  string
}

// Code is one of gRPC's canonical codes, never OK.
func (e *Error) Code() codes.Code { return e.code }

func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %s", failure.CodeName(int32(e.code)), e.Message)
	if words := e.words(); words != "" {
		text += " (" + words + ")"
	}
	return text
}

// words are the violations that the message does not speak of: a service may
// have a message of its own.
func (e *Error) words() string {
	var unsaid []*commonpb.Violation
	for _, v := range e.Violations {
		one := &commonpb.Violation{Field: v.Field, Rule: v.Rule}
		if !strings.Contains(e.Message, failure.Words([]*commonpb.Violation{one})) {
			unsaid = append(unsaid, one)
		}
	}
	return failure.Words(unsaid)
}

// GRPCStatus makes package status understand e.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.code, e.Message) }

func (e *Error) Unwrap() error { return e.cause }

// KickError is why a connection ended that the gate ended.
type KickError struct {
	// Code is one of the protocol's: draining, replaced, slow_consumer …
	Code string
	// Reason is for people.
	Reason string
	// RetryAfter is how long to wait before dialling again.
	RetryAfter time.Duration
	// Resume says that the session can go on elsewhere.
	Resume bool
}

func (e *KickError) Error() string {
	if e.Reason == "" {
		return "kicked: " + e.Code
	}
	return "kicked: " + e.Code + ": " + e.Reason
}

// HandshakeError is a gate's refusal of a handshake.
type HandshakeError struct {
	// Code is 400 not understood, 401 bad token, 426 version, 503 draining or full.
	Code int
	// Message is for people; it may be empty.
	Message string
	// RetryAfter is how long to wait before dialling again, with 503.
	RetryAfter time.Duration
}

func (e *HandshakeError) Error() string {
	text := e.Message
	if text == "" {
		switch e.Code {
		case 400:
			text = "not understood"
		case 401:
			text = "the token is not valid"
		case 426:
			text = "the protocol version is not served"
		case 503:
			text = "the gate takes no connections now"
		default:
			text = "refused"
		}
	}
	return fmt.Sprintf("refused with %d: %s", e.Code, text)
}

// readError reads the answer that is an error.
func readError(data codec.DataType, body []byte) *Error {
	in, err := failure.Decode(body, data)
	if err != nil {
		return &Error{code: codes.Internal, Message: "the error can not be read", cause: err}
	}
	e := &Error{code: codes.Code(in.GetCode()), Message: in.GetMessage()}
	if e.code > codes.Unauthenticated {
		e.code = codes.Unknown
	}
	for _, v := range in.GetViolations() {
		e.Violations = append(e.Violations, Violation{Field: v.GetField(), Rule: v.GetRule()})
	}
	return e
}
