package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

// TestScreen runs the whole program on a pipe: what is typed arrives, what
// comes is shown, and the terminal is left as it was.
func TestScreen(t *testing.T) {
	b := newBackend("alice", "bob", "carol")
	b.says("bob", "alice", "from before")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	out := newOutput()
	done := make(chan error, 1)
	go func() {
		done <- runScreen(context.Background(), Config{Dial: b.dial, Gate: "tcp://test", To: "bob", In: read, Out: out})
	}()

	types := func(keys string) {
		t.Helper()
		if _, err := io.WriteString(write, keys); err != nil {
			t.Fatal(err)
		}
	}
	out.wait(t, "Log in")
	types("alice\rwrong\r")
	out.wait(t, "account or password is wrong")
	types("\t\x15password\r") // tab, and ctrl+u to empty the field
	out.wait(t, "connected")
	out.wait(t, "from before")
	types("Hello Bob\r")
	out.wait(t, "Hello Bob")
	b.says("carol", "alice", "psst")
	out.wait(t, "Carol")
	types("\x03")
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("ctrl+c does not end it")
	}
	if !strings.Contains(out.String(), "\x1b[?1049l") {
		t.Error("the alternate screen is not left")
	}
	if m := b.conversations[pair(b.id("alice"), b.id("bob"))]; len(m) != 2 || m[1].GetText() != "Hello Bob" {
		t.Errorf("stored %v", m)
	}
}

// onScreen is a screen with a link that nobody runs.
func onScreen() *screen {
	s := newScreen(newTalk(newLink(Config{}, func(event) {}), ""), Config{Gate: "ws://127.0.0.1:7080/ws"})
	s.Update(online{&authpb.User{Id: 1, Account: "alice", Nickname: "Alice"}})
	return s
}

func (s *screen) hears(from, number int64, text string) {
	s.Update(came{&chatpb.Message{Sender: from, Number: number, Text: text, SentAt: 1_700_000_000_000 + number}})
}

// TestFits: at every size, no row is wider than the terminal and there are no
// more rows than it has.
func TestFits(t *testing.T) {
	s := onScreen()
	s.Update(found{user: &authpb.User{Id: 2, Account: "summer", Nickname: "真夏の夜の夢は長い名前ですよね"}})
	for i, text := range []string{
		"short", strings.Repeat("word ", 60), strings.Repeat("中文", 80), strings.Repeat("x", 500),
		"🐙 👩‍👩‍👧‍👦 🇩🇪\nlines\n\n\tof it\x1b[2J\u202eright", strings.Repeat("🐙", 100), "",
	} {
		s.hears(2, int64(i+1), text)
	}
	s.hears(3, 1, "unread")
	s.Update(tea.KeyMsg{Type: tea.KeyTab})
	s.write(strings.Repeat("mine ", 30))
	states := []func(){
		func() {},
		func() { s.Update(tea.KeyMsg{Type: tea.KeyTab}) }, // the other one
		func() { s.Update(offline{err: fmt.Errorf("%s", strings.Repeat("gone ", 50)), wait: time.Minute}) },
		func() { s.typed("/help") },
		func() { s.Update(needLogin{fmt.Errorf("%s", strings.Repeat("wrong ", 50))}) },
	}
	for i, change := range states {
		change()
		for _, size := range [][2]int{{80, 24}, {200, 60}, {60, 12}, {59, 10}, {30, 8}, {10, 6}} {
			s.Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
			if s.form != nil && size[0] < 60 {
				continue // the form has a size of its own
			}
			rows := strings.Split(s.View(), "\n")
			if len(rows) > size[1] && s.form == nil {
				t.Errorf("state %d: %d rows at %v", i, len(rows), size)
			}
			for _, row := range rows {
				if w := ansi.StringWidth(row); w > size[0] {
					t.Errorf("state %d: %d columns at %v: %q", i, w, size, row)
				}
			}
		}
		for w := range 5 { // nothing to be seen, but nothing breaks either
			s.Update(tea.WindowSizeMsg{Width: w, Height: 1})
			s.View()
		}
	}
}

