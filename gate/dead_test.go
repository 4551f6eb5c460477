package gate

import (
	"net/netip"
	"testing"

	"github.com/gobwas/ws"
)

// TestGoneWhileAnswering: a client that is gone when the gate answers it for the last
// time. Nothing of its connection is touched after that.
func TestGoneWhileAnswering(t *testing.T) {
	upgrade := upgradeRequest(webSocketPath)
	for name, x := range map[string]struct {
		sent   string
		failIn int
	}{
		"not found":   {"GET /other HTTP/1.1\r\n\r\n", 1},
		"no upgrade":  {"GET /ws HTTP/1.1\r\n\r\n", 1},
		"upgrade":     {upgrade, 1},
		"text frame":  {upgrade + string(frameBytes(ws.OpText, nil, nil)), 2},
		"close frame": {upgrade + string(frameBytes(ws.OpClose, nil, nil)), 2},
		"ping":        {upgrade + string(frameBytes(ws.OpPing, nil, nil)), 2},
		"kick":        {upgrade + string(frameBytes(ws.OpBinary, []byte{9}, nil)), 2},
	} {
		t.Run(name, func(t *testing.T) {
			_, l := newFake(t, nil, never)
			address := netip.AddrFrom4([4]byte{127, 0, 0, 1})
			_, counted := l.gate.admit(address)
			c := new(fakeConn)
			c.failIn = x.failIn
			w := &webSocket{stream: c}
			s := newSession(l, w, overWebSocket, address)
			s.counted, w.session, c.session = counted, s, s
			w.received([]byte(x.sent))
			l.flush()
			if s.state != closed {
				t.Errorf("the session is in state %d", s.state)
			}
			leftNothing(t, l)
		})
	}
}
