package email

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"sync"
	"time"
)

// mailServer is what is known of it. Who wants to know gets what was found last: the
// server is asked by Run alone, seldom, and not at all while it takes mails.
type mailServer struct {
	every   time.Duration // between two questions
	again   time.Duration // after one that was not answered
	timeout time.Duration // of one

	mu     sync.Mutex
	known  bool      // it has answered once
	next   time.Time // when it is to be asked
	misses int       // questions in a row without an answer
	err    error     // of the last of them
}

// enough is how many questions in a row have to stay without an answer: one may be
// lost to a server that is busy, or is being restarted.
const enough = 2

// maxGreeting bounds what is read of a greeting, in bytes.
const maxGreeting = 4 << 10

func newMailServer() mailServer {
	return mailServer{every: 30 * time.Second, again: 5 * time.Second, timeout: 10 * time.Second}
}

// answered is called when the server has greeted, or has taken a mail.
func (m *mailServer) answered() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known, m.misses, m.err, m.next = true, 0, nil, time.Now().Add(m.every)
}

func (m *mailServer) missed(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.misses, m.err, m.next = min(m.misses+1, enough), err, time.Now().Add(m.again)
}

// wait is how long the server need not be asked.
func (m *mailServer) wait() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Until(m.next)
}

// Health is nil while the mail server is there, and where mails are printed. It asks
// nobody.
func (s *Service) Health() error {
	if s.config.SMTP.Address == "" {
		return nil
	}
	m := &s.server
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.known && m.misses < enough:
		return nil
	case m.err != nil:
		return fmt.Errorf("email: %w", m.err)
	}
	return errors.New("email: the mail server has not answered yet")
}

// Run asks the mail server now and then whether it is there, until ctx ends. There
// has to be one.
func (s *Service) Run(ctx context.Context) error {
	for {
		select {
		case <-time.After(s.server.wait()):
		case <-ctx.Done():
			return nil
		}
		if s.server.wait() > 0 { // it has taken a mail meanwhile
			continue
		}
		asking, cancel := context.WithTimeout(ctx, s.server.timeout)
		err := s.config.SMTP.greets(asking)
		cancel()
		if err == nil {
			s.server.answered()
		} else if ctx.Err() == nil {
			s.server.missed(err)
		}
	}
}

// greets returns nil where the server says that it takes mails (RFC 5321, 3.1). It
// does not log in, and asks for no TLS that does not come first: what is wrong there
// is not over with time, and is said with each mail.
func (c *SMTP) greets(ctx context.Context) error {
	socket, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return fmt.Errorf("connect to the mail server: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	defer func() { _ = socket.Close() }() // nothing was asked of it
	conn := socket
	if c.TLS == Implicit {
		host, _, _ := net.SplitHostPort(c.Address) // checked
		conn = tls.Client(socket, c.tls(host))
	}
	greeting := textproto.NewReader(bufio.NewReader(io.LimitReader(conn, maxGreeting)))
	if _, _, err := greeting.ReadResponse(220); err != nil {
		return fmt.Errorf("the greeting of the mail server %s: %w", c.Address, join(ctx, err))
	}
	_, _ = io.WriteString(conn, "QUIT\r\n") // who hangs up without it is logged by some
	return nil
}
