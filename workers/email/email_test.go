package email

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/events"
	"github.com/motto123/minigate/proto/emailpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

func environ(t testing.TB, name, what string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("%s is not set: %s", name, what)
	}
	return v
}

func smtpAddress(t testing.TB) string {
	return environ(t, "MINIGATE_TEST_SMTP", "host:port of an SMTP server that delivers into a Maildir")
}

func newService(t testing.TB, c Config) *Service {
	t.Helper()
	if c.From == "" {
		c.From = "迷你门 😀 <no-reply@example.org>"
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	c.Log = log
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// received is a mail as its receiver reads it.
type received struct {
	header     mail.Header
	text, html string
}

// wait polls the Maildir for mails to an address until there are n.
func wait(t *testing.T, to string, n int) []received {
	t.Helper()
	dir := filepath.Join(environ(t, "MINIGATE_TEST_MAILDIR", "the Maildir behind MINIGATE_TEST_SMTP"), "new")
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var found []received
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err == nil && bytes.Contains(raw, []byte("<"+to+">")) {
				found = append(found, parse(t, raw))
			}
		}
		if len(found) >= n {
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d mails to %s, want %d", len(found), to, n)
		}
		<-tick.C
	}
}

func parse(t *testing.T, raw []byte) received {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	kind, parameters, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("content type %q: %v", kind, err)
	}
	r := received{header: m.Header}
	parts := multipart.NewReader(m.Body, parameters["boundary"])
	for {
		p, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return r
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(p))
		if err != nil {
			t.Fatal(err)
		}
		kind, parameters, err := mime.ParseMediaType(p.Header.Get("Content-Type"))
		if err != nil || !strings.EqualFold(parameters["charset"], "utf-8") {
			t.Fatalf("part %q %v: %v", kind, parameters, err)
		}
		switch kind {
		case "text/plain":
			r.text = strings.ReplaceAll(string(body), "\r\n", "\n")
		case "text/html":
			r.html = string(body)
		}
	}
}

func (r received) decoded(t *testing.T, name string) string {
	t.Helper()
	s, err := new(mime.WordDecoder).DecodeHeader(r.header.Get(name))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func unique(t *testing.T) string {
	return fmt.Sprintf("%s-%d@example.org", strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())), time.Now().UnixNano())
}

// From the event to the mail that arrives, with everything real but the broker.
func TestMailArrives(t *testing.T) {
	s := newService(t, Config{SMTP: SMTP{Address: smtpAddress(t), TLS: NoTLS}, Product: "迷你门 𝔾ate"})
	log := logrus.New()
	log.SetOutput(io.Discard)
	e, err := events.New(events.Config{Topology: bus.NewTopology("")}, log)
	if err != nil {
		t.Fatal(err)
	}
	s.Register(e)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})

	to := unique(t)
	expires := time.Now().Add(15 * time.Minute)
	if err := e.Publish(ctx, VerificationEvent, &emailpb.Verification{
		To: to, Nickname: "小明 👩‍👩‍👧𠮷", Code: "123456", ExpiresAt: expires.UnixMilli(),
	}); err != nil {
		t.Fatal(err)
	}
	m := wait(t, to, 1)[0]
	if got, want := m.decoded(t, "Subject"), "Confirm your address for 迷你门 𝔾ate"; got != want {
		t.Errorf("subject %q, want %q", got, want)
	}
	addresses, err := m.header.AddressList("To")
	if err != nil || len(addresses) != 1 || addresses[0].Name != "小明 👩‍👩‍👧𠮷" || addresses[0].Address != to {
		t.Errorf("To is %v, %v", addresses, err)
	}
	sender, err := m.header.AddressList("From")
	if err != nil || sender[0].Name != "迷你门 😀" || sender[0].Address != "no-reply@example.org" {
		t.Errorf("From is %v, %v", sender, err)
	}
	for name, part := range map[string]string{"text": m.text, "HTML": m.html} {
		for _, want := range []string{"123456", "小明 👩‍👩‍👧𠮷", "迷你门 𝔾ate", expires.UTC().Format("2006-01-02 15:04 UTC")} {
			if !strings.Contains(part, want) {
				t.Errorf("the %s lacks %q:\n%s", name, want, part)
			}
		}
	}
	if _, err := m.header.Date(); err != nil {
		t.Error(err)
	}
	if id := m.header.Get("Message-ID"); !strings.HasSuffix(id, "@example.org>") {
		t.Errorf("Message-ID %q", id)
	}

	// The second kind of mail, and another event: another Message-ID.
	if err := e.Publish(ctx, PasswordResetEvent, &emailpb.PasswordReset{To: to, Code: "<&>"}); err != nil {
		t.Fatal(err)
	}
	for _, again := range wait(t, to, 2) {
		if again.header.Get("Message-ID") == m.header.Get("Message-ID") {
			continue
		}
		if !strings.Contains(again.text, "<&>") || !strings.Contains(again.html, "&lt;&amp;&gt;") {
			t.Errorf("text %q, HTML %q", again.text, again.html)
		}
		if got := again.decoded(t, "Subject"); got != "A new password for 迷你门 𝔾ate" {
			t.Errorf("subject %q", got)
		}
		return
	}
	t.Error("two mails with the same Message-ID")
}

