package bench

import (
	"net"
	"sync"
)

// joined is a connection that writes in a goroutine of its own, so that what is
// written meanwhile goes out with the next system call. amqp091 flushes after
// each message and each ack: a bare round trip without this would be slow for
// reasons that are not RabbitMQ's.
type joined struct {
	net.Conn

	mu      sync.Mutex
	change  sync.Cond // of anything below
	waiting []byte    // bounded by what may be in flight
	closed  bool
	err     error

	done chan struct{}
}

func newJoined(c net.Conn) *joined {
	j := &joined{Conn: c, done: make(chan struct{})}
	j.change.L = &j.mu
	go j.run()
	return j
}

func (j *joined) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil || j.closed {
		return 0, net.ErrClosed
	}
	if len(j.waiting) == 0 {
		j.change.Signal()
	}
	j.waiting = append(j.waiting, b...)
	return len(b), nil
}

func (j *joined) run() {
	defer close(j.done)
	var batch []byte
	for {
		j.mu.Lock()
		for len(j.waiting) == 0 && !j.closed {
			j.change.Wait()
		}
		batch, j.waiting = j.waiting, batch[:0]
		j.mu.Unlock()
		if len(batch) == 0 {
			return // closed, and all is written
		}
		if _, err := j.Conn.Write(batch); err != nil {
			j.mu.Lock()
			j.err = err
			j.mu.Unlock()
			return
		}
	}
}

// Close writes what waits, and closes the connection.
func (j *joined) Close() error {
	j.mu.Lock()
	j.closed = true
	j.change.Signal()
	j.mu.Unlock()
	<-j.done
	return j.Conn.Close()
}
