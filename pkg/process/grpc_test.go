package process

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/certificates"
	"github.com/motto123/minigate/pkg/certificates/certtest"
	"github.com/motto123/minigate/pkg/grpcauth"
	"github.com/motto123/minigate/pkg/grpcauth/grpctest"
	"github.com/motto123/minigate/pkg/logging"
	"github.com/motto123/minigate/pkg/parts"
)

// secured is a process with its gRPC secured, as far as it goes without services.
func secured(t *testing.T, c Config, names []string, withGate bool) (*process, []grpc.DialOption, string, error) {
	t.Helper()
	var screen bytes.Buffer
	log, err := logging.New(logging.Config{Level: "info", Screen: &screen})
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Config: &c, log: log}
	p.AuthGRPC = "10.0.0.1:7102"
	p.Parts = parts.New()
	calls, err := p.secure(names, withGate)
	p.Parts.Stop()
	if failed := p.Parts.Wait(); failed != nil {
		t.Error(failed)
	}
	return p, calls, screen.String(), err
}

// TestSecure: gate and Auth service ask for what workers and gates show.
func TestSecure(t *testing.T) {
	f := certtest.NewAuthority(t, "one").Write(t, t.TempDir(), certtest.Options{})
	c := Config{GRPC: grpcauth.Config{Files: certificates.Config{Cert: f.Cert, Key: f.Key, CA: f.CA}, Tokens: "a-token-of-services"}}
	c.Gate.GRPC = "10.0.0.1:7101"
	p, calls, log, err := secured(t, c, []string{"auth"}, true)
	if err != nil || strings.Contains(log, "open to everybody") {
		t.Fatalf("%v\n%s", err, log)
	}
	for name, options := range map[string][]grpc.ServerOption{"gate": p.Gate.GRPCOptions, "auth": p.Process.GRPC} {
		address := grpctest.Serve(t, options...)
		for caller, dial := range map[string][]grpc.DialOption{"of gates": p.Worker.GateOptions, "of auth": calls} {
			if err := grpctest.Call(t, grpctest.Connect(t, address, dial...)); err != nil {
				t.Errorf("%s: a caller %s: %v", name, caller, err)
			}
		}
		if err := grpctest.Call(t, grpctest.Connect(t, address)); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: a caller with nothing: %v", name, err)
		}
	}
}

func TestOpenAddressesAreLogged(t *testing.T) {
	for _, c := range []struct {
		names   []string
		gate    string
		logged  []string
		withOut []string
	}{
		{names: []string{"auth"}, logged: []string{"10.0.0.1:7102"}},
		{gate: ":7101", logged: []string{" :7101"}, withOut: []string{"10.0.0.1:7102"}},
		{gate: "127.0.0.1:7101", withOut: []string{"7101", "7102"}},
		{names: []string{"chat"}, withOut: []string{"7102"}},
	} {
		cfg := Config{}
		cfg.Gate.GRPC = c.gate
		_, _, log, err := secured(t, cfg, c.names, c.gate != "")
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range c.logged {
			if !strings.Contains(log, strings.TrimSpace(text)) || !strings.Contains(log, "open to everybody") {
				t.Errorf("%+v: the log has no %q:\n%s", c, text, log)
			}
		}
		for _, text := range c.withOut {
			if strings.Contains(log, text) {
				t.Errorf("%+v: the log has %q:\n%s", c, text, log)
			}
		}
	}
}

// TestSecureFails: a server needs a certificate, and a caller does not.
func TestSecureFails(t *testing.T) {
	f := certtest.NewAuthority(t, "one").Write(t, t.TempDir(), certtest.Options{})
	c := Config{GRPC: grpcauth.Config{Files: certificates.Config{CA: f.CA}}}
	if _, _, _, err := secured(t, c, []string{"auth"}, false); err == nil {
		t.Error("a server has no certificate")
	}
	if _, _, _, err := secured(t, c, []string{"chat"}, false); err != nil {
		t.Error(err)
	}
	c.GRPC.Files.CA += "x"
	if _, _, _, err := secured(t, c, []string{"chat"}, false); err == nil {
		t.Error("a file that is not there was taken")
	}
}
