package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// output is what was written, to be waited for.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	written chan struct{}
}

func newOutput() *output { return &output{written: make(chan struct{}, 1)} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.written <- struct{}{}:
	default:
	}
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// wait waits until text was written.
func (o *output) wait(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !strings.Contains(o.String(), text) {
		select {
		case <-o.written:
		case <-deadline:
			t.Fatalf("waited for %q, have:\n%s", text, o)
		}
	}
}

// chatting is a Run with lines.
type chatting struct {
	*output
	in   *os.File
	done chan error
}

func start(t *testing.T, b *backend, account, to string) *chatting {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := &chatting{output: newOutput(), in: write, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.done <- Run(ctx, Config{Dial: b.dial, Account: account, Password: "password", To: to, In: read, Out: c})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		_ = read.Close()
		_ = write.Close()
	})
	return c
}

func (c *chatting) types(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

func (c *chatting) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-c.done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatalf("Run does not end; it wrote:\n%s", c)
		return nil
	}
}

func TestTwoTalk(t *testing.T) {
	b := newBackend("alice", "bob", "carol")
	b.says("bob", "alice", "from before")
	alice := start(t, b, "alice", "bob")
	alice.wait(t, "Bob: from before\n")
	bob := start(t, b, "bob", "alice")
	alice.types(t, "Hello Bob 🐙")
	bob.wait(t, "Alice: Hello Bob 🐙\n")
	alice.wait(t, "Alice > Bob: Hello Bob 🐙\n")
	bob.types(t, "//slash")
	alice.wait(t, "Bob: /slash\n")
	b.says("carol", "alice", "two\nlines \x1b[31m")
	alice.wait(t, "Carol: two\n    lines �[31m\n")
	alice.types(t, "/to carol")
	alice.types(t, "I see") // goes to carol, though it was typed before she was found
	alice.wait(t, "Alice > Carol: I see\n")
	alice.types(t, "/verify 123456")
	alice.wait(t, "! your e-mail address is verified\n")
	alice.types(t, "/nothing")
	alice.wait(t, "! /nothing: ")
	alice.types(t, "/help")
	alice.wait(t, "! /to NAME ")
	alice.wait(t, "\n    //TEXT ")
	alice.types(t, "/quit")
	if err := alice.end(t); err != nil {
		t.Errorf("after /quit: %v", err)
	}
	_ = bob.in.Close()
	if err := bob.end(t); err != nil {
		t.Errorf("after the end of the input: %v", err)
	}
}

// TestPipe: what is piped in is sent whole and in order, though the first
// answers are lost together with their connections, and each is stored once.
func TestPipe(t *testing.T) {
	b := newBackend("alice", "bob")
	b.lose = 2
	var want []string
	for i := range 20 {
		want = append(want, strings.Repeat("x", i+1))
	}
	out := newOutput()
	err := Run(t.Context(), Config{Dial: b.dial, Account: "alice", Password: "password", To: "bob",
		In: strings.NewReader(strings.Join(want, "\n")), Out: out})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range b.conversations[pair(b.id("alice"), b.id("bob"))] {
		got = append(got, m.GetText())
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("stored %q", got)
	}
	if n := strings.Count(out.String(), "Alice > Bob: "); n != len(want) {
		t.Errorf("%d of %d are in the transcript:\n%s", n, len(want), out)
	}
}

// TestConnectionLost: it is dialled again, with the token, and what was missed
// meanwhile is there.
func TestConnectionLost(t *testing.T) {
	b := newBackend("alice", "bob")
	b.says("bob", "alice", "one")
	alice := start(t, b, "alice", "bob")
	alice.wait(t, "Bob: one\n")
	b.mu.Lock()
	b.down = errors.New("connection refused")
	b.passwords["alice"] = "another" // only the token still helps
	b.mu.Unlock()
	b.cut(errors.New("the gate went away"))
	alice.wait(t, "! connection lost, reconnecting… the gate went away\n")
	b.says("bob", "alice", "two")
	b.says("bob", "alice", "three")
	alice.types(t, "typed meanwhile")
	b.mu.Lock()
	b.down = nil
	b.mu.Unlock()
	alice.wait(t, "! back\n")
	alice.wait(t, "Bob: two\nBob: three\n")
	alice.wait(t, "Alice > Bob: typed meanwhile\n")
}

