// Package terminal is a chat in a terminal: it logs in or registers, shows the
// messages of each peer as they come, and sends what is typed. Where its output
// is no terminal it reads and writes plain lines instead, for pipes and tests.
//
// It refuses to keep anything on disk: peers and texts come from the gate, and
// a password is forgotten when Run returns.
package terminal

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"

	"github.com/charmbracelet/x/term"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/chatpb"
)

// Config says where to go and as whom. Gate or Dial is required.
type Config struct {
	// Gate is the address of a gate, as client.Dial takes it; it is shown, too.
	Gate string
	// CA is a PEM file with the authorities of the gate's certificate, the system's
	// where it is empty.
	CA string
	// Dial opens connections; nil dials Gate with package client.
	Dial Dialer
	// Account and Password log in; where one is missing a form asks, which plain
	// lines can not.
	Account  string
	Password string
	// Token is of an earlier login, instead of account and password.
	Token string
	// Register makes the account, with Email, where nobody can log in to it yet;
	// Nickname is what others see, the account where it is empty.
	Register bool
	Email    string
	Nickname string
	// To is the account to open a conversation with at once; on a screen it is
	// waited for where it does not exist yet.
	To string
	// In and Out are standard input and output where they are nil.
	In  io.Reader
	Out io.Writer
}

// Conn is a connection to a gate, or one after the other; *client.Client is one.
type Conn interface {
	// Call fails with an error that package status understands.
	Call(ctx context.Context, route string, in, out proto.Message) error
	// UserID is who the token belonged to that the connection began with.
	UserID() int64
	Done() <-chan struct{}
	Err() error
	Close() error
}

// Dialer opens a connection, logged in where there is a token. Until it ends it
// calls message with each push chat.message, in order, and state when it is lost
// and comes back.
type Dialer func(ctx context.Context, token string, message func(*chatpb.Message), state func(client.State)) (Conn, error)

// DialGate dials a gate with package client, which reconnects. authorities, for
// gates with TLS, may be nil for the system's.
func DialGate(address string, authorities *tls.Config) Dialer {
	return func(ctx context.Context, token string, message func(*chatpb.Message), state func(client.State)) (Conn, error) {
		c, err := client.Dial(ctx, address, client.Options{
			Token: token, ClientType: "terminal", TLS: authorities,
			Reconnect: &client.Reconnect{
				First: firstWait, Longest: longestWait,
				OnState: func(_ *client.Client, s client.State) { state(s) },
			},
			OnPush: func(p client.Push) error {
				if p.Route != "chat.message" {
					return nil
				}
				m := &chatpb.Message{}
				if err := p.Unmarshal(m); err != nil {
					return err
				}
				message(m)
				return nil
			},
		})
		if err != nil {
			return nil, err
		}
		return c, nil
	}
}

// ErrLogin is why Run returns where plain lines are to be exchanged and there
// is neither a token nor account and password to do so with.
var ErrLogin = errors.New("terminal: without a terminal, account and password, or a token, must be given")

// Run chats until ctx ends, the user quits, or, with plain lines, the input
// ends and everything is sent. It returns when everything it started has ended,
// and leaves the terminal as it was.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Dial == nil {
		if err := checkGate(cfg.Gate); err != nil {
			return err
		}
		authorities, err := cfg.authorities()
		if err != nil {
			return err
		}
		cfg.Dial = DialGate(cfg.Gate, authorities)
	}
	if cfg.In == nil {
		cfg.In = os.Stdin
	}
	if cfg.Out == nil {
		cfg.Out = os.Stdout
	}
	if isTerminal(cfg.In) && isTerminal(cfg.Out) {
		return runScreen(ctx, cfg)
	}
	if cfg.Token == "" && (cfg.Account == "" || cfg.Password == "") {
		return ErrLogin
	}
	return runLines(ctx, cfg)
}

// checkGate refuses an address that no attempt to connect would make good.
func checkGate(address string) error {
	const want = "want ws://HOST:PORT/ws or tcp://HOST:PORT, or with TLS wss:// or tls://"
	u, err := url.Parse(address)
	switch {
	case err != nil:
	case u.Hostname() == "":
	case (u.Scheme == "tcp" || u.Scheme == "tls") && u.Port() != "", u.Scheme == "ws", u.Scheme == "wss":
		if _, err := strconv.ParseUint(u.Port(), 10, 16); err == nil || u.Port() == "" {
			return nil
		}
	}
	return fmt.Errorf("terminal: gate: got %q, %s", address, want)
}

func isTerminal(stream any) bool {
	file, ok := stream.(term.File)
	return ok && term.IsTerminal(file.Fd())
}
