package gate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/certificates"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/presence"
	"github.com/motto123/minigate/pkg/proxyprotocol"
	"github.com/motto123/minigate/pkg/tracing"
)

// Config is what a gate needs. Zero values of the settings mean the defaults
// that stand beside them.
type Config struct {
	// TCP and WebSocket are the addresses to listen on for clients, host:port;
	// an empty one is not served.
	TCP       string
	WebSocket string
	// GRPC is the address of the Gate service, for services only.
	GRPC string
	// AdvertiseGRPC is the host:port by which workers reach the Gate service;
	// GRPC where it is empty.
	AdvertiseGRPC string

	// TLS has the certificate that clients see, on all their addresses; without one
	// there is no TLS.
	TLS certificates.Config
	// ProxyFrom are the proxies before the gate: their connections, and no others,
	// begin with a PROXY header that says whose they are.
	ProxyFrom proxyprotocol.Trusted
	// Origins are the web pages that may open a WebSocket. Pages from the host that
	// they connect to always may, and so may clients that are no browsers.
	Origins Origins

	Bus      bus.Bus
	Topology bus.Topology
	// Verify says whose token it is: an error with gRPC's code Unauthenticated
	// refuses the token, any other means that nobody can say now.
	Verify Verifier
	// Presence is told which users are here. Without it nobody can be bound.
	Presence *presence.Store
	// Events takes session.bound and session.closed; nil for none.
	Events Events
	Log    logrus.FieldLogger

	// Tracer makes spans of requests, replies and pushes; nil makes none.
	Tracer *tracing.Tracer
	// TraceClients has a request belong to the trace that its client has named in the
	// handshake, and be kept where that one is. Clients can then fill whatever keeps
	// the traces, so it is for clients that are trusted.
	TraceClients bool

	// Ending hears what the gate gave up at its end, and can hurry that; nil for none.
	Ending *parts.Ending

	// GRPCOptions are given to the gRPC server, for example its credentials.
	GRPCOptions []grpc.ServerOption

	Loops      int // event loops, 256 at the most; one a processor
	Publishers int // publisher shards that the loops share; 1
	Window     int // unconfirmed envelopes a publisher before requests wait; 1

	Heartbeat        time.Duration // how often a client is to send one; 30 s
	HandshakeTimeout time.Duration // 5 s
	RequestTimeout   time.Duration // how long a request may wait for its reply; 10 s
	DrainTimeout     time.Duration // how long requests in flight may still be answered when the gate ends; 5 s
	DrainRate        int           // clients a second that are sent away when the gate ends; 1,000
	DrainLimit       time.Duration // how long that may take: with more clients they are sent away faster; 15 s
	RetryAfter       time.Duration // when the last of them are to come back, after they were sent away; 2 s

	Limits Limits
}

// Limits bound what clients may ask for. Zero values mean the defaults.
type Limits struct {
	Connections         int // in all; 10,000, or what the limit of open files leaves
	ConnectionsPerIP    int // of one client address; 0 is no limit of its own
	InFlight            int // unanswered requests of one session; 64
	RequestsPerSecond   int // of one session, in the mean; 0 is no limit
	Message             int // bytes of one message, 1 KiB to 8 MiB; 1 MiB
	Unfinished          int // bytes of packets and messages that have not come whole yet, and of packets that wait for their turn, of all sessions; 256 MiB, or less, see memoryShare
	WriteQueue          int // bytes that wait for one slow client; 1 MiB
	WriteQueues         int // bytes that wait for all slow clients together, for each up to an eighth of what is left; 256 MiB, or less
	Handshakes          int // tokens that are verified at once; 1,024
	Routes              int // codes in the dictionary; 4,096
	GroupsPerSession    int // 64
	PendingPerPublisher int // bytes of requests that wait for the broker; 16 MiB, or less
}

// Verifier says whose token it is.
type Verifier interface {
	Verify(ctx context.Context, token string, gate string, session uint64) (user int64, err error)
}

// Events publishes an event, and returns when the broker has it.
type Events interface {
	Publish(ctx context.Context, name string, m proto.Message) error
}

const (
	// maxMessage is the most that the protocol allows for one message, and
	// minMessage what every error fits into.
	maxMessage = 8 << 20
	minMessage = 1 << 10
	// maxLoops is how many loops the low bits of a session's id can tell apart.
	maxLoops = loopMask + 1
)

