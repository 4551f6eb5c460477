package rabbit

import (
	"errors"
	"net"
	"sync"
	"time"
)

const (
	socketBuffer = 256 << 10   // bytes that wait to be written; a Write beyond it waits
	socketLinger = time.Second // for what waits when the socket is closed
)

// socket writes in a goroutine of its own. amqp091 flushes after each message
// and each ack; here, what comes while a write is under way goes out with the
// next one. That is a third less time in system calls and a fifth less in all
// (BenchmarkBus/RoundTrip/256), and nothing waits on a timer.
//
// Every write has a deadline: amqp091 writes under a lock that its closing takes
// too, so a peer that vanished while its window was full would otherwise hold
// up publishing until TCP gives up, which takes a quarter of an hour.
type socket struct {
	net.Conn
	patience time.Duration

	mu      sync.Mutex
	change  sync.Cond // of anything below
	waiting []byte
	closed  bool
	err     error // of the first write that failed

	done chan struct{} // closed when the goroutine has ended
}

var errSocketClosed = errors.New("rabbit: socket is closed")

func newSocket(conn net.Conn, patience time.Duration) *socket {
	s := &socket{Conn: conn, patience: patience, done: make(chan struct{})}
	s.change.L = &s.mu
	go s.run()
	return s
}

// Write takes b for writing. An error is that of an earlier write, which has
// ended the connection.
func (s *socket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.waiting) >= socketBuffer && s.err == nil && !s.closed {
		s.change.Wait()
	}
	switch {
	case s.err != nil:
		return 0, s.err
	case s.closed:
		return 0, errSocketClosed
	}
	if len(s.waiting) == 0 {
		s.change.Broadcast()
	}
	s.waiting = append(s.waiting, b...)
	return len(b), nil
}

func (s *socket) run() {
	defer close(s.done)
	defer func() { _ = s.Conn.Close() }() // frees the reader too
	var batch []byte
	for {
		s.mu.Lock()
		for len(s.waiting) == 0 && !s.closed {
			s.change.Wait()
		}
		full := len(s.waiting) >= socketBuffer
		batch, s.waiting = s.waiting, batch[:0]
		if full {
			s.change.Broadcast()
		}
		patience := s.patience
		if s.closed {
			patience = socketLinger
		}
		err := s.SetWriteDeadline(time.Now().Add(patience)) // under the lock: Close shortens it
		s.mu.Unlock()
		if len(batch) == 0 {
			return // closed, and all is written
		}
		if err == nil {
			_, err = s.Conn.Write(batch)
		}
		if err != nil {
			s.mu.Lock()
			s.err = err
			s.change.Broadcast()
			s.mu.Unlock()
			return
		}
		if cap(batch) > 2*socketBuffer {
			batch = nil // a large body does not keep its memory
		}
	}
}

// Close writes what waits, and closes the connection.
func (s *socket) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.change.Broadcast()
		_ = s.SetWriteDeadline(time.Now().Add(socketLinger)) // of the write under way
	}
	s.mu.Unlock()
	<-s.done
	return nil
}

// abort closes the connection at once.
func (s *socket) abort() {
	_ = s.Conn.Close()
	_ = s.Close()
}
