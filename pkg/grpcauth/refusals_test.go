package grpcauth

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/logging/loggingtest"
)

// TestRefusalsAreBounded: a service that tries again and again, and one that makes
// up reasons, fill neither the log nor the memory.
func TestRefusalsAreBounded(t *testing.T) {
	log, l := loggingtest.New()
	now := time.Now()
	r := newRefusals(log)
	r.now = func() time.Time { return now }
	peer := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}
	for range 100 {
		r.log(peer, "/a/b", errNoToken, nil)
		peer.Port++
	}
	if n := strings.Count(l.Take(), "refused"); n != 1 {
		t.Errorf("got %d lines, want 1", n)
	}
	r.log(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 2)}, "/a/b", errNoToken, nil)
	r.log(peer, "/a/b", errWrongToken, nil)
	if n := strings.Count(l.Take(), "refused"); n != 2 {
		t.Errorf("another host and another reason: got %d lines, want 2", n)
	}
	now = now.Add(quiet)
	r.log(peer, "/a/b", errNoToken, nil)
	if got := l.Take(); !strings.Contains(got, "more=99") {
		t.Errorf("got %s, want more=99", got)
	}
	for i := range 10 * maxRefusals {
		r.log(peer, "", errors.New(strings.Repeat("x", i)), nil)
	}
	if len(r.seen) > maxRefusals+1 {
		t.Errorf("%d reasons are remembered", len(r.seen))
	}
	if got := l.Take(); len(got) > maxRefusals*1024 {
		t.Errorf("the log has %d bytes", len(got))
	}
	now = now.Add(quiet)
	r.log(nil, "", errNoToken, nil)
	if got := l.Take(); !strings.Contains(got, "peer=unknown") || len(r.seen) > 2 {
		t.Errorf("got %s, and %d are remembered", got, len(r.seen))
	}
}