func (c Config) withDefaults() Config {
	setDefault(&c.Loops, min(runtime.GOMAXPROCS(0), maxLoops))
	setDefault(&c.Publishers, 1)
	setDefault(&c.Window, 1)
	setDefault(&c.Heartbeat, 30*time.Second)
	setDefault(&c.HandshakeTimeout, 5*time.Second)
	setDefault(&c.RequestTimeout, 10*time.Second)
	setDefault(&c.DrainTimeout, 5*time.Second)
	setDefault(&c.DrainRate, 1000)
	setDefault(&c.DrainLimit, 15*time.Second)
	setDefault(&c.RetryAfter, 2*time.Second)
	setDefault(&c.Limits.Connections, min(10_000, fileLimit()))
	setDefault(&c.Limits.InFlight, 64)
	setDefault(&c.Limits.Message, 1<<20)
	setDefault(&c.Limits.WriteQueue, 1<<20)
	setDefault(&c.Limits.WriteQueues, memoryShare(256<<20, 8))
	setDefault(&c.Limits.Unfinished, memoryShare(256<<20, 8))
	setDefault(&c.Limits.Handshakes, 1024)
	setDefault(&c.Limits.Routes, 4096)
	setDefault(&c.Limits.GroupsPerSession, 64)
	setDefault(&c.Limits.PendingPerPublisher, memoryShare(16<<20, 16))
	if c.AdvertiseGRPC == "" {
		c.AdvertiseGRPC = c.GRPC
	}
	if c.Topology == (bus.Topology{}) {
		c.Topology = bus.NewTopology("")
	}
	if c.Log == nil {
		c.Log = logrus.StandardLogger()
	}
	return c
}

// fileLimit is how many connections leave the rest of the process a share of the
// files that it may open: that of connections over the limit included.
func fileLimit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxInt
	}
	files := int(min(limit.Cur, math.MaxInt32))
	return max(files*3/4-64, 16)
}

// memoryShare is usual, or where that is less a share of the memory that the process
// is told to keep to (GOMEMLIMIT): what waits in a gate takes up to about twice its
// size, and all that may wait is to fit into half of it.
func memoryShare(usual, parts int64) int {
	return int(max(min(usual, debug.SetMemoryLimit(-1)/parts), leastShare))
}

// leastShare is for one message of the usual size.
const leastShare = 1 << 20

func setDefault[T int | time.Duration](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

func (c Config) validate() error {
	if c.TCP == "" && c.WebSocket == "" {
		return errors.New("gate: no address to listen on: want a TCP or a WebSocket address")
	}
	for name, address := range map[string]string{"tcp": c.TCP, "websocket": c.WebSocket, "grpc": c.GRPC} {
		if address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("gate: %s address: got %q, want host:port: %w", name, address, err)
		}
	}
	if c.Bus == nil {
		return errors.New("gate: no bus")
	}
	if c.Heartbeat < time.Second || c.Heartbeat > time.Hour || c.Heartbeat%time.Second != 0 {
		return fmt.Errorf("gate: heartbeat: got %v, want whole seconds from 1s to 1h", c.Heartbeat)
	}
	for name, v := range map[string]time.Duration{"handshake timeout": c.HandshakeTimeout, "request timeout": c.RequestTimeout, "drain timeout": c.DrainTimeout, "drain limit": c.DrainLimit, "retry after": c.RetryAfter} {
		if v < 10*time.Millisecond || v > time.Hour {
			return fmt.Errorf("gate: %s: got %v, want 10ms to 1h", name, v)
		}
	}
	l := c.Limits
	for name, v := range map[string]int{
		"connections per address": l.ConnectionsPerIP, "requests per second": l.RequestsPerSecond,
	} {
		if v < 0 {
			return fmt.Errorf("gate: %s: got %d, want 0 or more", name, v)
		}
	}
	for name, v := range map[string]int{
		"drain rate": c.DrainRate, "publishers": c.Publishers, "window": c.Window, "connections": l.Connections, "requests in flight": l.InFlight,
		"write queue": l.WriteQueue, "write queues": l.WriteQueues, "unfinished": l.Unfinished, "handshakes": l.Handshakes, "groups per session": l.GroupsPerSession,
		"pending bytes": l.PendingPerPublisher,
	} {
		if v < 1 {
			return fmt.Errorf("gate: %s: got %d, want 1 or more", name, v)
		}
	}
	if c.Loops < 1 || c.Loops > maxLoops {
		return fmt.Errorf("gate: loops: got %d, want 1 to %d", c.Loops, maxLoops)
	}
	if l.Message < minMessage || l.Message > maxMessage {
		return fmt.Errorf("gate: message: got %d bytes, want %d to %d", l.Message, minMessage, maxMessage)
	}
	if l.Routes < 1 || l.Routes > 65535 {
		return fmt.Errorf("gate: routes: got %d, want 1 to 65535", l.Routes)
	}
	return nil
}