// TestReconnected: a connection that comes back by itself is not dialled again,
// and what was missed and typed meanwhile is there.
func TestReconnected(t *testing.T) {
	b := newBackend("alice", "bob")
	alice := start(t, b, "alice", "bob")
	alice.types(t, "zero")
	alice.wait(t, "Alice > Bob: zero\n")
	for i, text := range []string{"one", "two"} {
		b.lost(&client.KickError{Code: "draining", Reason: fmt.Sprint("restart ", i)})
		alice.wait(t, fmt.Sprintf("! connection lost, reconnecting… kicked: draining: restart %d\n", i))
		b.says("bob", "alice", text)
		alice.types(t, "typed in "+text)
		b.back()
		alice.wait(t, "Bob: "+text+"\n")
		alice.wait(t, "Alice > Bob: typed in "+text+"\n")
		if n := strings.Count(alice.String(), "! back\n"); n != i+1 {
			t.Errorf("back %d times, want %d:\n%s", n, i+1, alice)
		}
	}
	if b.dials != 1 {
		t.Errorf("dialled %d times", b.dials)
	}
}

func TestNotLoggedIn(t *testing.T) {
	b := newBackend("alice")
	for name, test := range map[string]struct {
		cfg  Config
		want func(error) bool
	}{
		"no password": {Config{Account: "alice"}, func(err error) bool { return errors.Is(err, ErrLogin) }},
		"no account":  {Config{}, func(err error) bool { return errors.Is(err, ErrLogin) }},
		"bad token":   {Config{Token: "bogus"}, func(err error) bool { return errors.Is(err, errToken) }},
		"bad token, good password": {Config{Token: "bogus", Account: "alice", Password: "password"}, func(err error) bool {
			return err == nil
		}},
		"wrong password": {Config{Account: "alice", Password: "wrong"}, func(err error) bool { return status.Code(err) == codes.Unauthenticated }},
		"taken account": {Config{Account: "alice", Password: "wrong", Register: true}, func(err error) bool {
			return status.Code(err) == codes.AlreadyExists
		}},
		"nobody to talk to": {Config{Account: "alice", Password: "password", To: "nobody"}, func(err error) bool {
			return err != nil && strings.Contains(err.Error(), `there is no user "nobody"`)
		}},
		"no gate": {Config{}, func(err error) bool { return err != nil }},
	} {
		if name != "no gate" {
			test.cfg.Dial = b.dial
		}
		test.cfg.In, test.cfg.Out = strings.NewReader(""), newOutput()
		if err := Run(t.Context(), test.cfg); !test.want(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGateAddress: what can never connect ends the chat before it starts.
func TestGateAddress(t *testing.T) {
	for _, address := range []string{
		"", "foo", "127.0.0.1:7080", "localhost:7080", "http://127.0.0.1:7080", "ws://", "ws:///ws", "tcp://127.0.0.1",
		"tcp://:7001", "tcp://127.0.0.1:99999", "ws://127.0.0.1:x/ws",
	} {
		err := Run(t.Context(), Config{Gate: address, Token: "token", In: strings.NewReader(""), Out: newOutput()})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", address)) || !strings.Contains(err.Error(), "want ws://") {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, address := range []string{"ws://localhost/ws", "wss://example.org/ws", "ws://[::1]:7080/ws", "tcp://127.0.0.1:7001"} {
		if err := checkGate(address); err != nil {
			t.Error(err)
		}
	}
}

func TestKicked(t *testing.T) {
	b := newBackend("alice", "bob")
	alice := start(t, b, "alice", "bob")
	alice.types(t, "x")
	alice.wait(t, "Alice > Bob: x\n")
	b.cut(&client.KickError{Code: "kicked", Reason: "go away"})
	if err := alice.end(t); err == nil || !strings.Contains(err.Error(), "go away") {
		t.Errorf("ended with %v", err)
	}
}

func TestRegisters(t *testing.T) {
	b := newBackend("bob")
	err := Run(t.Context(), Config{Dial: b.dial, Account: "zoe", Password: "password", Register: true,
		Email: "zoe@example.org", To: "bob", In: strings.NewReader("hi\n" + strings.Repeat("x", maxText+1)), Out: newOutput()})
	if err != nil {
		t.Fatal(err)
	}
	if m := b.conversations[pair(b.id("zoe"), b.id("bob"))]; len(m) != 1 || m[0].GetText() != "hi" {
		t.Errorf("stored %v", m)
	}
	// The same again: the account is there.
	if err := Run(t.Context(), Config{Dial: b.dial, Account: "zoe", Password: "password", Register: true,
		Email: "zoe@example.org", In: strings.NewReader(""), Out: newOutput()}); err != nil {
		t.Error(err)
	}
	// And with a token alone.
	out := newOutput()
	if err := Run(t.Context(), Config{Dial: b.dial, Token: "token of zoe", To: "bob", In: strings.NewReader("again"), Out: out}); err != nil {
		t.Error(err)
	}
	out.wait(t, "zoe > Bob: again\n")
}
