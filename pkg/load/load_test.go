package load

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/motto123/minigate/gate"
	"github.com/motto123/minigate/pkg/worker"
)

func TestAGateThatIsWell(t *testing.T) {
	for over, address := range startGate(t, nil) {
		for _, c := range []struct {
			name string
			cfg  Config
		}{
			{"one", Config{Connections: 1, Duration: 200 * time.Millisecond}},
			{"many", Config{Connections: 64, InFlight: 8, Warmup: 50 * time.Millisecond, Duration: 300 * time.Millisecond}},
			{"one loop", Config{Connections: 8, Loops: 1, Duration: 200 * time.Millisecond}},
			{"rate", Config{Connections: 16, Rate: 2000, Duration: 500 * time.Millisecond}},
			{"think", Config{Connections: 16, Think: 20 * time.Millisecond, Duration: 300 * time.Millisecond}},
			{"no payload", Config{Connections: 4, Payload: -1, Duration: 100 * time.Millisecond}},
			{"payload of three bytes", Config{Connections: 4, Payload: 3, InFlight: 4, Duration: 100 * time.Millisecond}},
			{"fragments", Config{Connections: 2, Payload: 200_000, Duration: 300 * time.Millisecond}},
			{"JSON", Config{Connections: 4, Body: `{"a":1}`, Duration: 100 * time.Millisecond}},
			{"half idle", Config{Connections: 20, Idle: 0.5, Duration: 200 * time.Millisecond}},
			{"two addresses", Config{Connections: 20, Addresses: 2, Duration: 100 * time.Millisecond}},
		} {
			t.Run(over+"/"+c.name, func(t *testing.T) {
				c.cfg.Gates = []string{address}
				r := drive(t, c.cfg)
				if err := r.Failed(); err != nil {
					t.Error(err)
				}
				if r.Connections.Established != c.cfg.Connections || r.Connections.OpenAtEnd != c.cfg.Connections {
					t.Errorf("connections: %+v", r.Connections)
				}
				if r.Requests.Answered == 0 || r.Requests.PerSecond == 0 || r.Requests.Latency.P50 == 0 {
					t.Errorf("requests: %+v", r.Requests)
				}
				if r.Requests.Latency.Max < r.Requests.Latency.P50 || r.Connections.Latency.P50 == 0 {
					t.Errorf("latencies: %+v", r)
				}
			})
		}
	}
}

func TestRateIsKept(t *testing.T) {
	address := startGate(t, nil)["tcp"]
	r := drive(t, Config{Gates: []string{address}, Connections: 10, Rate: 1000, Duration: 2 * time.Second})
	if n := r.Requests.Sent + r.Requests.Unsent; n < 1980 || n > 2010 {
		t.Errorf("%d requests in 2 s, want 2000", n)
	}
}

func TestRequestsAreCounted(t *testing.T) {
	address := startGate(t, nil)["websocket"]
	for _, cfg := range []Config{
		{Connections: 10, Requests: 7, InFlight: 3},
		{Connections: 10, Requests: 7, InFlight: 3, Rate: 1000},
		{Connections: 10, Requests: 7, Think: time.Millisecond},
	} {
		cfg.Gates = []string{address}
		r := drive(t, cfg)
		if r.Requests.Sent != 70 || r.Requests.Answered != 70 || r.Failed() != nil {
			t.Errorf("%+v: sent %d, answered %d, %v", cfg, r.Requests.Sent, r.Requests.Answered, r.Failed())
		}
	}
}

// Heartbeats every second: without them the gate sends everybody away after two
// and a half.
func TestIdleConnectionsStay(t *testing.T) {
	for over, address := range startGate(t, nil) {
		t.Run(over, func(t *testing.T) {
			t.Parallel()
			r := drive(t, Config{Gates: []string{address}, Connections: 200, Idle: 1, Duration: 4 * time.Second})
			if r.Connections.OpenAtEnd != 200 || r.Failed() != nil {
				t.Errorf("%+v, %v", r.Connections, r.Failed())
			}
		})
	}
}

func TestRamp(t *testing.T) {
	address := startGate(t, nil)["tcp"]
	r := drive(t, Config{Gates: []string{address}, Connections: 100, Ramp: 200, Idle: 1, Duration: time.Millisecond})
	if s := r.Connections.Seconds; s < 0.4 {
		t.Errorf("100 connections in %.2f s, want half a second", s)
	}
}

func TestErrorsAreCountedByCode(t *testing.T) {
	for over, address := range startGate(t, nil) {
		for route, code := range map[string]string{"echo.fail": "FAILED_PRECONDITION", "nobody.here": "NOT_FOUND"} {
			r := drive(t, Config{Gates: []string{address}, Connections: 4, Route: route, Requests: 5})
			if r.Requests.Errors[code] != 20 || r.Requests.Answered != 0 || r.Failed() == nil {
				t.Errorf("%s %s: %+v", over, route, r.Requests)
			}
		}
	}
}