func TestEscapesAreShown(t *testing.T) {
	s := onScreen()
	s.hears(2, 1, "a\x1b]0;title\x07b\u009bc\u202ed\re")
	s.Update(tea.KeyMsg{Type: tea.KeyTab})
	view := s.View()
	if strings.ContainsAny(view, "\x07\u009b\u202e\r") || strings.Contains(view, "\x1b]") {
		t.Errorf("the other side controls the terminal: %q", view)
	}
	if !strings.Contains(ansi.Strip(view), "a�]0;title�b�cd�e") {
		t.Errorf("got %s", view)
	}
}

// TestScroll: who reads what was said before keeps the place when something
// comes.
func TestScroll(t *testing.T) {
	s := onScreen()
	for i := range 100 {
		s.hears(2, int64(i+1), fmt.Sprint("text ", i+1, "."))
	}
	s.Update(tea.KeyMsg{Type: tea.KeyTab})
	if !strings.Contains(s.View(), "text 100.") {
		t.Fatalf("the newest is not shown:\n%s", s.View())
	}
	s.Update(tea.KeyMsg{Type: tea.KeyPgUp})
	s.Update(tea.KeyMsg{Type: tea.KeyPgUp})
	rows := func() string { return strings.Join(strings.Split(s.View(), "\n")[2:20], "\n") }
	before := rows()
	if strings.Contains(before, "text 100.") {
		t.Fatal("it does not scroll")
	}
	s.hears(2, 101, "one more.")
	if after := rows(); after != before {
		t.Errorf("moved from\n%s\nto\n%s", before, after)
	}
	s.Update(tea.KeyMsg{Type: tea.KeyEsc})
	if !strings.Contains(s.View(), "one more.") {
		t.Error("esc does not go to the end")
	}
	for range 30 {
		s.Update(tea.KeyMsg{Type: tea.KeyPgUp})
	}
	if !strings.Contains(s.View(), "text 1.") {
		t.Errorf("the first is not reached:\n%s", s.View())
	}
}

func TestUnread(t *testing.T) {
	s := onScreen()
	s.hears(2, 1, "x")
	s.hears(2, 2, "x")
	s.hears(2, 2, "x") // the same again
	s.hears(3, 1, "x")
	if s.unread() != 3 {
		t.Errorf("%d unread, want 3", s.unread())
	}
	s.Update(tea.KeyMsg{Type: tea.KeyTab})
	if s.open.id != 3 || s.unread() != 2 {
		t.Errorf("%d is open, %d unread", s.open.id, s.unread())
	}
	s.hears(3, 2, "x")
	if s.unread() != 2 {
		t.Error("what is open counts as unread")
	}
}

// TestTroubleBeforeLogin: why there is no connection is said also to who has
// not logged in yet.
func TestTroubleBeforeLogin(t *testing.T) {
	s := newScreen(newTalk(newLink(Config{}, func(event) {}), ""), Config{Gate: "tcp://127.0.0.1:1"})
	gone := offline{err: errors.New("nobody listens there"), wait: time.Minute}
	for _, place := range []string{"before the form", "in the form"} {
		s.Update(gone)
		view := ansi.Strip(s.View())
		for _, want := range []string{"not connected, next try in ", "nobody listens there", "tcp://127.0.0.1:1"} {
			if !strings.Contains(view, want) {
				t.Errorf("%s: %q is not shown:\n%s", place, want, view)
			}
		}
		if s.Update(connecting{}); !strings.Contains(s.View(), "nobody listens there") {
			t.Errorf("%s, while the next attempt lasts:\n%s", place, s.View())
		}
		s.Update(needLogin{errToken})
		if view := s.View(); !strings.Contains(view, "the token is not valid") || strings.Contains(view, "not connected") {
			t.Errorf("%s, when it is connected:\n%s", place, view)
		}
	}
}

