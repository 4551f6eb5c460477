package otlp

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/motto123/minigate/pkg/certificates/certtest"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/tracing/tracingtest"
)

func find(all []attribute.KeyValue, name string) string {
	for _, a := range all {
		if string(a.Key) == name {
			return a.Value.AsString()
		}
	}
	return ""
}

func TestEndpoints(t *testing.T) {
	for endpoint, want := range map[string]struct {
		address string
		secure  bool
	}{
		"collector:4317":          {"collector:4317", false},
		":4317":                   {"localhost:4317", false},
		"http://collector:4317":   {"collector:4317", false},
		"https://collector:4317":  {"collector:4317", true},
		"https://collector:4317/": {"collector:4317", true},
		"http://[::1]:4317":       {"[::1]:4317", false},
	} {
		if address, secure, err := parse(endpoint); err != nil || address != want.address || secure != want.secure {
			t.Errorf("%s: got %s, %v, %v", endpoint, address, secure, err)
		}
	}
	for _, bad := range []string{
		"collector", "http://collector", "collector:0", "collector:70000", "grpc://collector:4317", "http://collector:4317/v1/traces",
		"http://me:secret@collector:4317", "me@collector:4317", "collector:4317/x", "http://collector:4317?x=1", "http://%zz:1",
	} {
		if address, _, err := parse(bad); err == nil {
			t.Errorf("%s is taken as %s", bad, address)
		}
		if e, err := New(Config{Endpoint: bad}); err == nil {
			t.Errorf("%s is taken as %v", bad, e)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		args []string
		want Config
		bad  bool
	}{
		{want: Config{Sample: 0.01}},
		{args: []string{"--trace-endpoint", "c:1", "--trace-sample", "1"}, want: Config{Endpoint: "c:1", Sample: 1}},
		{args: []string{"--trace-endpoint", ""}, want: Config{Sample: 0.01}},
		{args: []string{"--trace-endpoint", "c"}, bad: true},
		{args: []string{"--trace-sample", "1.5"}, bad: true},
	} {
		var got Config
		fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
		got.Settings(settings.Set{FlagSet: fs})
		if err := fs.Parse(c.args); (err != nil) != c.bad || err == nil && got != c.want {
			t.Errorf("%q: got %+v, %v", c.args, got, err)
		}
	}
}

// TestTLS: https is TLS, with the authorities and headers that OpenTelemetry's
// variables name, whatever else they say; http is not.
func TestTLS(t *testing.T) {
	files := certtest.NewAuthority(t, "collectors").Write(t, t.TempDir(), certtest.Options{Name: "localhost"})
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	keys := make(chan []string, 8)
	c := tracingtest.NewCollector(t, grpc.Creds(credentials.NewServerTLSFromCert(&pair)), grpc.ChainUnaryInterceptor(
		func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			keys <- md.Get("api-key")
			return next(ctx, in)
		}))
	_, port, err := net.SplitHostPort(c.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://elsewhere.invalid:1")
	export := func(endpoint string) (lost uint64) {
		e, _, stop := run(t, Config{Endpoint: endpoint, Sample: 1})
		_, s := e.Tracer().Root(t.Context(), "root")
		s.End()
		stop()
		return e.spans.lost.Load()
	}
	if lost := export("https://" + tracingtest.NewCollector(t).Address); lost != 1 {
		t.Error("a collector without TLS was spoken to")
	}
	if lost := export("https://localhost:" + port); lost != 1 {
		t.Error("a collector of an authority that nobody knows was trusted")
	}
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", files.CA)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret")
	if lost := export("https://localhost:" + port); lost != 0 || len(c.Spans()) != 1 {
		t.Errorf("%d spans are lost, and %d have come", lost, len(c.Spans()))
	}
	if got := <-keys; len(got) != 1 || got[0] != "secret" {
		t.Errorf("got the headers %q", got)
	}
}
