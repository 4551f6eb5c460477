package load

import (
	"io"
	"net"
	"testing"
	"time"
)

// A gate that stalls for a second makes everybody wait whose request was due in
// that second, and not only the few whose requests were on their way: half of
// all requests in two seconds wait, a quarter of them half a second or more.
func TestLatenciesCountFromWhenARequestWasDue(t *testing.T) {
	const stall = time.Second
	address := peer(t, func(c net.Conn) {
		buffer := make([]byte, 64<<10)
		stalled := false
		began := time.Now()
		for {
			n, err := c.Read(buffer)
			if err != nil {
				return
			}
			if !stalled && time.Since(began) > 400*time.Millisecond {
				stalled = true
				<-time.NewTimer(stall).C
			}
			if _, err := c.Write(buffer[:n]); err != nil {
				return
			}
		}
	})
	r := drive(t, Config{
		Gates: []string{"tcp://" + address}, Bare: true,
		Connections: 4, InFlight: 4, Rate: 1000, Duration: 2 * time.Second,
	})
	if err := r.Failed(); err != nil {
		t.Error(err)
	}
	if n := r.Requests.Sent; n < 1980 || n > 2010 {
		t.Errorf("sent %d requests, want 2000", n)
	}
	l := r.Requests.Latency
	if l.Max < 950 || l.P90 < 500 {
		t.Errorf("latencies: %v; want those of half of the requests up to a second", l)
	}
}

// What a gate never answers counts with the time that it has waited.
func TestWhatIsNeverAnswered(t *testing.T) {
	address := peer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	r := drive(t, Config{
		Gates: []string{"tcp://" + address}, Bare: true, Timeout: 100 * time.Millisecond,
		Connections: 2, InFlight: 5, Rate: 1000, Duration: 300 * time.Millisecond,
	})
	q := r.Requests
	if q.Unanswered != 10 || q.Answered != 0 || q.Unsent < 250 || q.Unsent > 295 {
		t.Errorf("%+v", q)
	}
	if q.Latency.P50 < 50 || q.Latency.Max < 300 {
		t.Errorf("latencies: %v", q.Latency)
	}
	if r.Failed() == nil {
		t.Error("nothing wrong with that?")
	}
}

// A connection that is lost takes what was unanswered on it along.
func TestLostConnections(t *testing.T) {
	address := peer(t, func(c net.Conn) {
		buffer := make([]byte, 4<<10)
		for range 3 {
			n, err := c.Read(buffer)
			if err != nil {
				return
			}
			if _, err := c.Write(buffer[:n]); err != nil {
				return
			}
		}
		_, _ = c.Read(buffer)
	})
	r := drive(t, Config{Gates: []string{"tcp://" + address}, Bare: true, Connections: 3, Duration: patience})
	if r.Connections.OpenAtEnd != 0 || r.Requests.Answered != 9 || r.Requests.Unanswered != 3 || total(r.Connections.Disconnects) != 3 {
		t.Errorf("%+v", r)
	}
}

func TestNobodyIsThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	load, err := New(Config{Gates: []string{"tcp://" + address}, Connections: 3})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := load.Run(t.Context()); err == nil {
		t.Errorf("no error, and %+v", r)
	}
}

// Who accepts and never says anything is given up.
func TestSilentHandshake(t *testing.T) {
	address := peer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	for _, scheme := range []string{"tcp://", "ws://"} {
		load, err := New(Config{Gates: []string{scheme + address + "/ws"}, Connections: 2, Timeout: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := load.Run(t.Context()); err == nil {
			t.Errorf("no error, and %+v", r)
		}
	}
}
