// Package gate holds clients' connections and passes their messages on: it
// publishes every decoded request under its route, and writes out what comes
// back through its own queue.
//
// It refuses to know any service: which routes exist is the broker's affair, and
// who may do what the workers'. It imports no worker.
package gate

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/certificates"
	"github.com/motto123/minigate/pkg/grpcserver"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/presence"
	"github.com/motto123/minigate/proto/gatepb"
)

// Gate is one gate. Run it once.
type Gate struct {
	cfg Config
	id  string
	log logrus.FieldLogger

	silence       time.Duration // after which a client is taken for gone
	timeoutMillis int64
	dictionary    *codec.Dictionary
	dictCache     atomic.Pointer[dictionaryJSON]
	users         *users
	shards        []*bus.Coalescer[ref]
	stats         Stats
	measures      *measures

	certificates *certificates.Files // nil without TLS
	tls          *tls.Config

	loops []*loop // all of them, before anything else runs

	limits struct {
		sync.Mutex
		connections int
		of          map[netip.Addr]int
	}

	unfinished atomic.Int64 // bytes of what has not come whole yet, or waits for its turn
	unsent     atomic.Int64 // bytes that wait for slow clients
	slow       atomic.Int64 // clients that they wait for
	draining   atomic.Bool
	cutting    atomic.Bool  // there is no more time for requests
	secure     atomic.Int64 // TLS handshakes under way

	droppedBefore atomic.Int64 // events that were dropped before the gate's end

	refusedAt     atomic.Int64 // when one was logged, as sinceBegan
	refusedUnsaid atomic.Int64 // how many were not

	handshakes  chan struct{} // a place for each token that is being verified
	verifiers   sync.WaitGroup
	events      chan event
	publishings publishings // that are traced
	done        chan settledDelivery

	base  context.Context // of what outlives a call: ends with the gate
	began time.Time       // the loops count from here: no change of the clock moves that
	ready chan struct{}
	ended chan struct{} // closed when no loop runs any more

	canReply  atomic.Bool   // the gate's queue is there: a reply would not be lost
	consuming chan struct{} // closed when replies can come for the first time
	consumes  sync.Once
	askAgain  atomic.Bool // services did not hear that this gate wants their routes
}

type dictionaryJSON struct {
	n    int
	json []byte
}

type settledDelivery struct {
	bus.Delivery
	ok bool
}

const (
	// The low bits of a session's id are its loop's number.
	loopMask = 0xff
	// prefetch is how many envelopes of replies may be unacked.
	prefetch = 128
	// keepQueue is how long a gate's queue outlives its consumer.
	keepQueue = time.Minute
	// maxReplyQueue bounds what waits in the broker for a gate that is stuck.
	maxReplyQueue = 256 << 20
	// lingerTime is how long clients have to go when the gate ends. It is over the
	// linger of a session. stopTime is what running gRPC calls get.
	lingerTime = 3 * time.Second
	stopTime   = 5 * time.Second
	// repliesTime is how long the gate waits for its queue before it takes clients.
	repliesTime = 2 * time.Second
)

// New checks cfg and starts nothing.
func New(cfg Config) (*Gate, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	dictionary, err := codec.NewDictionary(cfg.Limits.Routes)
	if err != nil {
		return nil, fmt.Errorf("gate: routes: %w", err)
	}
	g := &Gate{
		cfg: cfg, id: id, log: cfg.Log.WithField("gate", id),
		silence:       cfg.Heartbeat * 5 / 2,
		timeoutMillis: cfg.RequestTimeout.Milliseconds(),
		dictionary:    dictionary,
		handshakes:    make(chan struct{}, cfg.Limits.Handshakes),
		events:        make(chan event, maxEvents),
		done:          make(chan settledDelivery, prefetch),
		ready:         make(chan struct{}),
		consuming:     make(chan struct{}),
		ended:         make(chan struct{}),
	}
	g.limits.of = make(map[netip.Addr]int)
	g.measures = newMeasures(g)
	if cfg.TLS.Cert != "" || cfg.TLS.Key != "" {
		cfg.TLS.Log = g.log
		if g.certificates, err = certificates.New(cfg.TLS); err != nil {
			return nil, fmt.Errorf("gate: the certificate for clients: %w", err)
		}
		g.tls = g.certificates.Server(nil)
	}
	return g, nil
}

