package gate

import (
	"time"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/settings"
)

// Settings declares what of the configuration a person may set.
func (c *Config) Settings(s settings.Set) {
	s.Address(&c.WebSocket, "gate-websocket", "127.0.0.1:7080", true, "where clients connect by WebSocket")
	s.Address(&c.TCP, "gate-tcp", "127.0.0.1:7001", true, "where clients connect by TCP")
	s.Address(&c.GRPC, "gate-grpc", "127.0.0.1:7101", false, "where workers call the gate")
	s.Address(&c.AdvertiseGRPC, "gate-advertise", "", true, "where workers reach gate-grpc, if elsewhere")
	s.Int(&c.Loops, "gate-loops", 0, 0, maxLoops, "event loops; 0 is one a processor")
	s.Int(&c.Publishers, "gate-publishers", 1, 1, 64, "publisher shards")
	s.Int(&c.Window, "gate-window", 1, 1, 1024, "unconfirmed batches of a publisher before requests wait")
	s.Duration(&c.Heartbeat, "heartbeat", 30*time.Second, time.Second, time.Hour, "how often clients send a heartbeat, in whole seconds")
	s.Duration(&c.HandshakeTimeout, "handshake-timeout", 5*time.Second, 10*time.Millisecond, time.Minute, "how long a handshake may take")
	s.Duration(&c.RequestTimeout, "request-timeout", 10*time.Second, 10*time.Millisecond, 10*time.Minute, "how long a request may wait for its reply")
	s.Duration(&c.DrainTimeout, "gate-drain", 5*time.Second, 10*time.Millisecond, time.Hour, "how long requests in flight may still be answered when the gate ends")
	s.Int(&c.DrainRate, "gate-drain-rate", 1000, 1, 1_000_000, "clients a second that are sent away when the gate ends")
	s.Duration(&c.DrainLimit, "gate-drain-limit", 15*time.Second, 10*time.Millisecond, time.Hour, "how long that may take: where there are more clients than gate-drain-rate allows in this time, they are sent away faster")
	s.Duration(&c.RetryAfter, "gate-retry-after", 2*time.Second, 10*time.Millisecond, time.Hour, "when the last of them are told to come back")
	c.TLS.Settings(s)
	c.ProxyFrom.Settings(s)
	c.Origins.Settings(s)
	c.limitSettings(s.Group("Limits"))
}

// TraceSettings declares what of the traces is the gate's.
func (c *Config) TraceSettings(s settings.Set) {
	s.Bool(&c.TraceClients, "trace-clients", false, "have a client's requests belong to the trace that its handshake names, for clients that are trusted")
}

func (c *Config) limitSettings(s settings.Set) {
	l := &c.Limits
	s.Int(&l.Connections, "max-connections", 0, 0, 10_000_000, "connections of a gate; 0 is 10,000, or as many as its open files allow")
	s.Int(&l.ConnectionsPerIP, "max-connections-per-ip", 0, 0, 10_000_000, "connections of one client address; 0 is no limit")
	s.Int(&l.InFlight, "max-in-flight", 64, 1, 65536, "unanswered requests of a connection")
	s.Int(&l.RequestsPerSecond, "max-requests-per-second", 5000, 0, 1_000_000, "requests, notifies and acks of a connection, in the mean; 0 is no limit")
	s.Bytes(&l.Message, "max-message", 1<<20, minMessage, codec.MaxMessage, "one message")
	s.Bytes(&l.Unfinished, "max-unfinished", 0, 0, 1<<34, "packets and messages that have not come whole yet, and those over max-in-flight, of all connections; 0 is 256MiB, or an eighth of GOMEMLIMIT")
	s.Bytes(&l.WriteQueue, "max-write-queue", 1<<20, 4096, 1<<30, "what may wait for a slow client")
	s.Bytes(&l.WriteQueues, "max-write-queues", 0, 0, 1<<36, "what may wait for all slow clients together, for each up to an eighth of what is left; 0 is 256MiB, or an eighth of GOMEMLIMIT")
	s.Bytes(&l.PendingPerPublisher, "max-pending", 0, 0, 1<<30, "requests that wait for the broker, of one publisher; 0 is 16MiB, or a sixteenth of GOMEMLIMIT")
	s.Int(&l.Handshakes, "max-handshakes", 1024, 1, 1_000_000, "tokens that are verified at once, and TLS handshakes")
	s.Int(&l.Routes, "max-routes", 4096, 1, codec.MaxCodes, "codes in the dictionary")
	s.Int(&l.GroupsPerSession, "max-groups", 64, 1, 65536, "groups of a connection")
}
