package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

// person is a user of one connection.
type person struct {
	t *testing.T
	*client.Client
	inbox *inbox

	account, password, email string
	id                       int64
	token                    string
}

// dial connects; what is pushed goes to the inbox, acknowledged.
func dial(t *testing.T, address, token string) (*client.Client, *inbox, error) {
	t.Helper()
	in := &inbox{changed: make(chan struct{})}
	c, err := client.Dial(t.Context(), address, client.Options{
		Token: token, OnPush: in.take, Timeout: patience, PushPatience: patience,
	})
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, in, err
}

// connect makes a person that nobody knows yet.
func connect(t *testing.T, address, account string) *person {
	t.Helper()
	c, in, err := dial(t, address, "")
	if err != nil {
		t.Fatal(err)
	}
	return &person{
		t: t, Client: c, inbox: in, account: account, password: account + " has a secret",
		email: fmt.Sprintf("%s-%x@example.org", account, rand.Uint64()),
	}
}

// again is another connection of a person.
func (p *person) again(t *testing.T, address string) *person {
	t.Helper()
	c, in, err := dial(t, address, p.token)
	if err != nil {
		t.Fatalf("%s connects again: %v", p.account, err)
	}
	other := *p
	other.t, other.Client, other.inbox = t, c, in
	if p.token != "" && c.UserID() != p.id {
		t.Errorf("%s is user %d by token, want %d", p.account, c.UserID(), p.id)
	}
	return &other
}

// ask calls a route, which has to work.
func ask[Out any, POut interface {
	*Out
	proto.Message
}](p *person, route string, in proto.Message) POut {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	out := POut(new(Out))
	if err := p.Call(ctx, route, in, out); err != nil {
		p.t.Fatalf("%s of %s: %v", route, p.account, err)
	}
	return out
}

// refused calls a route, which has to fail with a code.
func (p *person) refused(want codes.Code, route string, in proto.Message) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	if err := p.Call(ctx, route, in, nil); status.Code(err) != want {
		p.t.Errorf("%s of %s: %v, want %s", route, p.account, err, want)
	}
}

func (p *person) register() {
	p.t.Helper()
	// The first call may come before the worker: a client would try again.
	eventually(p.t, "register "+p.account, func() bool {
		ctx, cancel := context.WithTimeout(p.t.Context(), patience)
		defer cancel()
		out := &authpb.RegisterResponse{}
		err := p.Call(ctx, "auth.register", &authpb.RegisterRequest{
			Account: p.account, Password: p.password, Nickname: strings.ToUpper(p.account), Email: p.email,
		}, out)
		if code := status.Code(err); err != nil && code != codes.NotFound && code != codes.Unavailable {
			p.t.Fatalf("register %s: %v", p.account, err)
		}
		p.id = out.GetUser().GetId()
		return err == nil
	})
	if p.id == 0 {
		p.t.Fatalf("%s is registered without an id", p.account)
	}
}

func (p *person) login() {
	p.t.Helper()
	out := ask[authpb.LoginResponse](p, "auth.login", &authpb.LoginRequest{
		Account: p.account, Password: p.password, Device: "test",
	})
	p.token = out.GetToken()
	if p.token == "" || out.GetUser().GetId() != p.id || out.GetUser().GetEmail() != p.email {
		p.t.Fatalf("login of %s: got %v", p.account, out.GetUser())
	}
}

// verify proves the address with the code that was mailed.
func (p *person) verify(code string) {
	p.t.Helper()
	out := ask[authpb.VerifyEmailResponse](p, "auth.verify_email", &authpb.VerifyEmailRequest{Code: code})
	if !out.GetUser().GetEmailVerified() {
		p.t.Errorf("the address of %s is not verified: %v", p.account, out)
	}
}

// inbox keeps the messages that were pushed, in order.
type inbox struct {
	mu      sync.Mutex
	got     []*chatpb.Message
	err     error
	changed chan struct{} // closed at the next message
}

func (b *inbox) take(push client.Push) error {
	m := &chatpb.Message{}
	err := push.Unmarshal(m)
	if err == nil && (push.Route != "chat.message" || push.ID == 0) {
		err = errors.New("a push of " + push.Route + " that wants no ack, or is no message")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.err = errors.Join(b.err, err)
		return err
	}
	b.got = append(b.got, m)
	close(b.changed)
	b.changed = make(chan struct{})
	return nil
}

