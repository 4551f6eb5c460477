// Package stream keeps a tape in a stream of RabbitMQ 3.10 and later, which is a log
// that many can read from any place, bounded by bytes and age.
//
// It refuses to use the stream protocol, for which the broker would need a plugin and a
// port of its own: what is written and read goes over AMQP.
package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	heartbeat    = 10 * time.Second
	dialTimeout  = 10 * time.Second // for TCP and for the handshakes after it
	callTimeout  = 15 * time.Second // for one request to the broker
	writeTimeout = 10 * time.Second

	pauseFirst = 100 * time.Millisecond
	pauseLast  = 3 * time.Second
)

// checkURL says what is wrong with a broker's URL, without the password in it.
func checkURL(text string) error {
	if strings.TrimSpace(text) == "" {
		return errors.New("tape: the broker URL is empty: want amqp://USER:PASSWORD@HOST:PORT/VHOST")
	}
	if _, err := amqp.ParseURI(text); err != nil {
		if whole := (*url.Error)(nil); errors.As(err, &whole) {
			err = whole.Err
		}
		return fmt.Errorf("tape: broker URL: %w", err)
	}
	return nil
}

// connection is one to the broker, which can be cut: amqp091 waits for answers without
// a limit.
type connection struct {
	*amqp.Connection
	socket net.Conn
}

func connect(ctx context.Context, url, name string) (*connection, error) {
	c := new(connection)
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName(name)
	dialer := net.Dialer{Timeout: dialTimeout}
	var err error
	c.Connection, err = amqp.DialConfig(url, amqp.Config{
		Heartbeat:  heartbeat,
		Properties: properties,
		Dial: func(network, address string) (net.Conn, error) {
			socket, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			// For the handshakes; amqp091 clears it after them.
			if err := socket.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
				return nil, errors.Join(err, socket.Close())
			}
			c.socket = impatient{socket}
			return c.socket, nil
		},
	})
	if err != nil {
		c.cut() // amqp091 leaves it open after some errors
		return nil, fmt.Errorf("tape: connect: %w", err)
	}
	return c, nil
}

// impatient writes with a deadline: amqp091 writes under a lock that its closing takes
// too.
type impatient struct{ net.Conn }

func (c impatient) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// cut ends the connection without a word.
func (c *connection) cut() {
	if c.socket != nil {
		_ = c.socket.Close()
	}
}

// call runs requests to the broker; one that answers none loses the connection.
func (c *connection) call(f func() error) error {
	timer := time.AfterFunc(callTimeout, c.cut)
	defer timer.Stop()
	return f()
}

// close says goodbye to the broker, and returns when all that amqp091 has started has
// ended.
func (c *connection) close() {
	_ = c.CloseDeadline(time.Now().Add(time.Second)) // it is closed all the same
	c.cut()
}

// pause waits before the next attempt, so that all who lost the same broker do not come
// back at once. It returns false where ctx has ended.
func pause(ctx context.Context, attempt int) bool {
	limit := min(pauseLast, pauseFirst<<min(attempt, 5))
	timer := time.NewTimer(limit/2 + rand.N(limit/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// refused says whether the broker has answered with a code.
func refused(err error, code int) bool {
	var answer *amqp.Error
	return errors.As(err, &answer) && answer.Code == code
}

// asError turns the nil of what was closed without a reason into an error.
func asError(e *amqp.Error) error {
	if e == nil {
		return amqp.ErrClosed
	}
	return e
}
