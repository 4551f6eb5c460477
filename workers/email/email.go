// Package email is the service that sends mail: it takes the events
// email.verification and email.password_reset and sends each by SMTP, as text
// and HTML, or prints it where there is no SMTP server.
//
// It refuses to make codes, to know who may have one, and to keep anything: what
// fails for the moment stays in the group's queue, what fails for good is a dead
// letter of pkg/events.
//
// A mail may be sent twice, when the server has taken it and the answer was
// lost. Its Message-ID follows from the event's ID, so that the receiver can tell.
package email

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/events"
	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/proto/emailpb"
)

// Group is the consumer group of this service.
const Group = "email"

// The events that it takes.
const (
	VerificationEvent  = "email.verification"
	PasswordResetEvent = "email.password_reset"
)

// concurrency is how many mails are under way at once, those included that wait
// to be tried again: one slow server must not hold up all others.
const concurrency = 16

// Config is what New needs.
type Config struct {
	// SMTP sends the mails. With an empty Address they are printed to Out.
	SMTP SMTP
	Out  io.Writer
	// From is the sender, such as "minigate <no-reply@example.org>".
	From string
	// Product is the name that the mails speak of; minigate.
	Product string
	Log     logrus.FieldLogger
	// Now is time.Now unless set.
	Now func() time.Time
}

// Service sends mail. Its methods are safe to call at once.
type Service struct {
	config    Config
	from      *mail.Address
	domain    string // of from
	templates map[string]*letter
	server    mailServer
	out       sync.Mutex // one mail at a time on Out
}

// New checks the configuration and parses the templates. It connects to nothing.
func New(c Config) (*Service, error) {
	if c.Product == "" {
		c.Product = "minigate"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		return nil, errors.New("email: no log")
	}
	from, err := mail.ParseAddress(c.From)
	if err != nil {
		return nil, fmt.Errorf("email: sender %q: want an address such as minigate <no-reply@example.org>: %w", c.From, err)
	}
	switch {
	case c.SMTP.Address != "":
		if err := c.SMTP.check(); err != nil {
			return nil, err
		}
	case c.Out == nil:
		return nil, errors.New("email: neither an SMTP server nor a place to print mails to")
	}
	templates, err := parseTemplates()
	if err != nil {
		return nil, err
	}
	_, domain, _ := strings.Cut(from.Address, "@")
	return &Service{config: c, from: from, domain: domain, templates: templates, server: newMailServer()}, nil
}

// Register subscribes to the events, before e runs.
func (s *Service) Register(e *events.Events) {
	events.Subscribe(e, Group, VerificationEvent, s.Verification, events.Concurrency(concurrency))
	events.Subscribe(e, Group, PasswordResetEvent, s.PasswordReset, events.Concurrency(concurrency))
}

// Verification sends the code that proves an address.
func (s *Service) Verification(ctx context.Context, in *emailpb.Verification) error {
	return s.send(ctx, "verification", in)
}

// PasswordReset sends the code that allows a new password.
func (s *Service) PasswordReset(ctx context.Context, in *emailpb.PasswordReset) error {
	return s.send(ctx, "password_reset", in)
}

// job is what both events have.
type job interface {
	GetTo() string
	GetNickname() string
	GetCode() string
	GetExpiresAt() int64
}

func (s *Service) send(ctx context.Context, name string, in job) error {
	id := events.ID(ctx)
	var until time.Time
	if in.GetExpiresAt() != 0 {
		until = time.UnixMilli(in.GetExpiresAt())
		if !s.config.Now().Before(until) {
			s.config.Log.WithFields(tracing.Fields(ctx)).WithFields(logrus.Fields{"mail": name, "id": id, "expired": until}).
				Info("email: not sent, its code has expired")
			return nil
		}
		// The clock is the config's, so that only the distance goes into the context.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, until.Sub(s.config.Now()))
		defer cancel()
	}
	// The bare address: a name, which ParseAddress takes too, comes from Nickname.
	to, err := mail.ParseAddress(in.GetTo())
	if err != nil || to.Address != in.GetTo() {
		return events.Permanent(errors.New("email: the receiver is no address"))
	}
	to.Name = nickname(in.GetNickname())

	content, err := s.templates[name].render(s.config.Product, to.Name, in.GetCode(), until)
	if err != nil {
		return events.Permanent(err)
	}
	if s.config.SMTP.Address == "" {
		return s.print(to, content)
	}
	if id == "" { // published by somebody who gives no IDs
		id = name + " " + in.GetTo() + " " + in.GetCode()
	}
	message, err := s.compose(id, to, content)
	if err != nil {
		return events.Permanent(err)
	}
	if err := s.config.SMTP.send(ctx, message); err != nil {
		return fmt.Errorf("email: send %s: %w", name, err)
	}
	s.server.answered()
	s.config.Log.WithFields(tracing.Fields(ctx)).WithFields(logrus.Fields{"mail": name, "id": id}).Info("email: sent")
	return nil
}

// messageID is the same in every attempt. It holds a hash of the event's ID and
// not the ID, which anyone who publishes can choose.
func (s *Service) messageID(id string) string {
	sum := sha256.Sum256([]byte("email " + id))
	return hex.EncodeToString(sum[:16]) + "@" + s.domain
}

// print writes a mail for people who have no mail server at hand.
func (s *Service) print(to *mail.Address, c content) error {
	var b strings.Builder
	b.WriteString("--- mail ---------------------------------------------------------------\n")
	b.WriteString("To: ")
	if to.Name != "" {
		b.WriteString(to.Name + " ")
	}
	b.WriteString("<" + to.Address + ">\nSubject: " + c.subject + "\n\n")
	b.WriteString(strings.TrimRight(c.text, "\n"))
	b.WriteString("\n------------------------------------------------------------------------\n")
	s.out.Lock()
	defer s.out.Unlock()
	if _, err := io.WriteString(s.config.Out, b.String()); err != nil {
		return fmt.Errorf("email: print: %w", err)
	}
	return nil
}