// newID is different for each start of a gate.
func newID() (string, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("gate: make an id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// ID is the gate's name on the bus, new with each start.
func (g *Gate) ID() string { return g.id }

// Stats are the gate's counters. They may be read at any time.
func (g *Gate) Stats() *Stats { return &g.stats }

// Ready is closed when clients can connect.
func (g *Gate) Ready() <-chan struct{} { return g.ready }

// TCPAddress, WebSocketAddress and GRPCAddress are where the gate listens, with
// the port that it was given where the configuration says 0. They are valid once
// Ready is closed.
func (g *Gate) TCPAddress() string       { return g.cfg.TCP }
func (g *Gate) WebSocketAddress() string { return g.cfg.WebSocket }
func (g *Gate) GRPCAddress() string      { return g.cfg.GRPC }

// Run serves until ctx ends, or until something fails that the gate can not do
// without; it then takes no more clients, sends away those that it has, each when its
// requests are answered, and returns when all that it started has ended.
func (g *Gate) Run(ctx context.Context) (err error) {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	g.base = base
	g.began = time.Now()

	listeners, err := g.listen(ctx)
	if err != nil {
		return err
	}
	// What feeds another starts after it, and ends before it.
	all := parts.New()
	if g.certificates != nil {
		all.Start("certificates", g.certificates.Run)
	}
	defer func() {
		all.Stop()
		err = errors.Join(err, all.Wait())
	}()
	g.users = newUsers(g.cfg.Presence, presence.Gate{ID: g.id, Address: g.cfg.AdvertiseGRPC}, g.log)
	all.Start("presence", func(ctx context.Context) error { g.users.run(ctx); return nil })
	all.Start("events", func(ctx context.Context) error { g.publishEvents(ctx); return nil })
	if err := g.startPublishers(all); err != nil {
		return errors.Join(err, listeners.close())
	}
	if err := g.openLoops(); err != nil {
		return errors.Join(err, listeners.close())
	}
	all.Start("acks", func(ctx context.Context) error { g.ack(ctx); return nil })
	all.Start("replies", g.consume)
	g.awaitReplies(ctx, all)
	g.serveGRPC(all, listeners.grpc)
	listeners.grpc = nil
	all.OnStop(func() {
		cancel()
		g.verifiers.Wait()
	})
	g.startLoops(all)
	all.Start("ticks", func(ctx context.Context) error { g.tick(ctx); return nil })
	var stopAccepting []func()
	for _, l := range listeners.clients {
		stopAccepting = append(stopAccepting, all.Start(l.transport.String(), func(ctx context.Context) error {
			return g.accept(ctx, l)
		}))
	}
	close(g.ready)
	g.log.WithFields(logrus.Fields{
		"tcp": g.cfg.TCP, "websocket": g.cfg.WebSocket, "grpc": g.cfg.GRPC,
	}).Info("gate is ready")

	select {
	case <-ctx.Done():
	case <-all.Failed():
	}
	g.drain(stopAccepting)
	return nil
}

// awaitReplies lets the first clients find a gate that can answer. Without a broker
// it goes on after a while: they then hear UNAVAILABLE.
func (g *Gate) awaitReplies(ctx context.Context, p *parts.Parts) {
	timer := time.NewTimer(repliesTime)
	defer timer.Stop()
	select {
	case <-g.consuming:
	case <-p.Failed():
	case <-ctx.Done():
	case <-timer.C:
		g.log.Warn("the broker is not available yet: clients are taken, and hear so")
	}
}

// startLoops runs the loops, until nobody needs them any more.
func (g *Gate) startLoops(p *parts.Parts) {
	p.OnStop(func() { close(g.ended) })
	for i, l := range g.loops {
		p.Start(fmt.Sprintf("loop %d", i), l.poller.run)
	}
	p.OnStop(g.cfg.Bus.Watch(g.brokerState))
}

// serveGRPC serves the Gate service, where it has an address.
func (g *Gate) serveGRPC(p *parts.Parts, l net.Listener) {
	if l == nil {
		return
	}
	p.Start("gRPC", func(ctx context.Context) error {
		return grpcserver.Serve(ctx, grpcserver.Config{
			Name: "gate gRPC", Listener: l, Options: g.cfg.GRPCOptions,
			Register: func(r grpc.ServiceRegistrar) { gatepb.RegisterGateServer(r, &service{gate: g}) },
			Limit:    stopTime, Ending: g.cfg.Ending,
		})
	})
}

// startPublishers opens the publisher shards. They end after what they hold was
// published.
func (g *Gate) startPublishers(p *parts.Parts) error {
	header := bus.Header{Gate: g.id, GateAddress: g.cfg.AdvertiseGRPC}
	for i := range g.cfg.Publishers {
		publisher, err := g.cfg.Bus.Publisher()
		if err != nil {
			return fmt.Errorf("open a publisher: %w", err)
		}
		c := bus.NewCoalescer(bus.CoalescerConfig[ref]{
			Publisher: publisher, Exchange: g.cfg.Topology.RequestExchange(), Window: g.cfg.Window,
			MaxPending: g.cfg.Limits.PendingPerPublisher, Settle: g.settled,
			Room: func() { g.room(i) }, Flushed: true,
			Header: func(b []byte, route string) []byte {
				h := header
				h.Route = route
				return bus.AppendHeader(b, h)
			},
		})
		g.shards = append(g.shards, c)
		p.Start(fmt.Sprintf("publisher %d", i), c.Run)
	}
	return nil
}
