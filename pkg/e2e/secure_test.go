package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/motto123/minigate/pkg/certificates/certtest"
	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/chatpb"
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

// TestMutualTLS: with certificates, services call each other over mutual TLS: a login
// binds a session at its gate, a gate has a token looked at, and chat asks who somebody
// is. A gate that speaks no TLS, or with a certificate of another authority, gets no
// answer from auth, which says why in its log.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ours, theirs := certtest.NewAuthority(t, "ours"), certtest.NewAuthority(t, "theirs")
	// signed are a certificate of one authority, and the other's that it trusts.
	signed := func(by, trusts *certtest.Authority) []string {
		files, trusted := by.Write(t, t.TempDir(), certtest.Options{}), trusts.Write(t, t.TempDir(), certtest.Options{})
		return []string{"--grpc-cert", files.Cert, "--grpc-key", files.Key, "--grpc-ca", trusted.CA}
	}
	w.authAddresses = w.authAddresses[:1]
	auth := w.worker(append([]string{"auth", "--auth-grpc", w.authAddresses[0]}, signed(ours, ours)...)...)
	w.worker(append([]string{"chat"}, signed(ours, ours)...)...)
	g := w.gate(signed(ours, ours)...)
	w.consumed("auth", 1)
	w.consumed("chat", 1)

	alice, bob := connect(t, g.tcp, "alice"), connect(t, g.ws, "bob")
	for _, p := range []*person{alice, bob} {
		p.register()
		p.login()
	}
	back := alice.again(t, g.ws)
	ask[chatpb.SendResponse](back, "chat.send", &chatpb.SendRequest{To: bob.id, Text: "over TLS", ClientId: "1"})
	if got := bob.inbox.wait(t, 1); got[0].GetText() != "over TLS" {
		t.Errorf("bob got %v", got)
	}

	for name, x := range map[string]struct {
		args []string
		line string
	}{
		"no TLS":                         {nil, "first record does not look like a TLS handshake"},
		"auth's is of another authority": {signed(theirs, theirs), "bad certificate"},
		"its own is of another":          {signed(theirs, ours), "certificate signed by unknown authority"},
	} {
		other := w.gate(x.args...)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		c, err := client.Dial(ctx, other.tcp, client.Options{Token: alice.token})
		cancel()
		if err == nil {
			_ = c.Close()
			t.Errorf("%s: a token is taken that nobody could look at", name)
		}
		auth.says(t, fmt.Sprintf("a gRPC (connection|call) was refused.*%s", x.line))
	}
	w.stop()
}
