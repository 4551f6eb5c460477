package email

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/events"
	"github.com/motto123/minigate/proto/emailpb"
)

// server is an SMTP server that says what a real one seldom says. answers maps
// the beginning of a command to the answer; "." is the end of the data. An
// answer of "hang" says nothing, one of "close" closes.
type server struct {
	answers map[string]string
	tls     *tls.Config // for STARTTLS, or from the first byte
	first   bool

	mu    sync.Mutex
	mails []string
	lines []string
	conns []net.Conn
	wait  sync.WaitGroup
}

func (s *server) start(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.wait.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		s.wait.Wait()
	})
	return l.Addr().String()
}

func (s *server) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	if s.tls != nil && s.first {
		c = tls.Server(c, s.tls)
	}
	r := bufio.NewReader(c)
	say := func(line string) { _, _ = c.Write([]byte(line + "\r\n")) }
	say("220 test ESMTP")
	inData, data := false, ""
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		command := strings.TrimRight(line, "\r\n")
		if inData {
			data += line
			if command != "." {
				continue
			}
			inData = false
			s.mu.Lock()
			s.mails = append(s.mails, data)
			s.mu.Unlock()
		}
		s.mu.Lock()
		s.lines = append(s.lines, command)
		s.mu.Unlock()
		answer := "250 ok"
		switch {
		case strings.HasPrefix(command, "EHLO"):
			answer = "250-test\r\n250-AUTH PLAIN LOGIN\r\n250-8BITMIME\r\n"
			if s.tls != nil && !s.first {
				answer += "250-STARTTLS\r\n"
			}
			answer += "250 ENHANCEDSTATUSCODES"
		case strings.HasPrefix(command, "STARTTLS"):
			say("220 go ahead")
			t := tls.Server(c, s.tls)
			c, r = t, bufio.NewReader(t)
			continue
		case strings.HasPrefix(command, "AUTH"):
			answer = "235 welcome"
		case strings.HasPrefix(command, "DATA"):
			answer, inData, data = "354 go on", true, ""
		case strings.HasPrefix(command, "QUIT"):
			answer = "221 bye"
		}
		for prefix, other := range s.answers {
			if strings.HasPrefix(command, prefix) {
				answer = other
				inData = false
			}
		}
		switch answer {
		case "hang":
			continue
		case "close":
			return
		}
		say(answer)
	}
}

func (s *server) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.mails...)
}

func (s *server) said(prefix string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		if strings.HasPrefix(l, prefix) {
			return true
		}
	}
	return false
}

var verification = &emailpb.Verification{To: "a@example.org", Code: "123456"}

func TestAnswers(t *testing.T) {
	cases := []struct {
		name      string
		answers   map[string]string
		permanent bool
		sent      bool
	}{
		{"no such user", map[string]string{"RCPT": "550 5.1.1 no such user"}, true, false},
		{"greylisted", map[string]string{"RCPT": "451 4.7.1 try later"}, false, false},
		{"sender refused", map[string]string{"MAIL": "553 5.7.1 not you"}, true, false},
		{"full", map[string]string{"DATA": "452 4.3.1 no space"}, false, false},
		{"content refused", map[string]string{".": "554 5.6.0 spam"}, true, false},
		{"content later", map[string]string{".": "421 4.3.2 going down"}, false, false},
		{"lost at the end", map[string]string{".": "close"}, false, false},
		{"lost at the start", map[string]string{"EHLO": "close", "HELO": "close"}, false, false},
		{"not welcome", map[string]string{"EHLO": "554 5.0.0 no", "HELO": "554 5.0.0 no"}, false, false},
		{"no goodbye", map[string]string{"QUIT": "close"}, false, true},
		{"bad goodbye", map[string]string{"QUIT": "500 what?"}, false, true},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			fake := &server{answers: c.answers}
			s := newService(t, Config{SMTP: SMTP{Address: fake.start(t), TLS: NoTLS}})
			err := s.Verification(context.Background(), verification)
			if c.sent {
				if err != nil || len(fake.taken()) != 1 {
					t.Errorf("%v, and %d mails taken", err, len(fake.taken()))
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			if events.IsPermanent(err) != c.permanent {
				t.Errorf("permanent is %v: %v", !c.permanent, err)
			}
		})
	}
}

