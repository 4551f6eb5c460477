// Package client is the Go client of a gate, over TCP or WebSocket: it connects,
// calls routes, notifies, takes pushes in order and acknowledges them, keeps the
// connection alive and says why it ended. With Options.Reconnect it connects
// again by itself, logged in by its token.
//
// It refuses to repeat a call: it does not know whether a call whose connection
// was lost has been handled. Such a call fails with ErrLost, and its caller
// decides. Only what a gate that ends says it has not taken is sent again.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/motto123/minigate/codec"
)

// Options of a connection; the zero value is usable.
type Options struct {
	// Token logs the connection in; empty for nobody. SetToken has another one.
	Token string
	// Reconnect has the client connect again by itself; where it is nil the client
	// is one connection and ends with it.
	Reconnect *Reconnect
	// ClientType is shown in the gate's list of sessions; "go" where it is empty.
	ClientType string
	// TraceParent is a trace that the requests of each connection belong to, as W3C's
	// Trace Context writes it: for who looks where the time of a few requests goes. It
	// is part of the handshake, and so the same for all of them. Gates take it only
	// where they are told that they may.
	TraceParent string
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
	// Timeout bounds connecting and handshake together, of each attempt; 10 s where
	// it is 0.
	Timeout time.Duration
	// Dialer opens the TCP connection; nil for net.Dialer.
	Dialer interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	}
	// TLS is the configuration for tls:// and wss://; nil for the system's
	// authorities. Its ServerName is the address's host where it is empty. A gate whose
	// certificate is not trusted is an error of Dial, and not tried again; Reconnect
	// says what becomes of one that is not trusted any more.
	TLS *tls.Config
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

// ErrSlow is why a connection ended whose OnPush did not keep up.
var ErrSlow = errors.New("client: pushes are not handled fast enough")

// ErrSilent is why a connection ended that heard nothing for two and a half
// heartbeats.
var ErrSilent = errors.New("client: the gate is silent")

// Client is a connection to a gate, and with Options.Reconnect those that follow
// it. All methods are safe to call at once.
type Client struct {
	opts      Options
	addresses []string

	current atomic.Pointer[conn] // the newest one, which may have ended
	waiting atomic.Int32         // calls that wait for the next one
	pushes  chan received
	states  chan State    // holds the newest that was not told yet
	done    chan struct{} // closed when the client ends
	wait    sync.WaitGroup
	idle    sync.Pool // of *call

	context context.Context // ends with the client; of attempts to connect
	cancel  context.CancelFunc

	mu    sync.Mutex
	token string
	err   error // why the client ended; set before done is closed
}

// Dial connects to a gate and says hello: address is tcp://host:port, or
// ws://host:port/ws; with TLS tls:// and wss://. The error is a *HandshakeError or a
// *KickError where the gate said no, and wraps ErrCertificate where its certificate is
// not trusted; ctx bounds Dial only, not the connection.
//
// With Options.Reconnect it tries each address once, until one takes it: a client
// reconnects when it was connected before.
func Dial(ctx context.Context, address string, opts Options) (*Client, error) {
	setDefaults(&opts)
	c := &Client{
		opts:      opts,
		addresses: []string{address},
		pushes:    make(chan received, opts.PushQueue),
		states:    make(chan State, 1),
		done:      make(chan struct{}),
		token:     opts.Token,
	}
	if r := opts.Reconnect; r != nil {
		c.addresses = append(c.addresses, r.Addresses...)
	}
	for _, address := range c.addresses {
		if _, err := parse(address); err != nil {
			return nil, err
		}
	}
	conn, rest, place, err := c.first(ctx)
	if err != nil {
		return nil, err
	}
	c.context, c.cancel = context.WithCancel(context.Background())
	c.current.Store(conn)
	conn.start(rest)
	c.wait.Go(c.handlePushes)
	if opts.Reconnect != nil {
		c.startKeeping(conn, place)
	}
	return c, nil
}

// first connects to the first address that takes it; place is which.
func (c *Client) first(ctx context.Context) (conn *conn, rest []byte, place int, err error) {
	var failed []error
	for place, address := range c.addresses {
		conn, rest, err := c.connect(ctx, address)
		if err == nil {
			return conn, rest, place, nil
		}
		failed = append(failed, err)
		if final(err) || ctx.Err() != nil {
			break
		}
	}
	if len(failed) == 1 {
		return nil, nil, 0, failed[0]
	}
	return nil, nil, 0, errors.Join(failed...)
}

// parse returns an address that can be dialled.
func parse(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err == nil && u.Hostname() != "" {
		switch {
		case (u.Scheme == "tcp" || u.Scheme == "tls") && u.Port() != "", u.Scheme == "ws", u.Scheme == "wss":
			return u, nil
		}
	}
	// What url.Parse says is about URLs, which is not what was forgotten.
	return nil, fmt.Errorf("client: address %q: want tcp://host:port or ws://host:port/ws, or with TLS tls:// or wss://", address)
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
	if o.Reconnect != nil {
		r := *o.Reconnect // the caller's own stays as it is
		r.setDefaults()
		o.Reconnect = &r
	}
}

// Session is the secret that names the newest connection to its gate.
func (c *Client) Session() string { return c.current.Load().welcome.Sys.Session }

// UserID is who the token belongs to that the newest connection began with; 0 is
// nobody. A later login does not change it.
func (c *Client) UserID() int64 { return c.current.Load().welcome.User.ID }

// Dictionary holds the routes that have a code on the newest connection.
func (c *Client) Dictionary() *codec.ClientDictionary {
	return &c.current.Load().welcome.Sys.Dictionary
}

// SetToken has the following connections logged in by another token; empty is
// for nobody. It changes nothing on the connection that is there. The client
// itself remembers the token that a call of auth.login is answered with, and
// forgets it with auth.logout.
func (c *Client) SetToken(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = token
}

// Done is closed when the client has ended, which one that reconnects does only
// when it is closed or may not come back; Err then says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is nil while the client lives, and then why it ended: ErrClosed, a
// *KickError, ErrSilent, ErrSlow, ErrProtocol, which may wrap an error of package
// codec, or an error of the network. Of a client that
// reconnects it may wrap a *HandshakeError, too: of code 401 where the token is
// not good any more; and ErrCertificate.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close writes what is queued, for a second at most, closes the connection and
// waits until everything that belongs to it has ended, which includes a running
// OnPush or OnState. Calls that wait fail.
func (c *Client) Close() error {
	c.end(ErrClosed)
	// No connection comes after this one: see adopt.
	conn := c.current.Load()
	conn.end(ErrClosed)
	// Also for a write that is stuck.
	_ = conn.transport.SetDeadline(time.Now().Add(closePatience)) // fails where all is over
	conn.wait.Wait()
	c.wait.Wait()
	return nil
}

// end notes why the client ends, once.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	c.cancel()
	close(c.done)
}
