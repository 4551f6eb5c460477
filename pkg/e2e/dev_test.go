package e2e_test

import (
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/motto123/minigate/proto/chatpb"
)

// dev is minigate dev on ports and in a folder of the test's own.
type dev struct {
	args []string
	tcp  string
	ws   string
	grpc string
}

func newDev(t *testing.T) *dev {
	t.Helper()
	tcp, ws, grpc := freePort(t), freePort(t), freePort(t)
	return &dev{
		args: []string{
			"dev", "--data", t.TempDir(), "--gate-tcp", tcp, "--gate-websocket", ws, "--gate-grpc", grpc, "--auth-grpc", freePort(t),
		},
		tcp: "tcp://" + tcp, ws: "ws://" + ws + "/ws", grpc: grpc,
	}
}

func (d *dev) start(t *testing.T) *process {
	t.Helper()
	p := start(t, nil, built.binary, d.args...)
	p.says(t, "minigate is ready")
	return p
}

// TestDev is TestTwoPeopleChat in one process with nothing installed.
func TestDev(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	p := d.start(t)
	printed := func(subject string) func(to string) string {
		return func(to string) string {
			return p.says(t, `(?s)<`+regexp.QuoteMeta(to)+`>\nSubject: [^\n]*`+subject+`[^\n]*\n.*?\n +(\d{6})\n`)[1]
		}
	}
	alice, bob := connect(t, d.tcp, "alice"), connect(t, d.ws, "bob")
	for _, person := range []*person{alice, bob} {
		person.register()
		person.login()
		person.verify(printed("Confirm")(person.email))
	}
	all, _ := texts(t)
	all = append(all[:40], emoji...)
	talk(t, alice, bob, all)

	// A second one finds its ports taken, and says so.
	said := command(t, nil, 1, append(slices.Clone(d.args), "--data", t.TempDir())...)
	if !strings.Contains(said, "address already in use") || !regexp.MustCompile(`127\.0\.0\.1:\d+`).MatchString(said) {
		t.Errorf("a second dev says:\n%s", said)
	}
	p.lives(t)

	p.signal(t, syscall.SIGTERM)
	p.ends(t, 0)
	ended(t, alice.Client, "draining")
	p = d.start(t)

	again := alice.again(t, d.ws)
	history := again.history(bob.id)
	if len(history) != 2*len(all) {
		t.Errorf("after a restart the history has %d messages, want %d", len(history), 2*len(all))
	}
	bob = bob.again(t, d.tcp)
	bob.login()
	ask[chatpb.SendResponse](again, "chat.send", &chatpb.SendRequest{To: bob.id, ClientId: "after", Text: "after"})
	if got := bob.inbox.wait(t, 1); len(got) != 1 || got[0].GetText() != "after" || got[0].GetNumber() != int64(len(history))+1 {
		t.Errorf("after a restart was pushed %v", got)
	}
	forgetPassword(t, again, printed("password"), d.tcp)
	logOut(t, bob, d.ws)
}

// TestDevGreeting: what dev prints to try next is what works.
func TestDevGreeting(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	p := d.start(t)
	p.says(t, `chat --gate ws://.*/ws --register --account alice .* --to bob`)
	p.says(t, `chat --gate ws://.*/ws --register --account bob .* --to alice`)
	p.says(t, `call --gate ws://.*/ws echo\.echo '\{"hello":"world"\}'`)
	for _, server := range []string{d.tcp, d.ws} {
		if got := command(t, nil, 0, "call", "echo.echo", `{"hello":"world"}`, "--gate", server); got != "{\"hello\":\"world\"}\n" {
			t.Errorf("call echo.echo at %s prints %q", server, got)
		}
	}
	said := command(t, nil, 1, "call", "nobody.here", "--gate", d.tcp)
	if !strings.Contains(said, "NOT_FOUND") {
		t.Errorf("a call that nobody answers prints %q", said)
	}
	said = command(t, nil, 1, "call", "chat.send", "{}", "--gate", d.tcp)
	if !strings.Contains(said, "UNAUTHENTICATED") {
		t.Errorf("a call by nobody prints %q", said)
	}
	said = command(t, nil, 1, "call", "chat.send", "{", "--gate", d.tcp)
	if !strings.Contains(said, `got "{", want JSON`) {
		t.Errorf("a call without JSON prints %q", said)
	}
	said = command(t, nil, 1, "call", "echo.echo", "--gate", "tcp://"+freePort(t))
	if !strings.Contains(said, "connection refused") {
		t.Errorf("a call to nobody prints %q", said)
	}
}
