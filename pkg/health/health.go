// Package health asks the process in this container whether it is ready, for
// health checks where there is no shell and no HTTP client.
//
// It refuses to judge: ready is what the process itself says on its admin
// address, under /readyz.
package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/motto123/minigate/pkg/settings"
)

// ErrNotReady is what Check wraps when the process answered that it is not ready.
var ErrNotReady = errors.New("not ready")

// DefaultAddress is where a process is asked unless told.
const DefaultAddress = "127.0.0.1:7180"

// maxReason bounds what is read of an answer, in bytes.
const maxReason = 4096

// Command is minigate health.
type Command struct {
	// Address is the admin address of the process, as the process has it: one
	// without a host, or with one that means all of them, is asked on loopback.
	Address string
	// Timeout bounds the question and its answer.
	Timeout time.Duration
}

// Settings declares what a person may set.
func (c *Command) Settings(s settings.Set) {
	s.Address(&c.Address, "admin", DefaultAddress, false, "admin address of the process that is asked")
	s.Duration(&c.Timeout, "health-timeout", 3*time.Second, 10*time.Millisecond, time.Minute, "how long its answer may take")
}

// Run prints what the process says of itself where it is ready, and otherwise
// returns why not.
func (c *Command) Run(ctx context.Context, _ []string) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	said, err := Check(ctx, c.Address)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	fmt.Println(said)
	return nil
}

// Check asks a process on its admin address and returns what it said. The error
// wraps ErrNotReady where it answered that it is not ready, and has its reason.
func Check(ctx context.Context, address string) (string, error) {
	address, err := local(address)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", address, err)
	}
	// No proxy of the environment, and nothing that is kept for a next time.
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause // and not also the URL
		}
		return "", fmt.Errorf("ask %s whether it is ready: %w", address, err)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxReason))
	if closed := answer.Body.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return "", fmt.Errorf("read the answer of %s: %w", address, err)
	}
	said := strings.TrimSpace(string(body))
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w: %s says %d: %s", ErrNotReady, address, answer.StatusCode, said)
	}
	if said == "" {
		said = "ready"
	}
	return said, nil
}

// local is how a process is reached from its own machine that listens on address.
func local(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("admin address %q: want host:port: %w", address, err)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.Is6() {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port), nil
}
