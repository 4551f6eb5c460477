package terminal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/proto/authpb"
)

// DefaultGate is where clients look for a gate unless told.
const DefaultGate = "ws://127.0.0.1:7080/ws"

// Command is minigate chat, and minigate call, which sends one request.
type Command struct {
	Config
	Timeout time.Duration
}

// ClientSettings declares the settings of every command that is a client.
func (c *Command) ClientSettings(s settings.Set) {
	s = s.Group("Client")
	s.Text(&c.Gate, "gate", DefaultGate, "the gate, ws://HOST:PORT/ws or tcp://HOST:PORT, or with TLS wss:// and tls://")
	s.Text(&c.CA, "ca", "", "PEM file with the authorities of the gate's certificate; nothing is those of the system")
	s.Text(&c.Account, "account", "", "account to log in with")
	s.Secret(&c.Password, "password", "", "password to log in with")
	s.Secret(&c.Token, "token", "", "token of an earlier login, instead of account and password")
}

// CallSettings declares what call has besides.
func (c *Command) CallSettings(s settings.Set) {
	s = s.Group("Client")
	s.Duration(&c.Timeout, "timeout", 15*time.Second, time.Millisecond, time.Hour, "how long connecting and the request may take together")
}

// ChatSettings declares what chat has besides.
func (c *Command) ChatSettings(s settings.Set) {
	s = s.Group("Chat")
	s.Bool(&c.Register, "register", false, "make the account first, if it does not exist")
	s.Text(&c.Email, "email", "", "e-mail address of a new account")
	s.Text(&c.Nickname, "nickname", "", "name of a new account that others see")
	s.Text(&c.To, "to", "", "account to chat with")
}

// Chat chats until the user quits.
func (c *Command) Chat(ctx context.Context, _ []string) error { return Run(ctx, c.Config) }

// Call sends a request to a route, with JSON where there is a second argument,
// and prints the answer.
func (c *Command) Call(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	body := []byte("{}")
	if len(args) > 1 {
		body = []byte(args[1])
		if !json.Valid(body) {
			return fmt.Errorf("call: got %q, want JSON", args[1])
		}
	}
	authorities, err := c.authorities()
	if err != nil {
		return err
	}
	gate, err := client.Dial(ctx, c.Gate, client.Options{Token: c.Token, ClientType: "call", TLS: authorities})
	if err != nil {
		return err
	}
	if c.Account != "" {
		in := &authpb.LoginRequest{Account: c.Account, Password: c.Password, Device: "minigate call"}
		if err := gate.Call(ctx, "auth.login", in, new(authpb.LoginResponse)); err != nil {
			return errors.Join(fmt.Errorf("log in: %w", err), gate.Close())
		}
	}
	reply, err := gate.CallRaw(ctx, args[0], codec.JSON, "", body)
	if err == nil {
		_, err = fmt.Fprintf(os.Stdout, "%s\n", reply.Body)
	}
	return errors.Join(err, gate.Close())
}

// authorities is the configuration of TLS, nil for the system's authorities.
func (c *Config) authorities() (*tls.Config, error) {
	if c.CA == "" {
		return nil, nil
	}
	b, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("authorities: %s has no certificate", c.CA)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}
