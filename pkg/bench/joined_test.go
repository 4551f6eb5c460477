package bench

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// What is written is there, in order, also what waits when the connection is
// closed.
func TestJoined(t *testing.T) {
	near, far := net.Pipe()
	j := newJoined(near)
	got := make(chan string, 1)
	go func() { b, _ := io.ReadAll(far); got <- string(b) }()
	var want strings.Builder
	for i := range 100 {
		part := strings.Repeat(string(rune('a'+i%26)), i)
		want.WriteString(part)
		if n, err := j.Write([]byte(part)); n != i || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if g := <-got; g != want.String() {
		t.Errorf("got %q", g)
	}
	if _, err := j.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// A connection that is cut is an error for who writes, and can be closed.
func TestJoinedIsCut(t *testing.T) {
	near, far := net.Pipe()
	j := newJoined(near)
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Write([]byte("to nobody")); err != nil {
		t.Fatal(err)
	}
	<-j.done
	if _, err := j.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}
