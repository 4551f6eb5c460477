package load

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/settings"
)

// Config is what New needs. Zero values mean the defaults that stand beside
// them.
type Config struct {
	// Gates are the addresses, ws://HOST:PORT/ws or tcp://HOST:PORT; connections
	// go to each in turn.
	Gates []string
	// Anywhere allows gates that are not on this machine.
	Anywhere bool
	// Token, if any, is given in every handshake.
	Token string

	Connections int     // 1
	Idle        float64 // share of the connections that only send heartbeats; 0
	Ramp        int     // connections that are opened a second; 0 is as fast as it goes
	Addresses   int     // local addresses 127.0.0.x to connect from; 0 is one for every 10,000 connections

	// InFlight is how many requests a connection has unanswered: always, without
	// a Rate, and at the most, with one. 1, or with a Rate 64.
	InFlight int
	// Rate is how many requests a second are to be sent by all connections
	// together, whatever comes back. Latencies then count from when a request was
	// to be sent. 0 sends the next request when one is answered.
	Rate int
	// Think is how long to wait before that.
	Think time.Duration
	// Requests is how many each connection sends before it only sends heartbeats;
	// 0 is no limit.
	Requests int
	// Stay holds the connections until the end also when all have sent theirs.
	Stay bool

	// Notify sends each message as a Notify with an id: its answer is the Ack that
	// the broker has it on its disk.
	Notify bool

	Route   string // echo.echo
	Payload int    // bytes; must come back as they were sent; -1 is none; 200
	// Body, if any, is sent as JSON instead of the payload, and any answer will do.
	Body string

	Warmup   time.Duration // requests that do not count
	Duration time.Duration // and those that do; 0 is until the context ends
	Timeout  time.Duration // of connecting with the handshake, and of what is unanswered at the end; 10 s

	Loops int // event loops; one a processor, 4 at the most

	// Bare leaves out the handshake and takes a Request for an answer: the peer is
	// a server that sends back whatever it gets.
	Bare bool
	// Progress, if set, gets lines for people while it runs. On a Terminal each
	// replaces the one before.
	Progress io.Writer
	Terminal bool
}

const (
	// perAddress is how many connections have one address: the kernel has 28,232
	// ports towards a port of the other side, looks at every second one first, and
	// connects slowly once it has to go through them.
	perAddress  = 10_000
	maxInFlight = 1024
	// maxMessage is what a gate takes unless it is told otherwise, less what
	// stands around the payload.
	maxPayload = 1<<20 - 600
)

// Settings declares the settings of a command.
func (c *Config) Settings(s settings.Set) {
	c.Gates = []string{"ws://127.0.0.1:7080/ws"}
	s.Var(&gateList{&c.Gates, false}, "gate", "gates to connect to, with commas between (ws://HOST:PORT/ws or tcp://HOST:PORT)")
	s.Bool(&c.Anywhere, "anywhere", false, "allow gates that are not on this machine")
	s.Secret(&c.Token, "token", "", "token of an earlier login, for all connections")
	s.Int(&c.Connections, "connections", 256, 1, 10_000_000, "connections in all")
	s.Int(&c.Ramp, "ramp", 0, 0, 1_000_000, "connections that are opened a second; 0 is as fast as it goes")
	s.Var((*share)(&c.Idle), "idle", "share of the connections that only send heartbeats (a number from 0 to 1)")
	s.Int(&c.Addresses, "addresses", 0, 0, 250, "local addresses 127.0.0.x to connect from; 0 is one for every 10000 connections")
	s.Int(&c.InFlight, "in-flight", 0, 0, maxInFlight, "unanswered requests of a connection; 0 is 1, or 64 with a rate")
	s.Int(&c.Rate, "rate", 0, 0, 10_000_000, "requests a second in all, whatever comes back; 0 waits for answers")
	s.Duration(&c.Think, "think", 0, 0, time.Hour, "how long a connection waits before its next request")
	s.Int(&c.Requests, "requests", 0, 0, 1_000_000_000, "requests of a connection; 0 is no limit")
	s.Bool(&c.Stay, "stay", false, "hold the connections until the end also when all have sent their requests")
	s.Bool(&c.Notify, "notify", false, "send Notifies, whose answer is the Ack that the broker has them on its disk")
	s.Text(&c.Route, "route", "echo.echo", "route of the requests")
	s.Bytes(&c.Payload, "payload", 200, 1, maxPayload, "what a request holds, and what its answer must hold too")
	s.Text(&c.Body, "body", "", "JSON to send instead; any answer will do")
	s.Duration(&c.Warmup, "warmup", 2*time.Second, 0, time.Hour, "how long requests do not count yet")
	s.Duration(&c.Duration, "duration", 10*time.Second, 0, 1000*time.Hour, "how long they count; 0s is until it is stopped")
	s.Duration(&c.Timeout, "timeout", 10*time.Second, 10*time.Millisecond, time.Hour, "how long a handshake, and the last answers, may take")
	s.Int(&c.Loops, "loops", 0, 0, 256, "event loops; 0 is one a processor, 4 at the most")
	s.Bool(&c.Bare, "bare", false, "the other side is no gate, and sends back whatever it gets")
}