// TestHelp: all of it is to be read on a small screen, and goes away again.
func TestHelp(t *testing.T) {
	s := onScreen()
	s.hears(2, 1, "what was said")
	s.Update(tea.KeyMsg{Type: tea.KeyTab})
	closing := []func(){
		func() { s.Update(tea.KeyMsg{Type: tea.KeyEsc}) },
		func() { s.Update(tea.KeyMsg{Type: tea.KeyTab}) },
		func() { s.typed("/to") },
	}
	for i, leave := range closing {
		s.typed("/help")
		s.settle()
		for _, row := range append(help(), keys()...) {
			if !strings.Contains(ansi.Strip(s.View()), row) {
				t.Errorf("%q is not shown:\n%s", row, s.View())
			}
		}
		if leave(); !strings.Contains(s.View(), "what was said") {
			t.Errorf("the help does not go away (%d):\n%s", i, s.View())
		}
	}
	if !strings.Contains(s.View(), "/to: want a name") {
		t.Errorf("/to without a name:\n%s", s.View())
	}
}

// TestNothingOpen: whoever comes back is told how to get at what was said.
func TestNothingOpen(t *testing.T) {
	view := ansi.Strip(onScreen().View())
	if !strings.Contains(view, "/to NAME") || !strings.Contains(view, "earlier conversations") {
		t.Errorf("got:\n%s", view)
	}
}

// TestWaitsForSomebody: two that are started one after the other with accounts
// that are only being made find each other.
func TestWaitsForSomebody(t *testing.T) {
	s := newScreen(newTalk(newLink(Config{}, func(event) {}), "bob"), Config{})
	s.Update(online{&authpb.User{Id: 1, Account: "alice"}})
	_, cmd := s.Update(found{account: "bob", err: status.Error(codes.NotFound, "nobody")})
	if cmd == nil || !strings.Contains(s.View(), "bob is not here yet") {
		t.Fatalf("gave up:\n%s", s.View())
	}
	if _, again := s.Update(found{account: "bob", err: errNotConnected}); again != nil {
		t.Error("it looks twice at once")
	}
	for len(s.link.tasks) > 0 {
		<-s.link.tasks
	}
	if s.Update(cmd()); len(s.link.tasks) != 1 {
		t.Error("it does not look again")
	}
	s.Update(found{account: "bob", user: &authpb.User{Id: 2, Account: "bob"}})
	if s.open == nil || s.open.name != "bob" {
		t.Errorf("not opened:\n%s", s.View())
	}
	s.typed("/to carol")
	s.Update(found{account: "carol", err: status.Error(codes.NotFound, "nobody")})
	if s.wanted != "" || !strings.Contains(s.View(), `there is no user "carol"`) {
		t.Errorf("waits for who was typed:\n%s", s.View())
	}
}

// BenchmarkPush: what comes costs little, also in a long conversation.
func BenchmarkPush(b *testing.B) {
	s := onScreen()
	for i := range maxLines {
		s.hears(2, int64(i+1), strings.Repeat("word ", 20))
	}
	s.Update(tea.KeyMsg{Type: tea.KeyTab})
	b.ReportAllocs()
	for i := range b.N {
		s.hears(2, int64(maxLines+i+1), strings.Repeat("word ", 20))
		s.View()
	}
}

// TestLostAndBack: who was connected sees that it is lost, and that it is back.
func TestLostAndBack(t *testing.T) {
	s := onScreen()
	s.Update(offline{err: &client.KickError{Code: "draining", Reason: "a restart"}, wait: time.Minute})
	view := ansi.Strip(s.View())
	for _, want := range []string{"connection lost, reconnecting… next try in 60 s", "a restart"} {
		if !strings.Contains(view, want) {
			t.Errorf("%q is not shown:\n%s", want, view)
		}
	}
	s.Update(online{s.me})
	if view := ansi.Strip(s.View()); !strings.Contains(view, "● connected") || !strings.HasSuffix(strings.TrimSpace(view), "back") {
		t.Errorf("when it is back:\n%s", view)
	}
}