func TestServerThatHangs(t *testing.T) {
	for _, where := range []string{"EHLO", "RCPT", "."} {
		t.Run(where, func(t *testing.T) {
			fake := &server{answers: map[string]string{where: "hang"}}
			s := newService(t, Config{SMTP: SMTP{Address: fake.start(t), TLS: NoTLS, Timeout: time.Minute}})
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			begun := time.Now()
			err := s.Verification(ctx, verification)
			if err == nil || events.IsPermanent(err) {
				t.Errorf("got %v", err)
			}
			if d := time.Since(begun); d > patience {
				t.Errorf("it took %v", d)
			}
		})
	}
}

func TestSameMessageIDInEveryAttempt(t *testing.T) {
	fake := &server{answers: map[string]string{".": "451 4.3.0 once more"}}
	s := newService(t, Config{SMTP: SMTP{Address: fake.start(t), TLS: NoTLS}})
	for range 2 {
		if err := s.Verification(context.Background(), verification); err == nil {
			t.Fatal("no error")
		}
	}
	id := func(mail string) string {
		for line := range strings.SplitSeq(mail, "\r\n") {
			if strings.HasPrefix(line, "Message-ID: ") {
				return line
			}
		}
		return ""
	}
	mails := fake.taken()
	if len(mails) != 2 || id(mails[0]) == "" || id(mails[0]) != id(mails[1]) {
		t.Errorf("%d mails, %q and %q", len(mails), id(mails[0]), id(mails[len(mails)-1]))
	}
}

func TestTLS(t *testing.T) {
	certificate, pool := certify(t)
	own := &tls.Config{Certificates: []tls.Certificate{certificate}}
	trust := &tls.Config{RootCAs: pool}
	cases := []struct {
		name   string
		server *server
		smtp   SMTP
		ok     bool
	}{
		{"starttls", &server{tls: own}, SMTP{TLS: StartTLS, TLSConfig: trust}, true},
		{"starttls is the default", &server{tls: own}, SMTP{TLSConfig: trust}, true},
		{"starttls not offered", &server{}, SMTP{TLS: StartTLS, TLSConfig: trust}, false},
		{"opportunistic, not offered", &server{}, SMTP{TLS: Opportunistic, TLSConfig: trust}, true},
		{"opportunistic, offered", &server{tls: own}, SMTP{TLS: Opportunistic, TLSConfig: trust}, true},
		{"implicit", &server{tls: own, first: true}, SMTP{TLS: Implicit, TLSConfig: trust}, true},
		{"implicit, not trusted", &server{tls: own, first: true}, SMTP{TLS: Implicit}, false},
		{"starttls, not trusted", &server{tls: own}, SMTP{TLS: StartTLS}, false},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			c.smtp.Address = c.server.start(t)
			c.smtp.Username, c.smtp.Password = "user", "secret"
			if c.server.tls == nil { // PLAIN without TLS is refused, rightly
				c.smtp.Username = ""
			}
			s := newService(t, Config{SMTP: c.smtp})
			err := s.Verification(context.Background(), verification)
			if (err == nil) != c.ok || (len(c.server.taken()) == 1) != c.ok {
				t.Errorf("%v, and %d mails", err, len(c.server.taken()))
			}
			if c.name == "starttls not offered" && (err == nil || !strings.Contains(err.Error(), "set --smtp-tls to opportunistic or none")) {
				t.Errorf("got %v, want an error that names the setting", err)
			}
			if c.ok && c.server.tls != nil && !c.server.said("AUTH") {
				t.Error("it did not log in")
			}
			if !c.ok && c.server.said("AUTH") {
				t.Error("it told the password to who is not trusted")
			}
		})
	}
}

func TestWrongPasswordIsNotTheMailsFault(t *testing.T) {
	certificate, pool := certify(t)
	fake := &server{tls: &tls.Config{Certificates: []tls.Certificate{certificate}}, answers: map[string]string{"AUTH": "535 5.7.8 no"}}
	s := newService(t, Config{SMTP: SMTP{
		Address: fake.start(t), Username: "user", Password: "hush-hush", TLSConfig: &tls.Config{RootCAs: pool},
	}})
	err := s.Verification(context.Background(), verification)
	if err == nil || events.IsPermanent(err) || strings.Contains(err.Error(), "hush") {
		t.Errorf("got %v", err)
	}
}

func certify(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