// wait returns all messages as soon as there are n.
func (b *inbox) wait(t *testing.T, n int) []*chatpb.Message {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		b.mu.Lock()
		got, err, changed := b.got, b.err, b.changed
		b.mu.Unlock()
		if err != nil {
			t.Error(err)
			return got
		}
		if len(got) >= n {
			return got
		}
		select {
		case <-changed:
		case <-deadline.C:
			t.Errorf("%d of %d messages were pushed", len(got), n)
			return got
		}
	}
}

// history reads a conversation from its first message, page by page.
func (p *person) history(with int64) []*chatpb.Message {
	p.t.Helper()
	var all []*chatpb.Message
	first := ask[chatpb.HistoryResponse](p, "chat.history", &chatpb.HistoryRequest{To: with, Before: 2})
	if len(first.GetMessages()) == 0 {
		return nil
	}
	all = append(all, first.GetMessages()...)
	for more := true; more; {
		page := ask[chatpb.HistoryResponse](p, "chat.history", &chatpb.HistoryRequest{
			To: with, After: all[len(all)-1].GetNumber(), Limit: 200,
		})
		all = append(all, page.GetMessages()...)
		if more = page.GetMore(); more && len(page.GetMessages()) == 0 {
			p.t.Fatal("an empty page of a history says that there is more")
		}
	}
	for i, m := range all {
		if m.GetNumber() != int64(i)+1 {
			p.t.Fatalf("message %d of the history has number %d", i+1, m.GetNumber())
		}
	}
	return all
}

var codePattern = regexp.MustCompile(`(?m)^ +(\d{6})$`)

// mailedCode waits for the mail to an address whose subject has a word in it,
// at the real server, and returns the code in it.
func mailedCode(t *testing.T, to, word string) string {
	t.Helper()
	folder := filepath.Join(address(t, "MAILDIR"), "new")
	seen := make(map[string]bool)
	var code string
	eventually(t, "a mail for "+to, func() bool {
		files, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, f := range files {
			if seen[f.Name()] {
				continue
			}
			seen[f.Name()] = true
			file, err := os.Open(filepath.Join(folder, f.Name()))
			if err != nil {
				continue // another test's, which is gone again
			}
			code = readCode(t, file, to, word)
			_ = file.Close()
			if code != "" {
				return true
			}
		}
		return false
	})
	return code
}

// readCode returns the code in a mail, if it is the one that is looked for.
func readCode(t *testing.T, file *os.File, to, word string) string {
	t.Helper()
	m, err := mail.ReadMessage(file)
	if err != nil {
		return ""
	}
	if a, err := mail.ParseAddress(m.Header.Get("To")); err != nil || a.Address != to {
		return ""
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil || !strings.Contains(subject, word) {
		return ""
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatalf("the mail to %s: %v", to, err)
	}
	part, err := multipart.NewReader(m.Body, params["boundary"]).NextPart()
	if err != nil {
		t.Fatalf("the mail to %s: %v", to, err)
	}
	var text strings.Builder
	if _, err := io.Copy(&text, part); err != nil {
		t.Fatalf("the mail to %s: %v", to, err)
	}
	found := codePattern.FindStringSubmatch(strings.ReplaceAll(text.String(), "\r", ""))
	if found == nil {
		t.Fatalf("the mail to %s has no code:\n%s", to, text.String())
	}
	return found[1]
}

// refusedWith reports whether err is a gate's refusal of a handshake.
func refusedWith(err error, code int) bool {
	var refusal *client.HandshakeError
	return errors.As(err, &refusal) && refusal.Code == code
}

// ended waits until a gate has sent a client away, with a code.
func ended(t *testing.T, c *client.Client, code string) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-c.Done():
	case <-limit.C:
		t.Errorf("a connection goes on, want a kick: %s", code)
		return
	}
	var kick *client.KickError
	if !errors.As(c.Err(), &kick) || kick.Code != code {
		t.Errorf("a connection ended by %v, want a kick: %s", c.Err(), code)
	}
}
