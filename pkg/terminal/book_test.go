package terminal

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

func numbers(p *peer) (out []int64) {
	for _, l := range p.lines {
		out = append(out, l.number)
	}
	return out
}

func TestBookOrder(t *testing.T) {
	b := &book{me: &authpb.User{Id: 1}}
	from := func(n int64) *chatpb.Message { return &chatpb.Message{Sender: 2, Number: n} }
	p, gap := b.came(from(5))
	if gap {
		t.Error("a gap before any history")
	}
	b.history(p, &chatpb.HistoryRequest{}, &chatpb.HistoryResponse{More: true, Messages: []*chatpb.Message{from(4), from(5)}})
	b.writes(p, "mine", "text")
	if _, gap = b.came(from(8)); !gap || p.gap() != 5 {
		t.Errorf("8 after 5: gap %t, after %d", gap, p.gap())
	}
	b.sent(2, "mine", "text", &chatpb.SendResponse{Number: 7}, nil)
	b.history(p, &chatpb.HistoryRequest{After: 5}, &chatpb.HistoryResponse{Messages: []*chatpb.Message{from(6)}})
	b.history(p, &chatpb.HistoryRequest{Before: 4}, &chatpb.HistoryResponse{Messages: []*chatpb.Message{from(3)}})
	if got := numbers(p); !slices.Equal(got, []int64{3, 4, 5, 6, 7, 8}) || p.older || p.gap() != 0 {
		t.Errorf("numbers %v, older %t, gap %d", got, p.older, p.gap())
	}
	if !p.lines[4].mine || p.lines[4].text != "text" {
		t.Errorf("the message that got number 7: %+v", p.lines[4])
	}
	b.writes(p, "bad", "text")
	b.sent(2, "bad", "text", nil, errors.New("no"))
	if l := p.lines[len(p.lines)-1]; l.number != 0 || l.failed != "no" {
		t.Errorf("the message that was refused: %+v", l)
	}
}

// TestBookBounds: neither peers nor lines grow without an end.
func TestBookBounds(t *testing.T) {
	b := &book{me: &authpb.User{Id: 1}}
	for i := range 3 * maxPeers {
		b.came(&chatpb.Message{Sender: int64(i + 2), Number: 1})
	}
	for i := range 3 * maxLines {
		b.came(&chatpb.Message{Sender: 2, Number: int64(i + 1)})
	}
	p := b.peer(2)
	if len(b.peers) != maxPeers || len(p.lines) != maxLines || !p.older || p.last() != 3*maxLines {
		t.Errorf("%d peers, %d lines, older %t", len(b.peers), len(p.lines), p.older)
	}
}

func TestNoteToSelf(t *testing.T) {
	b := &book{me: &authpb.User{Id: 1}}
	p := b.named(&authpb.User{Id: 1, Account: "alice", Nickname: "Alice"})
	b.writes(p, "id", "milk")
	b.came(&chatpb.Message{Sender: 1, Number: 1, ClientId: "id", Text: "milk"}) // the push comes before the answer
	b.sent(1, "id", "milk", &chatpb.SendResponse{Number: 1}, nil)
	if fmt.Sprint(numbers(p)) != "[1]" || p.unread != 0 || p.name != "Alice (you)" {
		t.Errorf("%+v", p)
	}
}

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		text    string
		columns int
		want    []string
	}{
		{"one two three", 7, []string{"one two", "three"}},
		{"中文中文中", 4, []string{"中文", "中文", "中"}},
		{"abcdefgh", 3, []string{"abc", "def", "gh"}},
		{"a\n\nb\n", 9, []string{"a", "", "b"}},
		{"", 9, []string{""}},
		{"🐙🐙🐙", 5, []string{"🐙🐙", "🐙"}},
		{"1234567 -x and", 7, []string{"1234567", "-x and"}},
		{"1234567 --", 7, []string{"1234567", "--"}},
		{"say --account", 10, []string{"say", "--account"}},
		{"well-known ill-known", 14, []string{"well-known", "ill-known"}},
		{"  indented  text", 10, []string{"  indented", "text"}},
		{"    1234567", 7, []string{"1234567"}},
		{"a          b   ", 7, []string{"a", "b"}},
		{"go abcdefghij k", 6, []string{"go abc", "defghi", "j k"}},
		{"123456 abcdefgh", 7, []string{"123456", "abcdefg", "h"}},
		{"世界 世界", 5, []string{"世界", "世界"}},
	} {
		got := wrap(test.text, test.columns)
		if !slices.Equal(got, test.want) {
			t.Errorf("%q in %d columns: %q, want %q", test.text, test.columns, got, test.want)
		}
	}
	for w := range 12 {
		for _, l := range wrap("Grüße, 世界 🐙 👩‍👩‍👧‍👦 e\u0301 and-much-more-than-that", w) {
			if ansi.StringWidth(l) > max(w, 2) {
				t.Errorf("%q has more than %d columns", l, w)
			}
		}
	}
}

// TestNames: a nickname does not pass for an account.
func TestNames(t *testing.T) {
	for _, test := range []struct{ account, nickname, want string }{
		{"bob", "", "bob"},
		{"bob", "  ", "bob"},
		{"bob", "Bob", "Bob"},
		{"bob", "alice", "bob (alice)"},
		{"bob", "alice (@alice)\nmore", "bob (alice (@alice))"},
		{"bos", "boſ", "bos (boſ)"},
	} {
		if got := name(&authpb.User{Account: test.account, Nickname: test.nickname}); got != test.want {
			t.Errorf("%q with nickname %q is shown as %q, want %q", test.account, test.nickname, got, test.want)
		}
	}
	s := onScreen()
	s.hears(2, 1, "lend me money")
	s.Update(found{id: 2, user: &authpb.User{Id: 2, Account: "bob", Nickname: "alice" + strings.Repeat("_", 40)}})
	s.Update(tea.KeyMsg{Type: tea.KeyTab})
	if n := strings.Count(ansi.Strip(s.View()), "bob (alice"); n < 3 {
		t.Errorf("the account is shown %d times, want it in the list, above the conversation and at the message:\n%s", n, s.View())
	}
}

func TestExplain(t *testing.T) {
	_, refused := net.Dial("tcp", "127.0.0.1:1")
	for want, err := range map[string]error{
		"connection refused":              fmt.Errorf("client: connect: %w", refused),
		"the gate is silent":              client.ErrSilent,
		"kicked: draining":                &client.KickError{Code: "draining"},
		"the text is too long":            status.Error(codes.InvalidArgument, "the text is too long"),
		"email: is not an e-mail address": &client.Error{Violations: []client.Violation{{Field: "email", Rule: "email"}}},
		"a: at least 8 characters; b: is missing": &client.Error{Message: "2 fields", Violations: []client.Violation{
			{Field: "a", Rule: "min=8"}, {Field: "b", Rule: "required"}}},
	} {
		if got := explain(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
