package gate

import (
	"testing"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
)

// TestALargePushDoesNotPileUp: what pushes leave to the end of a turn has a bound,
// however many they are for; everybody gets them, whole and once.
func TestALargePushDoesNotPileUp(t *testing.T) {
	const n, size = 500, 60_000
	_, l := newFake(t, nil, inline)
	written := make(map[*session]int)
	left, most := 0, 0
	for i := range n {
		s, c := l.fakeSession()
		s.received(packet(codec.Handshake, 0, []byte(hi(""))))
		l.flush()
		c.wrote = func(b []byte) {
			written[s] += len(b)
			left -= len(b)
		}
		if i%7 == 0 { // who is gone takes nobody else with them
			c.wrote, c.failIn = nil, 1
		}
		if i%2 == 0 {
			l.join(s, "room")
		}
	}
	for _, r := range []*bus.Reply{
		{Everyone: true, Route: "a.push", Data: make([]byte, size)},
		{Group: "room", Route: "a.push", Data: make([]byte, size)},
	} {
		clear(written)
		var cache pushCache
		l.push(r, &cache)
		left = 0
		for s := range l.sessions {
			left += len(l.sessions[s].out)
		}
		most = max(most, left)
		l.flush()
		for s, bytes := range written {
			if bytes < size || bytes > size+100 {
				t.Errorf("session %d got %d bytes of a push of %d", s.id, bytes, size)
			}
		}
		if len(written) < n/3 {
			t.Errorf("%d sessions got the push", len(written))
		}
	}
	if most > pushedBytes+2*size || most == 0 {
		t.Errorf("%d bytes wait for the end of the turn, want no more than %d", most, pushedBytes)
	}
}

// TestWhoIsGoneDoesNotWait: sessions that close while their publisher takes nothing
// are not kept until it does.
func TestWhoIsGoneDoesNotWait(t *testing.T) {
	_, l := newFake(t, nil, inline)
	l.congested = true
	stays, kept := l.fakeSession()
	stays.received(packet(codec.Handshake, 0, []byte(hi(""))))
	if !stays.hasToWait() {
		t.Fatal("it need not wait")
	}
	for range 10_000 {
		s, c := l.fakeSession()
		s.received(packet(codec.Handshake, 0, []byte(hi(""))))
		s.hasToWait()
		c.close()
	}
	if len(l.held) > 10 {
		t.Errorf("%d sessions wait, of which one is open", len(l.held))
	}
	resumed := kept.resumed
	l.congested = false
	l.resumeHeld()
	if kept.resumed == resumed || len(l.held) != 0 {
		t.Errorf("the one that is open was not resumed, or %d still wait", len(l.held))
	}
}
