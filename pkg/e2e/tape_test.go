package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/pkg/tape/stream"
)

// taken is what a tape has now: how many requests of each route, how many replies, and
// all of its bytes.
func taken(t *testing.T, s tape.Source) (requests map[string]int, replies int, all []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	requests = make(map[string]int)
	err := s.Read(ctx, tape.Start{}, false, func(e *tape.Entry) error {
		all = append(all, e.Envelope...)
		if e.Kind == tape.Replies {
			return bus.ReadReplies(e.Envelope, func(*bus.Reply) error { replies++; return nil }, func(*bus.Announcement) error { return nil })
		}
		var h bus.Header
		return bus.ReadRequests(e.Envelope, &h, func(*bus.Request) error { requests[strings.Clone(h.Route)]++; return nil })
	})
	if errors.Is(err, stream.ErrNoTape) {
		return nil, 0, nil
	}
	if err != nil || ctx.Err() != nil {
		t.Fatalf("read the tape: %v, %v", err, ctx.Err())
	}
	return requests, replies, all
}

// TestTapeOfDev: what was asked is in the folder while minigate runs and afterwards, for
// other processes, and its passwords are not.
func TestTapeOfDev(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	p := d.start(t)
	folder := filepath.Join(d.args[2], "tape")
	s, err := tape.OpenFile(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	alice := connect(t, d.tcp, "alice")
	alice.register()
	alice.login()
	has := func() bool {
		requests, replies, _ := taken(t, s)
		return requests["auth.register"] == 1 && requests["auth.login"] == 1 && replies == 2
	}
	eventually(t, "both are on the tape", has)
	ask[wrapperspb.StringValue](alice, "echo.echo", wrapperspb.String("hello"))
	p.signal(t, syscall.SIGTERM) // what is not written yet is, at the end
	p.ends(t, 0)
	requests, replies, all := taken(t, s)
	if requests["echo.echo"] != 1 || replies != 3 || !bytes.Contains(all, []byte("hello")) {
		t.Errorf("at the end it has %v and %d replies", requests, replies)
	}
	for what, secret := range map[string]string{"password": alice.password, "token": alice.token} {
		if secret == "" || bytes.Contains(all, []byte(secret)) {
			t.Errorf("the %s %q is on the tape", what, secret)
		}
	}

	p = d.start(t)
	ask[wrapperspb.StringValue](connect(t, d.tcp, "bob"), "echo.echo", wrapperspb.String("again"))
	eventually(t, "the next one goes on with it", func() bool {
		requests, replies, _ := taken(t, s)
		return requests["auth.login"] == 1 && requests["echo.echo"] == 2 && replies == 4
	})
	p.signal(t, syscall.SIGTERM)
	p.ends(t, 0)

	d = newDev(t)
	d.args = append(d.args, "--tape=false")
	p = d.start(t)
	ask[wrapperspb.StringValue](connect(t, d.tcp, "bob"), "echo.echo", wrapperspb.String("hello"))
	p.signal(t, syscall.SIGTERM)
	p.ends(t, 0)
	if _, err := os.Stat(filepath.Join(d.args[2], "tape")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a tape there is one: %v", err)
	}
}

// TestTapeOfWorkers: all of them write into the stream of their installation.
func TestTapeOfWorkers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, err := stream.Open(w.rabbitmq, w.topology)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	g := w.gate()
	silent := w.worker("echo", "--tape=false")
	w.consumed("echo", 1)
	alice := connect(t, g.tcp, "alice")
	ask[wrapperspb.StringValue](alice, "echo.echo", wrapperspb.String("silent"))
	silent.signal(t, syscall.SIGTERM)
	silent.ends(t, 0)
	if requests, _, _ := taken(t, s); len(requests) != 0 {
		t.Errorf("without a tape there is %v on it", requests)
	}

	auth := w.worker("auth", "--auth-grpc", w.authAddresses[0])
	echo := w.worker("echo")
	w.consumed("echo", 1)
	w.consumed("auth", 1)
	alice.register()
	alice.login()
	ask[wrapperspb.StringValue](alice, "echo.echo", wrapperspb.String("hello"))
	echo.signal(t, syscall.SIGTERM)
	echo.ends(t, 0)
	auth.signal(t, syscall.SIGTERM)
	auth.ends(t, 0)
	requests, replies, all := taken(t, s)
	if requests["auth.register"] != 1 || requests["auth.login"] != 1 || requests["echo.echo"] != 1 || replies != 3 || !bytes.Contains(all, []byte("hello")) {
		t.Errorf("it has %v and %d replies", requests, replies)
	}
	for what, secret := range map[string]string{"password": alice.password, "token": alice.token} {
		if secret == "" || bytes.Contains(all, []byte(secret)) {
			t.Errorf("the %s %q is on the tape", what, secret)
		}
	}
}
