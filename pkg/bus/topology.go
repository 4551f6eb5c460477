package bus

import "strings"

// Topology gives the names of exchanges, queues and keys. They stand nowhere
// else. The zero value is not usable: take NewTopology.
type Topology struct {
	prefix string
}

// DefaultPrefix begins the names of an installation that says nothing else.
const DefaultPrefix = "minigate"

// MaxBody is how many bytes of one message RabbitMQ 4 takes. It answers more by closing
// the channel, and so ends what else is under way there.
const MaxBody = 16 << 20

// ReplayGate begins the id of what is no gate but replays what was recorded: it takes
// answers and pushes, and has no clients.
const ReplayGate = "replay-"

// NewTopology returns the names of one installation. Installations with
// different prefixes share a broker without meeting.
func NewTopology(prefix string) Topology {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	return Topology{prefix: prefix}
}

// Prefix is what all names of the installation begin with.
func (t Topology) Prefix() string { return t.prefix }

// RequestExchange carries gate → workers; the key is the route.
func (t Topology) RequestExchange() string { return t.prefix + ".request" }

// ReplyExchange carries workers → gates; the key is GateKey or AllGates.
func (t Topology) ReplyExchange() string { return t.prefix + ".reply" }

// EventExchange carries events and jobs; the key is the event's name.
func (t Topology) EventExchange() string { return t.prefix + ".event" }

// DeadExchange takes what is rejected for good; the key is the queue it was in.
func (t Topology) DeadExchange() string { return t.prefix + ".dead" }

// DeadQueue keeps what the dead exchange takes.
func (t Topology) DeadQueue() string { return t.prefix + ".dead" }

// TapeStream keeps what workers took and answered. It is bound to nothing: they
// publish to it by its name.
func (t Topology) TapeStream() string { return t.prefix + ".tape" }

// MaxDeadBytes bounds the dead queue: beyond it the oldest dead letter goes.
const MaxDeadBytes = 256 << 20

// DeadArguments are the AMQP arguments of the dead queue. Everybody who declares it
// must give the same.
func (t Topology) DeadArguments() map[string]any {
	return map[string]any{"x-max-length-bytes": int64(MaxDeadBytes)}
}

// Exchanges are all exchanges of the installation, durable and of type topic.
func (t Topology) Exchanges() []string {
	return []string{t.RequestExchange(), t.ReplyExchange(), t.EventExchange(), t.DeadExchange()}
}

// GateKey is the reply key of one gate.
func (t Topology) GateKey(gate string) string { return "gate." + gate }

// AllGates is the reply key that every gate hears.
func (t Topology) AllGates() string { return "gate.all" }

// GateQueue is what one gate must write out.
func (t Topology) GateQueue(gate string) string { return t.named("gate." + gate) }

// WorkerQueue is shared by the replicas of a service.
func (t Topology) WorkerQueue(service string) string { return t.named("worker." + service) }

// EventQueue belongs to one group of consumers of an event.
func (t Topology) EventQueue(group, event string) string {
	return t.named("event." + group + "." + event)
}

// ServiceKey is the pattern of all routes of a service.
func (t Topology) ServiceKey(service string) string { return service + ".#" }

// AnnounceKey is the request key with which a gate asks every service to
// announce its routes. A route has no part that begins with a dollar sign.
func (t Topology) AnnounceKey() string { return "$announce" }

// named puts the prefix before a queue's name where it is not the default one,
// so that the names of a common installation stay short.
func (t Topology) named(name string) string {
	if t.prefix == DefaultPrefix {
		return name
	}
	return t.prefix + "." + name
}

// ValidRoute reports whether s is a route: service.method, two or more parts of
// ASCII letters, digits, '_' and '-' between dots, at most 255 bytes. Whatever
// passes is a safe routing key.
func ValidRoute(s string) bool {
	if len(s) == 0 || len(s) > 255 {
		return false
	}
	dots, part := 0, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.':
			if part == 0 {
				return false
			}
			dots, part = dots+1, 0
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
			part++
		default:
			return false
		}
	}
	return dots > 0 && part > 0
}

// Service is the part of a route before its first dot.
func Service(route string) string {
	service, _, _ := strings.Cut(route, ".")
	return service
}