// What a nickname can not do: add a header, a receiver, a part, a link.
func TestNicknames(t *testing.T) {
	s := newService(t, Config{SMTP: SMTP{Address: smtpAddress(t), TLS: NoTLS}})
	cases := []struct{ nickname, want string }{
		{"a\r\nBcc: victim@example.org\r\n\r\nbody", ""},
		{"a\r\nX-Evil: 1", ""},
		{"two\r\nlines", "two lines"},
		{`quote" <victim@example.org>, "x`, ""},
		{`quo"te\`, ""},
		{`quo"te`, `quo"te`},
		{"<b>bold</b>", ""},
		{"<b>", "<b>"},
		{"see evil.example now", ""},
		{"WWW.evil", ""},
		{"J. R. R.", "J. R. R."},
		{"\u202Eegami", "egami"},
		{"\x1b[31mred\x00", "[31mred"},
		{"\xff\xfe", ""},
		{strings.Repeat("名", 40), strings.Repeat("名", 32)},
	}
	for i, c := range cases {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			to := unique(t)
			if err := s.Verification(context.Background(), &emailpb.Verification{To: to, Nickname: c.nickname, Code: "42"}); err != nil {
				t.Fatal(err)
			}
			m := wait(t, to, 1)[0]
			list, err := m.header.AddressList("To")
			if err != nil || len(list) != 1 || list[0].Name != c.want || list[0].Address != to {
				t.Errorf("To is %q (%v), want the name %q", list, err, c.want)
			}
			for _, h := range []string{"Bcc", "X-Evil", "Cc"} {
				if v, ok := m.header[h]; ok {
					t.Errorf("the nickname made a header %s: %v", h, v)
				}
			}
			if !strings.Contains(m.text, "42") || !strings.Contains(m.html, "42") {
				t.Error("a part is gone")
			}
			if c.want != "" && !strings.Contains(m.text, "Hello "+c.want+",") {
				t.Errorf("text: %s", m.text)
			}
			if strings.Contains(m.html, "<b>") {
				t.Error("the nickname is HTML")
			}
		})
	}
}

func TestPrinted(t *testing.T) {
	var out bytes.Buffer
	s := newService(t, Config{Out: &out})
	in := &emailpb.PasswordReset{To: "a@example.org", Nickname: "名\x1b[2J字", Code: "987654"}
	if err := s.PasswordReset(context.Background(), in); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"To: 名 [2J字 <a@example.org>\n", "Subject: A new password for minigate\n", "    987654\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("lacks %q:\n%s", want, out.String())
		}
	}
	if strings.ContainsRune(out.String(), '\x1b') {
		t.Error("an escape sequence reaches the terminal")
	}
}

func TestExpiredIsDropped(t *testing.T) {
	var out bytes.Buffer
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := newService(t, Config{Out: &out, Now: func() time.Time { return now }})
	in := &emailpb.Verification{To: "a@example.org", Code: "1", ExpiresAt: now.UnixMilli()}
	if err := s.Verification(context.Background(), in); err != nil || out.Len() > 0 {
		t.Errorf("expired: %v, printed %q", err, out.String())
	}
	in.ExpiresAt++
	if err := s.Verification(context.Background(), in); err != nil || !strings.Contains(out.String(), "2026-03-01 12:00 UTC") {
		t.Errorf("not yet expired: %v, printed %q", err, out.String())
	}
}

func TestReceiverIsABareAddress(t *testing.T) {
	s := newService(t, Config{Out: io.Discard})
	for _, to := range []string{"", "a", "a@b\r\nBcc: c@d", "Name <a@example.org>", "a@example.org, b@example.org", "a@example.org\n"} {
		if err := s.Verification(context.Background(), &emailpb.Verification{To: to, Code: "1"}); !events.IsPermanent(err) {
			t.Errorf("%q: %v, want a permanent error", to, err)
		}
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	log := logrus.New()
	for name, c := range map[string]Config{
		"sender":          {Out: io.Discard, From: "nobody", Log: log},
		"neither an SMTP": {From: "a@example.org", Log: log},
		"want host:port":  {From: "a@example.org", SMTP: SMTP{Address: "localhost"}, Log: log},
		"want starttls":   {From: "a@example.org", SMTP: SMTP{Address: "localhost:25", TLS: "maybe"}, Log: log},
		"no log":          {From: "a@example.org", Out: io.Discard},
		"want host:port ": {From: "a@example.org", SMTP: SMTP{Address: "localhost:0"}, Log: log},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(name)) {
			t.Errorf("%q is not in the error %v", name, err)
		}
	}
}

// On loopback, where only the protocol's round trips count.
func BenchmarkSend(b *testing.B) {
	s := newService(b, Config{SMTP: SMTP{Address: smtpAddress(b), TLS: NoTLS}})
	in := &emailpb.Verification{To: "benchmark@example.org", Code: "123456"}
	for b.Loop() {
		if err := s.Verification(context.Background(), in); err != nil {
			b.Fatal(err)
		}
	}
}
