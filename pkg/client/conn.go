package client

import (
	"context"
	"fmt"
	"net/url"
	"sync"
)

// conn is one connection to a gate, from its handshake to its end.
type conn struct {
	client    *Client
	opts      *Options
	address   string
	transport transport
	welcome   welcome

	wake     chan struct{} // holds one token: the writer has something to look at
	done     chan struct{} // closed when the connection ends
	replaced chan struct{} // closed when the client has the next one
	wait     sync.WaitGroup

	mu      sync.Mutex
	err     error // why the connection ended; set before done is closed
	calls   map[uint64]*call
	lastID  uint64
	out     []byte        // packets that wait to be written
	control []byte        // WebSocket control frames, which go before them
	room    chan struct{} // closed when out was taken; nil where nobody waits for it
}

// connect makes a connection that is not started yet. rest is what came behind
// the handshake.
func (c *Client) connect(ctx context.Context, address string) (made *conn, rest []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	n := &conn{
		client:   c,
		opts:     &c.opts,
		address:  address,
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),
		replaced: make(chan struct{}),
		calls:    make(map[uint64]*call),
	}
	u, err := url.Parse(address)
	if err == nil && (u.Scheme == "tcp" || u.Scheme == "tls") {
		n.transport, err = dialTCP(ctx, u, c.opts)
	} else if err == nil {
		n.transport, err = dialWebSocket(ctx, u, c.opts, n.queueControl)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("client: connect to %s: %w", address, certain(err))
	}
	c.mu.Lock()
	token := c.token
	c.mu.Unlock()
	rest, err = n.shake(ctx, token)
	if err != nil {
		_ = n.transport.Close() // the handshake's error says more
		return nil, nil, fmt.Errorf("client: handshake with %s: %w", address, err)
	}
	return n, rest, nil
}

// start has the connection read and written until it ends.
func (n *conn) start(rest []byte) {
	n.wait.Go(func() { n.read(rest) })
	n.wait.Go(n.write)
}

// ended is why the connection ended; nil while it lives.
func (n *conn) ended() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// end notes why the connection ends, once, and fails all calls that wait for an
// answer.
func (n *conn) end(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return
	}
	n.err = err
	if n.opts.Reconnect == nil {
		n.client.end(err) // before anybody hears of it by a call
	}
	failure := lost(err)
	for id, call := range n.calls {
		delete(n.calls, id)
		call.finish(failure)
	}
	close(n.done)
}