func TestWrongAnswersAreSeen(t *testing.T) {
	address := startGate(t, nil)["tcp"]
	r := drive(t, Config{Gates: []string{address}, Connections: 4, Route: "echo.garble", Requests: 5})
	if r.Requests.Wrong != 20 || r.Requests.Answered != 0 || r.Failed() == nil {
		t.Errorf("%+v", r.Requests)
	}
}

func TestRefusedHandshakes(t *testing.T) {
	address := startGate(t, func(c *gate.Config, _ *worker.Worker) { c.Limits.ConnectionsPerIP = 3 })["tcp"]
	r := drive(t, Config{Gates: []string{address}, Connections: 5, Requests: 1})
	if r.Connections.Established != 3 || r.Connections.Failures["handshake answered with 503"] != 2 {
		t.Errorf("%+v", r.Connections)
	}
}

func TestKicksAreCounted(t *testing.T) {
	address := startGate(t, func(c *gate.Config, _ *worker.Worker) { c.Limits.RequestsPerSecond = 5 })["websocket"]
	r := drive(t, Config{Gates: []string{address}, Connections: 2, InFlight: 20, Duration: 300 * time.Millisecond})
	if r.Kicks["rate_limited"] != 2 || r.Connections.OpenAtEnd != 0 || r.Requests.Errors["RESOURCE_EXHAUSTED"] == 0 {
		t.Errorf("%+v", r)
	}
}

// A Notify is answered with an Ack, by the gate.
func TestNotify(t *testing.T) {
	for over, address := range startGate(t, nil) {
		r := drive(t, Config{Gates: []string{address}, Connections: 3, InFlight: 4, Requests: 10, Notify: true})
		if r.Requests.Answered != 30 || r.Failed() != nil {
			t.Errorf("%s: %+v, %v", over, r.Requests, r.Failed())
		}
		r = drive(t, Config{Gates: []string{address}, Connections: 3, Requests: 10, Notify: true, Route: "nobody.here"})
		if r.Requests.Errors["NOT_FOUND"] != 30 {
			t.Errorf("%s: %+v", over, r.Requests)
		}
	}
}

func TestAddresses(t *testing.T) {
	var mu sync.Mutex
	from := make(map[string]int)
	address := peer(t, func(c net.Conn) {
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		mu.Lock()
		from[host]++
		mu.Unlock()
		_, _ = io.Copy(c, c)
	})
	r := drive(t, Config{Gates: []string{"tcp://" + address}, Bare: true, Connections: 9, Addresses: 3, Requests: 1})
	if err := r.Failed(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(from) != 3 || from["127.0.0.1"] != 3 || from["127.0.0.3"] != 3 {
		t.Errorf("connections from %v", from)
	}
	for _, c := range []struct {
		gate              string
		connections, want int
	}{
		{"tcp://127.0.0.1:1", 10_000, 1}, {"tcp://127.0.0.1:1", 10_001, 2}, {"tcp://[::1]:1", 10_001, 1}, {"tcp://192.0.2.1:1", 10_001, 1},
	} {
		l, err := New(Config{Gates: []string{c.gate}, Anywhere: true, Connections: c.connections})
		if err != nil {
			t.Fatal(err)
		}
		if l.cfg.Addresses != c.want {
			t.Errorf("%d connections to %s: from %d addresses, want %d", c.connections, c.gate, l.cfg.Addresses, c.want)
		}
	}
}

func TestOpened(t *testing.T) {
	address := startGate(t, nil)["tcp"]
	l, err := New(Config{Gates: []string{address}, Connections: 5, Idle: 1})
	if err != nil {
		t.Fatal(err)
	}
	if c := l.Opened(); c.Established != 0 {
		t.Errorf("before the beginning: %+v", c)
	}
	background(t, func(ctx context.Context) error { _, err := l.Run(ctx); return err })
	<-l.Connected()
	if c := l.Opened(); c.Established != 5 || c.PerSecond <= 0 || c.Latency.P50 <= 0 {
		t.Errorf("%+v", c)
	}
}

// TestAPersonMayEndIt: what is under way then is still answered, and nothing has failed.
func TestAPersonMayEndIt(t *testing.T) {
	l, err := New(Config{Gates: []string{startGate(t, nil)["tcp"]}, Connections: 16, InFlight: 32})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	r, err := l.Run(ctx)
	if err != nil || !r.Interrupted {
		t.Fatalf("got %+v, %v", r, err)
	}
	if err := r.Failed(); err != nil || r.Requests.Answered == 0 {
		t.Errorf("got %+v, %v", r.Requests, err)
	}
}

// TestWarmUp: each answer that counts is to a request that does.
func TestWarmUp(t *testing.T) {
	r := drive(t, Config{
		Gates: []string{startGate(t, nil)["tcp"]}, Connections: 16, InFlight: 32, Warmup: 200 * time.Millisecond, Duration: 300 * time.Millisecond,
	})
	if q := r.Requests; q.Answered != q.Sent || q.Answered == 0 {
		t.Errorf("%d were sent, and %d answered", q.Sent, q.Answered)
	}
}
