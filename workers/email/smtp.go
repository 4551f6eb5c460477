package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/motto123/minigate/pkg/events"
)

// TLS says how the connection to the SMTP server is made private.
type TLS string

// The kinds of TLS.
const (
	StartTLS      TLS = "starttls"      // the server must offer STARTTLS
	Opportunistic TLS = "opportunistic" // STARTTLS if the server offers it
	Implicit      TLS = "implicit"      // TLS from the first byte, as on port 465
	NoTLS         TLS = "none"
)

var errNoStartTLS = errors.New("the mail server offers no STARTTLS: where that is meant to be so, set --smtp-tls to opportunistic or none")

// SMTP is how to reach the mail server. Each mail has a connection of its own. On
// loopback against aiosmtpd that costs 10 ms a mail, and 9 ms over a connection
// that is kept; far away it costs some round trips more. A kept one needs a pool
// and a probe before each use, and still loses mails to connections that the
// server has just closed. Codes are few, and several are under way at once.
type SMTP struct {
	// Address is host:port; empty sends nothing.
	Address string
	// TLS is StartTLS unless set.
	TLS TLS
	// TLSConfig may hold the authorities to trust; the host's name is verified.
	TLSConfig *tls.Config
	// Username and Password, with the strongest mechanism that the server offers.
	// An empty Username does not log in.
	Username string
	Password string
	// Timeout bounds the sending of one mail; 15 s.
	Timeout time.Duration
	// Hello is the name that we give the server; this host's unless set.
	Hello string
}

func (c *SMTP) check() error {
	if c.TLS == "" {
		c.TLS = StartTLS
	}
	if c.Timeout <= 0 {
		c.Timeout = 15 * time.Second
	}
	_, err := c.client(nil)
	return err
}

// client for one mail; dial opens its connection.
func (c *SMTP) client(dial gomail.DialContextFunc) (*gomail.Client, error) {
	host, text, err := net.SplitHostPort(c.Address)
	if err != nil {
		return nil, fmt.Errorf("email: SMTP server %q: want host:port", c.Address)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || host == "" {
		return nil, fmt.Errorf("email: SMTP server %q: want host:port", c.Address)
	}
	options := []gomail.Option{
		gomail.WithPort(int(port)),
		gomail.WithTimeout(c.Timeout),
		// The connection is closed after the mail: neither is of use, and a RSET
		// that fails after the mail was taken would have it sent again.
		gomail.WithoutNoop(),
		gomail.WithoutRset(),
	}
	switch c.TLS {
	case StartTLS:
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory))
	case Opportunistic:
		options = append(options, gomail.WithTLSPolicy(gomail.TLSOpportunistic))
	case Implicit:
		// Not WithSSL: with a dialer of our own go-mail then takes the connection for
		// plain and logs in by no mechanism. No server offers STARTTLS within TLS.
		options = append(options, gomail.WithTLSPolicy(gomail.TLSOpportunistic))
	case NoTLS:
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	default:
		return nil, fmt.Errorf("email: TLS is %q: want starttls, opportunistic, implicit or none", c.TLS)
	}
	if c.TLSConfig != nil {
		options = append(options, gomail.WithTLSConfig(c.tls(host)))
	}
	if c.Username != "" {
		options = append(options, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover),
			gomail.WithUsername(c.Username), gomail.WithPassword(c.Password))
	}
	if c.Hello != "" {
		options = append(options, gomail.WithHELO(c.Hello))
	}
	if dial != nil {
		options = append(options, gomail.WithDialContextFunc(dial))
	}
	client, err := gomail.NewClient(host, options...)
	if err != nil {
		return nil, fmt.Errorf("email: SMTP: %w", err)
	}
	return client, nil
}

func (c *SMTP) tls(host string) *tls.Config {
	t := &tls.Config{}
	if c.TLSConfig != nil {
		t = c.TLSConfig.Clone()
	}
	if t.ServerName == "" {
		t.ServerName = host
	}
	t.MinVersion = max(t.MinVersion, tls.VersionTLS12)
	return t
}

// send returns nil when the server has taken the mail. An answer of 5xx to the
// mail is permanent; one to our login is not, since the mail is not at fault.
func (c *SMTP) send(ctx context.Context, m *gomail.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	// go-mail heeds the context while it dials only, and leaves the connection
	// open when the greeting fails: so the connection is ours.
	var connection net.Conn
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		var err error
		connection, err = (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil || c.TLS != Implicit {
			return connection, err
		}
		host, _, _ := net.SplitHostPort(c.Address) // checked
		return tls.Client(connection, c.tls(host)), nil
	}
	client, err := c.client(func(dialing context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(dialing, network, address)
		if err == nil {
			context.AfterFunc(ctx, func() { _ = connection.Close() }) // also after the end of send
		}
		return conn, err
	})
	if err != nil {
		return err
	}
	session, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		// go-mail has no error to tell this by; where its text changes, only the
		// hint is lost.
		if c.TLS == StartTLS && strings.Contains(err.Error(), "does not support STARTTLS") {
			err = errNoStartTLS
		}
		return fmt.Errorf("connect to %s: %w", c.Address, join(ctx, err))
	}
	err = client.SendWithSMTPClient(session, m)
	// The mail is with the server; how the connection ends matters to nobody.
	_ = client.CloseWithSMTPClient(session)
	if err == nil || m.IsDelivered() {
		return nil
	}
	var answer *gomail.SendError
	if errors.As(err, &answer) && answer.ErrorCode() >= 500 && answer.ErrorCode() < 600 {
		return events.Permanent(err)
	}
	return join(ctx, err)
}

// join says why the connection was closed under way.
func join(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		return errors.Join(ctx.Err(), err)
	}
	return err
}

func (s *Service) compose(id string, to *mail.Address, c content) (*gomail.Msg, error) {
	m := gomail.NewMsg()
	// As addresses and not as text: go-mail would paste a name between quotes
	// that the name can close.
	m.SetAddrHeaderFromMailAddress(gomail.HeaderFrom, s.from)
	m.SetAddrHeaderFromMailAddress(gomail.HeaderTo, to)
	m.Subject(c.subject)
	if strings.ContainsAny(s.domain, "<> \r\n") {
		return nil, errors.New("email: the sender's domain does not fit into a Message-ID")
	}
	m.SetMessageIDWithValue(s.messageID(id))
	m.SetDateWithValue(s.config.Now())
	// RFC 3834: no out-of-office notes to us.
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetBodyString(gomail.TypeTextPlain, c.text)
	m.AddAlternativeString(gomail.TypeTextHTML, c.html)
	return m, nil
}
