package grpcauth

import (
	"testing"

	"google.golang.org/grpc"

	"github.com/motto123/minigate/pkg/certificates"
	"github.com/motto123/minigate/pkg/certificates/certtest"
	"github.com/motto123/minigate/pkg/grpcauth/grpctest"
	"github.com/motto123/minigate/pkg/logging/loggingtest"
)

func guard(t *testing.T, cfg Config) (*Guard, *loggingtest.Lines) {
	t.Helper()
	log, l := loggingtest.New()
	cfg.Log = log
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.Take() // that test certificates expire soon
	return g, l
}

// serve serves gRPC's health service until the test ends. before are options that
// stand before the guard's.
func serve(t *testing.T, g *Guard, before ...grpc.ServerOption) string {
	t.Helper()
	options, err := g.ServerOptions()
	if err != nil {
		t.Fatal(err)
	}
	return grpctest.Serve(t, append(before, options...)...)
}

func files(f certtest.Files) certificates.Config {
	return certificates.Config{Cert: f.Cert, Key: f.Key, CA: f.CA}
}

func issue(t *testing.T, a *certtest.Authority, o certtest.Options) certificates.Config {
	t.Helper()
	return files(a.Write(t, t.TempDir(), o))
}

// as puts another authority's name beside a certificate, so that its owner trusts
// a server that does not trust it.
func as(own, ca certificates.Config) certificates.Config {
	own.CA = ca.CA
	return own
}
