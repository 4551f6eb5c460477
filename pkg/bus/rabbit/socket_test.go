package rabbit

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// pair returns a socket and its peer.
func pair(t *testing.T, patience time.Duration) (*socket, net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	s := newSocket(a, patience)
	t.Cleanup(func() {
		s.abort()
		_ = b.Close()
	})
	return s, b
}

func TestSocketWritesAllInOrder(t *testing.T) {
	s, peer := pair(t, patience)
	var want bytes.Buffer
	for i := range 2000 {
		want.Write(bytes.Repeat([]byte{byte(i)}, i%700))
	}
	received := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(peer)
		received <- all
	}()
	for rest := want.Bytes(); len(rest) > 0; {
		n := min(len(rest), 123)
		if _, err := s.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, received, "the peer"); !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes arrived, want the %d that were written", len(got), want.Len())
	}
	if _, err := s.Write([]byte("late")); err == nil {
		t.Error("a write on a closed socket is no error")
	}
}

// TestSocketIsBounded: a peer that takes nothing holds up Write, until the
// deadline ends the connection.
func TestSocketIsBounded(t *testing.T) {
	s, peer := pair(t, 200*time.Millisecond)
	chunk := make([]byte, 16<<10)
	written := 0
	for {
		n, err := s.Write(chunk)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("write: %v, want %v", err, os.ErrDeadlineExceeded)
			}
			break
		}
		if written += n; written > 3*socketBuffer {
			t.Fatalf("%d bytes are taken and nobody reads", written)
		}
	}
	if _, err := peer.Read(chunk); !errors.Is(err, io.EOF) {
		t.Errorf("the peer reads %v, want the end", err)
	}
}

func TestSocketAbortFreesWriter(t *testing.T) {
	s, _ := pair(t, patience)
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := s.Write(make([]byte, 64<<10)); err != nil {
				failed <- err
				return
			}
		}
	}()
	s.abort()
	wait(t, failed, "the writer to be freed")
}
