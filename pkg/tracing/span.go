package tracing

import (
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
)

// The attributes that OpenTelemetry's conventions have no name for are those of the
// log lines.
const (
	systemKey = string(semconv.MessagingSystemKey)

	gateKey    = attribute.Key("minigate.gate")
	sessionKey = attribute.Key("minigate.session")
	requestKey = attribute.Key("minigate.request_number")
	// Sessions is to how many sessions of a gate a push went.
	Sessions = attribute.Key("minigate.sessions")
	// Redelivered says that a message may have been handled before.
	Redelivered = attribute.Key("minigate.redelivered")
	// Late says that nobody waited for a message any more.
	Late = attribute.Key("minigate.late")
)

// Call are the attributes of a request as its client made it: a call of a route.
func Call(route string) []attribute.KeyValue {
	return []attribute.KeyValue{semconv.RPCSystemNameKey.String("minigate"), semconv.RPCMethodKey.String(route)}
}

// Of are the attributes that name a request and who sent it, 0 being nobody.
func Of(r Request, user int64) []attribute.KeyValue {
	all := []attribute.KeyValue{
		gateKey.String(r.Gate), sessionKey.String(strconv.FormatUint(r.Session, 10)), requestKey.Int64(int64(r.Sequence)),
	}
	if user != 0 {
		all = append(all, User(user))
	}
	return all
}

// Gate is the attribute that names a gate.
func Gate(id string) attribute.KeyValue { return gateKey.String(id) }

// Bytes is the attribute of the size of what a message carries.
func Bytes(n int) attribute.KeyValue { return semconv.MessagingMessageBodySize(n) }

// User is the attribute that names a user.
func User(id int64) attribute.KeyValue { return semconv.UserID(strconv.FormatInt(id, 10)) }

// Message is the attribute that names a message by the id that its sender gave it.
func Message(id uint64) attribute.KeyValue {
	return semconv.MessagingMessageID(strconv.FormatUint(id, 10))
}

// Event is the attribute that names an event.
func Event(id string) attribute.KeyValue { return semconv.MessagingMessageID(id) }

// Group is the attribute that names those who share a queue.
func Group(name string) attribute.KeyValue { return semconv.MessagingConsumerGroupName(name) }

// Operation is what is done with a message on the bus.
type Operation struct {
	name string
	kind attribute.KeyValue
	span trace.SpanKind
}

// The operations. A span is named by its operation and the route, such as
// "publish chat.send".
var (
	Publish = Operation{"publish", semconv.MessagingOperationTypeSend, trace.SpanKindProducer}
	Reply   = Operation{"reply", semconv.MessagingOperationTypeSend, trace.SpanKindProducer}
	Process = Operation{"process", semconv.MessagingOperationTypeProcess, trace.SpanKindConsumer}
	Deliver = Operation{"deliver", semconv.MessagingOperationTypeProcess, trace.SpanKindConsumer}
)

// Name is the name of a span of the operation.
func (o Operation) Name(route string) string { return o.name + " " + route }

// Options are those of a span of the operation: exchange is where the message went,
// and key the routing key that it had there.
func (t *Tracer) Options(o Operation, exchange, key string, more ...attribute.KeyValue) []trace.SpanStartOption {
	return []trace.SpanStartOption{trace.WithSpanKind(o.span), trace.WithAttributes(append([]attribute.KeyValue{
		t.system, o.kind, semconv.MessagingOperationName(o.name),
		semconv.MessagingDestinationName(exchange), semconv.MessagingRabbitMQDestinationRoutingKey(key),
	}, more...)...)}
}

// Answered has a span say the code that a request was answered with.
func Answered(s trace.Span, c codes.Code) {
	if !s.IsRecording() {
		return
	}
	s.SetAttributes(semconv.RPCResponseStatusCode(CodeName(c)))
	switch c {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		s.SetStatus(otelcodes.Error, CodeName(c)) // the others are the caller's affair
	}
}

// Failed has a span say that it failed, and how: a word of few. What an error says
// is for the log, since it may tell what a message carries.
func Failed(s trace.Span, kind string) {
	s.SetAttributes(semconv.ErrorTypeKey.String(kind))
	s.SetStatus(otelcodes.Error, kind)
}

// CodeName is a code as OpenTelemetry writes it, such as NOT_FOUND.
func CodeName(c codes.Code) string {
	if name, ok := code.Code_name[int32(c)]; ok {
		return name
	}
	return "CODE(" + strconv.Itoa(int(c)) + ")"
}
