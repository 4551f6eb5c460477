// Package client is the Go client of a gate, over TCP or WebSocket: it connects,
// calls routes, notifies, takes pushes in order and acknowledges them, keeps the
// connection alive and says why it ended.
//
// It refuses to reconnect: a Client is one connection and ends with it. Whoever
// wants another one waits for Done, asks Err how long to wait (KickError and
// HandshakeError carry RetryAfter), and dials again with the token; Session is
// what a handshake will name to resume, once gates offer that.
//
// It also refuses to repeat a call: it does not know whether a call whose
// connection was lost has been handled.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/motto123/minigate/codec"
)

// Options of a connection; the zero value is usable.
type Options struct {
	// Token logs the connection in; empty for nobody.
	Token string
	// ClientType is shown in the gate's list of sessions; "go" where it is empty.
	ClientType string
	// NoFragments says that the client takes and sends no fragments, so that a
	// message has at most 64 KiB either way.
	NoFragments bool
	// OnPush is called with each push, in order, from one goroutine. A push with
	// an id is acknowledged when OnPush returns nil; whoever returns an error
	// leaves it unacknowledged. It may call the client, but not Close. Pushes are
	// dropped where it is nil.
	OnPush func(Push) error
	// PushQueue is how many pushes may wait for OnPush; 1,024 where it is 0. While
	// it is full nothing is read, and when OnPush then makes no room for as long
	// as PushPatience, 10 s where it is 0, the connection ends with ErrSlow.
	PushQueue    int
	PushPatience time.Duration
	// WriteQueue is how many bytes may wait to be written before calls wait too;
	// 1 MiB where it is 0.
	WriteQueue int
	// Timeout bounds connecting and handshake together; 10 s where it is 0.
	Timeout time.Duration
	// Dialer opens the TCP connection; nil for net.Dialer.
	Dialer interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	}
}

const (
	version          = "1.0.1"
	readBuffer       = 32 << 10
	defaultMessage   = 1 << 20 // the protocol's limit where the gate says none
	closePatience    = time.Second
	keepWriteBuffer  = 1 << 20
	keepReplyBuffer  = 64 << 10
	keepControlBytes = 4096
)

// ErrClosed is why a client ended that was closed by its owner.
var ErrClosed = errors.New("client: closed")

// ErrSlow is why a client ended whose OnPush did not keep up.
var ErrSlow = errors.New("client: pushes are not handled fast enough")

// ErrSilent is why a client ended that heard nothing for two and a half
// heartbeats.
var ErrSilent = errors.New("client: the gate is silent")

// Client is one connection to a gate. All methods are safe to call at once.
type Client struct {
	opts      Options
	transport transport
	welcome   welcome

	wake   chan struct{} // holds one token: the writer has something to look at
	pushes chan Push
	done   chan struct{} // closed when the connection ends
	wait   sync.WaitGroup
	idle   sync.Pool // of *call

	mu      sync.Mutex
	err     error // why the connection ended; set before done is closed
	calls   map[uint64]*call
	lastID  uint64
	out     []byte        // packets that wait to be written
	control []byte        // WebSocket control frames, which go before them
	room    chan struct{} // closed when out was taken; nil where nobody waits for it
}

// Dial connects to a gate and says hello: address is tcp://host:port, or
// ws://host:port/ws, or wss:// with TLS. The error is a *HandshakeError or a
// *KickError where the gate said no; ctx bounds Dial only, not the connection.
func Dial(ctx context.Context, address string, opts Options) (*Client, error) {
	setDefaults(&opts)
	u, err := parse(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, opts.Timeout)
	defer cancel()

	c := &Client{
		opts:   opts,
		wake:   make(chan struct{}, 1),
		pushes: make(chan Push, opts.PushQueue),
		done:   make(chan struct{}),
		calls:  make(map[uint64]*call),
	}
	if u.Scheme == "tcp" {
		c.transport, err = dialTCP(ctx, u, opts)
	} else {
		c.transport, err = dialWebSocket(ctx, address, opts, c.queueControl)
	}
	if err != nil {
		return nil, fmt.Errorf("client: connect to %s: %w", address, err)
	}
	rest, err := c.shake(ctx)
	if err != nil {
		_ = c.transport.Close() // the handshake's error says more
		return nil, fmt.Errorf("client: handshake with %s: %w", address, err)
	}
	c.wait.Go(func() { c.read(rest) })
	c.wait.Go(c.write)
	c.wait.Go(c.handlePushes)
	return c, nil
}

// parse returns an address that can be dialled.
func parse(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err == nil && u.Hostname() != "" {
		switch {
		case u.Scheme == "tcp" && u.Port() != "", u.Scheme == "ws", u.Scheme == "wss":
			return u, nil
		}
	}
	// What url.Parse says is about URLs, which is not what was forgotten.
	return nil, fmt.Errorf("client: address %q: want tcp://host:port or ws://host:port/ws", address)
}

func setDefaults(o *Options) {
	if o.ClientType == "" {
		o.ClientType = "go"
	}
	if o.PushQueue <= 0 {
		o.PushQueue = 1024
	}
	if o.PushPatience <= 0 {
		o.PushPatience = 10 * time.Second
	}
	if o.WriteQueue <= 0 {
		o.WriteQueue = 1 << 20
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Dialer == nil {
		o.Dialer = &net.Dialer{}
	}
}

// Session is the secret that names this connection to the gate.
func (c *Client) Session() string { return c.welcome.Sys.Session }

// UserID is who the handshake's token belongs to; 0 is nobody. A later login
// does not change it.
func (c *Client) UserID() int64 { return c.welcome.User.ID }

// Dictionary holds the routes that have a code on this connection.
func (c *Client) Dictionary() *codec.ClientDictionary { return &c.welcome.Sys.Dictionary }

// Done is closed when the connection has ended; Err then says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is nil while the connection lives, and then why it ended: a *KickError,
// ErrClosed, ErrSilent, ErrSlow, an error of the network, or one of package
// codec where the gate sent what is no packet or message.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close writes what is queued, for a second at most, closes the connection and
// waits until everything that belongs to it has ended, which includes a running
// OnPush. Calls that wait fail.
func (c *Client) Close() error {
	c.end(ErrClosed)
	// Also for a write that is stuck.
	_ = c.transport.SetDeadline(time.Now().Add(closePatience)) // fails where all is over
	c.wait.Wait()
	return nil
}

// end notes why the connection ends, once, and fails all calls that wait.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	failure := c.failure()
	for id, call := range c.calls {
		delete(c.calls, id)
		call.finish(failure)
	}
	close(c.done)
}
