package e2e_test

import (
	"strings"
	"testing"

	"github.com/motto123/minigate/pkg/certificates/certtest"
)

// TestSecureGate: a gate with a certificate is called over TLS by who trusts its
// authority, also by chat; who does not trust it, and who speaks no TLS, is told so,
// and the gate's log says why.
func TestSecureGate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files := certtest.NewAuthority(t, "authority").Write(t, t.TempDir(), certtest.Options{})
	other := certtest.NewAuthority(t, "another").Write(t, t.TempDir(), certtest.Options{})
	w.worker("echo")
	g := w.gate("--tls-cert", files.Cert, "--tls-key", files.Key)
	w.consumed("echo", 1)
	tls := strings.Replace(g.tcp, "tcp://", "tls://", 1)
	wss := strings.Replace(g.ws, "ws://", "wss://", 1)
	for _, address := range []string{tls, wss} {
		if got := command(t, nil, 0, "call", "--gate", address, "--ca", files.CA, "echo.echo", `{"a":1}`); strings.TrimSpace(got) != `{"a":1}` {
			t.Errorf("over %s: got %q", address, got)
		}
		if said := command(t, nil, 1, "call", "--gate", address, "--ca", other.CA, "echo.echo"); !strings.Contains(said, "certificate signed by unknown authority") {
			t.Errorf("over %s, with another authority: %q", address, said)
		}
	}
	g.says(t, `refused a connection: the TLS handshake failed.*bad certificate`)
	for _, address := range []string{g.tcp, g.ws} {
		command(t, nil, 1, "call", "--gate", address, "--timeout", "3s", "echo.echo")
	}
	w.stop()
}