// gateList is a setting.
type gateList struct {
	v   *[]string
	set bool
}

func (g *gateList) String() string {
	if g.v == nil {
		return ""
	}
	return strings.Join(*g.v, ",")
}
func (g *gateList) Type() string { return "addresses" }
func (g *gateList) Set(text string) error {
	var list []string
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if _, err := parseTarget(part); err != nil {
			return fmt.Errorf("got %q, want ws://HOST:PORT/ws or tcp://HOST:PORT", part)
		}
		list = append(list, part)
	}
	*g.v = list
	return nil
}

// share is a setting.
type share float64

func (f *share) String() string { return fmt.Sprint(float64(*f)) }
func (f *share) Type() string   { return "share" }
func (f *share) Set(text string) error {
	var v float64
	if n, err := fmt.Sscanf(text, "%g", &v); n != 1 || err != nil || v < 0 || v > 1 {
		return fmt.Errorf("got %q, want a number from 0 to 1", text)
	}
	*f = share(v)
	return nil
}

func (c Config) withDefaults() Config {
	setDefault(&c.Connections, 1)
	setDefault(&c.Payload, 200)
	c.Payload = max(c.Payload, 0)
	setDefault(&c.Loops, min(runtime.GOMAXPROCS(0), 4))
	c.Loops = min(c.Loops, max(c.Connections, 1))
	if c.InFlight == 0 {
		c.InFlight = 1
		if c.Rate > 0 {
			c.InFlight = 64
		}
	}
	if c.Route == "" {
		c.Route = "echo.echo"
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	return c
}

func setDefault(v *int, to int) {
	if *v == 0 {
		*v = to
	}
}

// ErrNotLocal: a gate is not on this machine, and Config.Anywhere is not set.
var ErrNotLocal = errors.New("load: the gate is not on this machine (--anywhere allows that)")

func (c Config) validate() error {
	if len(c.Gates) == 0 {
		return errors.New("load: no gate to connect to")
	}
	for _, v := range []struct {
		name           string
		got, low, high int
	}{
		{"connections", c.Connections, 1, 10_000_000}, {"in flight", c.InFlight, 1, maxInFlight},
		{"rate", c.Rate, 0, 10_000_000}, {"ramp", c.Ramp, 0, 1_000_000}, {"addresses", c.Addresses, 0, 250},
		{"requests", c.Requests, 0, 1_000_000_000}, {"payload", c.Payload, 0, maxPayload}, {"loops", c.Loops, 1, 256},
	} {
		if v.got < v.low || v.got > v.high {
			return fmt.Errorf("load: %s: got %d, want %d to %d", v.name, v.got, v.low, v.high)
		}
	}
	for name, d := range map[string]time.Duration{"think": c.Think, "warmup": c.Warmup, "duration": c.Duration, "timeout": c.Timeout} {
		if d < 0 {
			return fmt.Errorf("load: %s: got %v, want 0 or more", name, d)
		}
	}
	switch {
	case !(c.Idle >= 0 && c.Idle <= 1):
		return fmt.Errorf("load: idle: got %v, want a share from 0 to 1", c.Idle)
	case !bus.ValidRoute(c.Route):
		return fmt.Errorf("load: route: got %q, want service.method", c.Route)
	case c.Rate > 0 && c.Think > 0:
		return errors.New("load: think: a rate says already when requests are sent; want one of them")
	case c.Rate > 0 && c.Idle == 1:
		return errors.New("load: rate: all connections are idle")
	case len(c.Body) > maxPayload:
		return fmt.Errorf("load: body: got %d bytes, want %d at the most", len(c.Body), maxPayload)
	}
	return nil
}

// target is one gate.
type target struct {
	address   netip.AddrPort
	host      string
	path      string
	webSocket bool
}

func parseTarget(text string) (target, error) {
	u, err := url.Parse(text)
	if err != nil {
		return target{}, fmt.Errorf("load: gate: %w", err)
	}
	t := target{host: u.Host, path: u.RequestURI(), webSocket: u.Scheme == "ws"}
	if !t.webSocket && u.Scheme != "tcp" || u.Port() == "" || u.User != nil {
		return target{}, fmt.Errorf("load: gate: got %q, want ws://HOST:PORT/ws or tcp://HOST:PORT", text)
	}
	return t, nil
}

// resolve looks the gates up and checks that they may be asked.
func (c Config) resolve() ([]target, error) {
	var targets []target
	for _, text := range c.Gates {
		t, err := parseTarget(text)
		if err != nil {
			return nil, err
		}
		a, err := net.ResolveTCPAddr("tcp", t.host)
		if err != nil {
			return nil, fmt.Errorf("load: gate: %w", err)
		}
		p := a.AddrPort()
		t.address = netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
		if !c.Anywhere && !t.address.Addr().IsLoopback() {
			return nil, fmt.Errorf("%w: %s", ErrNotLocal, text)
		}
		targets = append(targets, t)
	}
	if c.Addresses > 1 && !haveAddresses(targets) {
		return nil, fmt.Errorf("load: addresses: got %d, want 1: the gate is not on 127.0.0.0/8", c.Addresses)
	}
	return targets, nil
}

// haveAddresses reports whether all gates can be reached from any of 127.0.0.x.
func haveAddresses(targets []target) bool {
	return !slices.ContainsFunc(targets, func(t target) bool { return !t.address.Addr().Is4() || !t.address.Addr().IsLoopback() })
}

// addresses is how many local addresses to connect from.
func addresses(c Config, targets []target) int {
	if c.Addresses == 0 && haveAddresses(targets) {
		return min((c.Connections+perAddress-1)/perAddress, 250)
	}
	return max(c.Addresses, 1)
}

// checkFiles says so before half of the connections are there.
func (c Config) checkFiles() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("load: limit of open files: %w", err)
	}
	if need := c.Connections + 2*c.Loops + 32; uint64(need) > uint64(limit.Cur) {
		return fmt.Errorf("load: connections: got %d, and this process may open %d files: want %d connections at the most, or more processes",
			c.Connections, limit.Cur, int(limit.Cur)-2*c.Loops-32)
	}
	return nil
}

// request is the message that is sent again and again.
func (c Config) message() codec.Message {
	m := codec.Message{Type: codec.Request, Data: codec.Protobuf, Route: []byte(c.Route)}
	if c.Notify {
		m.Type = codec.Notify
	}
	if c.Body != "" {
		m.Data, m.Body = codec.JSON, []byte(c.Body)
		return m
	}
	m.Body = make([]byte, c.Payload)
	for i := range m.Body {
		m.Body[i] = 'a' + byte(i%26)
	}
	return m
}
