package e2e_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

// TestTwoPeopleChat is the main job: two people on two gates, two replicas of
// each worker, and every service for real.
func TestTwoPeopleChat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	command(t, w.env(), 0, "db", "init") // twice is once
	w.auth(0)
	w.auth(1)
	w.worker("chat")
	w.worker("chat")
	w.worker("email")
	one, two := w.gate(), w.gate()
	w.consumed("auth", 2)
	w.consumed("chat", 2)
	w.mailed()

	alice, bob := connect(t, one.tcp, "alice"), connect(t, two.ws, "bob")
	for _, p := range []*person{alice, bob} {
		p.refused(codes.Unauthenticated, "chat.send", &chatpb.SendRequest{To: 1, ClientId: "0", Text: "x"})
		p.register()
		p.login()
		p.verify(mailedCode(t, p.email, "Confirm"))
	}
	alice.refused(codes.AlreadyExists, "auth.register", &authpb.RegisterRequest{
		Account: "BOB", Password: "another secret", Email: "bob@example.org",
	})

	all, lines := texts(t)
	begun := time.Now()
	talk(t, alice, bob, all)
	t.Logf("%d lines and %d emoji as %d texts, each way, in %v", lines, len(emoji), len(all), time.Since(begun).Round(time.Millisecond))

	forgetPassword(t, alice, func(to string) string { return mailedCode(t, to, "password") }, two.tcp)
	logOut(t, bob, one.ws)
	w.stop()
}

// talk has two people send each other texts, both at once, and checks what
// arrived and what the history says.
//
// Each waits for the answer before the next text: that texts of one session
// that are in flight at once keep their order is promised by one replica alone.
func talk(t *testing.T, alice, bob *person, texts []string) {
	t.Helper()
	var both sync.WaitGroup
	both.Go(func() { alice.say(t, bob.id, texts) })
	both.Go(func() { bob.say(t, alice.id, texts) })
	both.Wait()
	if t.Failed() {
		return
	}

	pushed := make(map[int64]*chatpb.Message)
	for _, side := range []struct{ from, to *person }{{alice, bob}, {bob, alice}} {
		got := side.to.inbox.wait(t, len(texts))
		number := int64(0)
		for i, m := range got {
			if i >= len(texts) || m.GetText() != texts[i] || m.GetSender() != side.from.id || m.GetNumber() <= number {
				t.Fatalf("push %d to %s: number %d after %d, sender %d, text %.80q", i+1, side.to.account, m.GetNumber(), number, m.GetSender(), m.GetText())
			}
			number = m.GetNumber()
			pushed[number] = m
		}
	}
	for _, p := range []*person{alice, bob} {
		history := p.history(alice.id + bob.id - p.id)
		if len(history) != 2*len(texts) {
			t.Fatalf("the history of %s has %d messages, want %d", p.account, len(history), 2*len(texts))
		}
		for _, m := range history {
			if want := pushed[m.GetNumber()]; want.GetText() != m.GetText() || want.GetSender() != m.GetSender() || want.GetConversation() != m.GetConversation() {
				t.Fatalf("message %d of the history of %s is from %d: %.80q; pushed was %.80q of %d",
					m.GetNumber(), p.account, m.GetSender(), m.GetText(), want.GetText(), want.GetSender())
			}
		}
	}
}

// say sends texts, one after the other.
func (p *person) say(t *testing.T, to int64, texts []string) {
	ctx := t.Context()
	number := int64(0)
	for i, text := range texts {
		out := &chatpb.SendResponse{}
		err := p.Call(ctx, "chat.send", &chatpb.SendRequest{To: to, ClientId: fmt.Sprint(i), Text: text}, out)
		if err != nil {
			t.Errorf("%s sends text %d of %d: %v", p.account, i+1, len(texts), err)
			return
		}
		if out.GetNumber() <= number {
			t.Errorf("%s sends text %d: it is number %d, and the one before was %d", p.account, i+1, out.GetNumber(), number)
			return
		}
		number = out.GetNumber()
	}
}

// logOut logs a person out that is logged in by token elsewhere, too: the token
// logs in until then and not any more.
func logOut(t *testing.T, p *person, elsewhere string) {
	t.Helper()
	other := p.again(t, elsewhere)
	if got := ask[authpb.FindResponse](other, "auth.find", &authpb.FindRequest{Account: strings.ToUpper(p.account)}); got.GetUser().GetId() != p.id {
		t.Errorf("auth.find of %s: got %v", p.account, got)
	}
	other.refused(codes.NotFound, "chat.history", &chatpb.HistoryRequest{To: 1})
	ask[authpb.LogoutResponse](p, "auth.logout", &authpb.LogoutRequest{})
	p.refused(codes.Unauthenticated, "chat.history", &chatpb.HistoryRequest{To: 1})
	rejected(t, p, elsewhere)
}

// rejected wants the person's token to be nobody's.
func rejected(t *testing.T, p *person, address string) {
	t.Helper()
	c, _, err := dial(t, address, p.token)
	if err == nil {
		t.Errorf("the token of %s still is user %d", p.account, c.UserID())
		return
	}
	if !refusedWith(err, 401) {
		t.Errorf("the token of %s: %v, want 401", p.account, err)
	}
}

// forgetPassword resets a password by the code that is mailed.
func forgetPassword(t *testing.T, p *person, code func(to string) string, elsewhere string) {
	t.Helper()
	old := p.password
	nobody := connect(t, elsewhere, p.account)
	ask[authpb.RequestResetResponse](nobody, "auth.request_reset", &authpb.RequestResetRequest{Account: p.account})
	ask[authpb.RequestResetResponse](nobody, "auth.request_reset", &authpb.RequestResetRequest{Account: "nobody-of-that-name"})
	p.password = "a new secret of " + p.account
	ask[authpb.ResetPasswordResponse](nobody, "auth.reset_password", &authpb.ResetPasswordRequest{
		Account: p.account, Code: code(p.email), Password: p.password,
	})
	rejected(t, p, elsewhere)
	ended(t, p.Client, "kicked")
	nobody.refused(codes.Unauthenticated, "auth.login", &authpb.LoginRequest{Account: p.account, Password: old})
	nobody.id, nobody.password, nobody.email = p.id, p.password, p.email
	nobody.login()
}
