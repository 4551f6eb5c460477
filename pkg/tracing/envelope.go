package tracing

import "go.opentelemetry.io/otel/trace"

// Size is how many bytes an envelope has of a trace:
//
//	+----------+---------+-------+
//	| trace id | span id | flags |
//	| 16 B     | 8 B     | 1 B   |
//	+----------+---------+-------+
//
// The flags are those of W3C's Trace Context; bit 0 says that the trace is kept.
const Size = 16 + 8 + 1

// Append appends what an envelope says of a span.
func Append(b []byte, c trace.SpanContext) []byte {
	t, s := c.TraceID(), c.SpanID()
	b = append(b, t[:]...)
	b = append(b, s[:]...)
	return append(b, byte(c.TraceFlags()))
}

// Parse reads what Append wrote; false where it is anything else, as of a broken or
// a later version.
func Parse(b []byte) (trace.SpanContext, bool) {
	if len(b) != Size {
		return trace.SpanContext{}, false
	}
	c := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(b[:16]), SpanID: trace.SpanID(b[16:24]), TraceFlags: trace.TraceFlags(b[24]), Remote: true,
	})
	return c, c.IsValid()
}
