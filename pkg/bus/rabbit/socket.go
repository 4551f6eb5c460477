package rabbit

import (
	"net"
	"time"
)

// socket gives every write a deadline. amqp091 writes under a lock that its
// closing takes too, so a peer that vanished while its window was full would
// otherwise hold up publishing until TCP gives up, which takes a quarter of an
// hour.
type socket struct {
	net.Conn
	patience time.Duration
}

func newSocket(conn net.Conn, patience time.Duration) *socket {
	return &socket{Conn: conn, patience: patience}
}

func (s *socket) Write(b []byte) (int, error) {
	if err := s.SetWriteDeadline(time.Now().Add(s.patience)); err != nil {
		return 0, err
	}
	return s.Conn.Write(b)
}
