package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"strings"

	"github.com/XSAM/otelsql"
	"go.opentelemetry.io/otel/attribute"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// pool opens the connections of one kind. Where statements are traced, each of a
// trace that is kept gets a span: with its text, in which the values are question
// marks, and never with these.
func (cfg Config) pool(c driver.Connector, about ...attribute.KeyValue) *sql.DB {
	if cfg.Tracer == nil {
		return sql.OpenDB(c)
	}
	return otelsql.OpenDB(c,
		otelsql.WithTracerProvider(discreet{TracerProvider: cfg.Tracer}), otelsql.WithMeterProvider(metricnoop.NewMeterProvider()),
		otelsql.WithAttributes(about...), otelsql.WithSpanNameFormatter(spanName),
		otelsql.WithSpanOptions(otelsql.SpanOptions{
			DisableErrSkip: true, OmitConnResetSession: true, OmitConnPrepare: true, OmitRows: true,
			SpanFilter: func(ctx context.Context, _ otelsql.Method, _ string, _ []driver.NamedValue) bool {
				return trace.SpanContextFromContext(ctx).IsSampled()
			},
		}))
}

// spanName is what a statement does and to which table, such as "INSERT messages".
func spanName(_ context.Context, method otelsql.Method, query string) string {
	switch method {
	case otelsql.MethodConnectorConnect:
		return "CONNECT"
	case otelsql.MethodConnBeginTx:
		return "BEGIN"
	case otelsql.MethodTxCommit:
		return "COMMIT"
	case otelsql.MethodTxRollback:
		return "ROLLBACK"
	}
	words := strings.Fields(query)
	if len(words) == 0 {
		return string(method)
	}
	does := strings.ToUpper(words[0])
	before := map[string]string{"SELECT": "FROM", "DELETE": "FROM", "INSERT": "INTO", "UPDATE": "UPDATE"}[does]
	for i, word := range words[:len(words)-1] {
		if before != "" && strings.EqualFold(word, before) {
			table, _, _ := strings.Cut(words[i+1], "(")
			return does + " " + strings.Trim(table, "`,;()")
		}
	}
	return does
}

// discreet makes spans that do not tell what an error says: for a key that is taken
// already, MySQL says which.
type discreet struct{ trace.TracerProvider }

// Tracer returns one that is discreet, too.
func (d discreet) Tracer(name string, options ...trace.TracerOption) trace.Tracer {
	return discreetTracer{Tracer: d.TracerProvider.Tracer(name, options...)}
}

type discreetTracer struct{ trace.Tracer }

func (d discreetTracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	ctx, span := d.Tracer.Start(ctx, name, options...)
	return ctx, discreetSpan{span}
}

type discreetSpan struct{ trace.Span }

// RecordError keeps the kind of the error only.
func (d discreetSpan) RecordError(err error, _ ...trace.EventOption) {
	d.SetAttributes(semconv.ErrorType(err))
}
