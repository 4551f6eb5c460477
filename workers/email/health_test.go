package email

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/motto123/minigate/proto/emailpb"
)

// greeter is an SMTP server that only greets, or does what a test says.
type greeter struct {
	tls     *tls.Config // from the first byte
	says    atomic.Pointer[string]
	greeted atomic.Int64
	quits   atomic.Int64
}

func newGreeter(t *testing.T, cfg *tls.Config) (*greeter, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &greeter{tls: cfg}
	g.greets("220 test ESMTP\r\n")
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { g.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return g, l.Addr().String()
}

func (g *greeter) greets(text string) { g.says.Store(&text) }

func (g *greeter) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	if g.tls != nil {
		c = tls.Server(c, g.tls)
	}
	_, _ = c.Write([]byte(*g.says.Load()))
	g.greeted.Add(1)
	if line, err := bufio.NewReader(c).ReadString('\n'); err == nil && line == "QUIT\r\n" { // until the client goes
		g.quits.Add(1)
	}
}

// watched is a service that asks its mail server often, until the test ends.
func watched(t *testing.T, c SMTP) *Service {
	t.Helper()
	s := newService(t, Config{SMTP: c})
	s.server.every, s.server.again, s.server.timeout = 2*time.Millisecond, 2*time.Millisecond, 200*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

func becomes(t *testing.T, s *Service, what string, ok func(error) bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(s.Health()); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("it never happens that it is %s: %v", what, s.Health())
		}
	}
}

func well(err error) bool { return err == nil }

// TestHealth: it is not well before the mail server has answered, and while that does
// not take mails, and says why.
func TestHealth(t *testing.T) {
	if err := newService(t, Config{SMTP: SMTP{Address: "127.0.0.1:1"}}).Health(); err == nil || !strings.Contains(err.Error(), "not answered yet") {
		t.Errorf("before anybody has asked: %v", err)
	}
	g, address := newGreeter(t, nil)
	s := watched(t, SMTP{Address: address, TLS: NoTLS})
	becomes(t, s, "well", well)
	for greeting, want := range map[string]string{
		"421 too busy\r\n":            "421",
		"554 no\r\n":                  "554",
		"SSH-2.0-x\r\n":               "greeting",
		"":                            "greeting", // and it waits
		strings.Repeat("220-x", 2000): "EOF",      // and never ends
	} {
		g.greets(greeting)
		becomes(t, s, "unwell with "+want, func(err error) bool { return err != nil && strings.Contains(err.Error(), want) })
		g.greets("220-two\r\n220 lines\r\n")
		becomes(t, s, "well again", well)
	}
	if g.quits.Load() == 0 {
		t.Error("it hangs up without a word")
	}
}

func TestHealthOfImplicitTLS(t *testing.T) {
	certificate, pool := certify(t)
	g, address := newGreeter(t, &tls.Config{Certificates: []tls.Certificate{certificate}})
	s := watched(t, SMTP{Address: address, TLS: Implicit, TLSConfig: &tls.Config{RootCAs: pool}})
	becomes(t, s, "well", well)
	g.greets("421 no\r\n")
	becomes(t, s, "unwell", func(err error) bool { return err != nil })
}

// TestHealthDoesNotFlap: one question that stays without an answer changes nothing,
// and mails that are taken say more than a greeting.
func TestHealthDoesNotFlap(t *testing.T) {
	s := newService(t, Config{SMTP: SMTP{Address: "127.0.0.1:1"}})
	m := &s.server
	if m.wait() > 0 {
		t.Error("the server is not asked at once")
	}
	m.answered()
	if m.wait() <= 0 {
		t.Error("a server that has answered is asked again at once")
	}
	for range 3 {
		m.missed(context.DeadlineExceeded)
		if err := s.Health(); err != nil {
			t.Errorf("after one miss: %v", err)
		}
		m.answered()
	}
	m.missed(context.DeadlineExceeded)
	if m.wait() <= 0 || m.wait() > m.again {
		t.Errorf("a server that has not answered is asked after %v", m.wait())
	}
	m.missed(context.DeadlineExceeded)
	if s.Health() == nil {
		t.Error("after two misses it is well")
	}
	m.answered()
	if err := s.Health(); err != nil {
		t.Errorf("after an answer: %v", err)
	}
}

// TestASentMailIsAnAnswer: who takes mails need not be asked.
func TestASentMailIsAnAnswer(t *testing.T) {
	taker := &server{}
	s := newService(t, Config{SMTP: SMTP{Address: taker.start(t), TLS: NoTLS}})
	if err := s.Verification(t.Context(), &emailpb.Verification{To: "a@example.org", Code: "123456"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Health(); err != nil || s.server.wait() <= 0 {
		t.Errorf("after a mail that was taken: %v", err)
	}
}
