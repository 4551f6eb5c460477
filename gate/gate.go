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
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
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

	addLoop sync.Mutex
	loops   atomic.Pointer[loops]

	limits struct {
		sync.Mutex
		connections int
		of          map[netip.Addr]int
	}

	draining   atomic.Bool
	handshakes chan struct{} // a place for each token that is being verified
	verifiers  sync.WaitGroup
	events     chan event
	done       chan settledDelivery

	base  context.Context // of what outlives a call: ends with the gate
	ready chan struct{}
	ended chan struct{}
}

// loops are the event loops that have had a connection, by gnet's and by number.
type loops struct {
	of  map[gnet.EventLoop]*loop
	all []*loop
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
	// drainTime is how long requests in flight may still be answered when the
	// gate ends, and stopTime what everything else may take together.
	drainTime = 3 * time.Second
	stopTime  = 5 * time.Second
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
		ended:         make(chan struct{}),
	}
	g.limits.of = make(map[netip.Addr]int)
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
// without; it then lets requests in flight be answered, sends everybody away,
// and returns when all that it started has ended.
func (g *Gate) Run(ctx context.Context) error {
	defer close(g.ended)
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	g.base = base

	listener, err := g.listen(ctx)
	if err != nil {
		return err
	}
	server := grpc.NewServer(g.cfg.GRPCOptions...)
	gatepb.RegisterGateServer(server, &service{gate: g})

	// The parts end in the order of stop: what feeds another ends before it.
	parts := newParts()
	publishers, err := g.startPublishers(parts)
	if err != nil {
		return errors.Join(err, closeListener(listener))
	}
	g.users = newUsers(g.cfg.Presence, presence.Gate{ID: g.id, Address: g.cfg.AdvertiseGRPC}, g.log)
	stopUsers := parts.start("presence", func(ctx context.Context) error { g.users.run(ctx); return nil })
	stopEvents := parts.start("events", func(ctx context.Context) error { g.publishEvents(ctx); return nil })
	stopAcks := parts.start("acks", func(ctx context.Context) error { g.ack(ctx); return nil })
	stopReplies := parts.start("replies", g.consume)
	e := &engine{gate: g, tcp: g.cfg.TCP, ws: g.cfg.WebSocket, wsPort: port(g.cfg.WebSocket), booted: make(chan struct{})}
	engineEnded := make(chan struct{})
	parts.start("engine", func(context.Context) error {
		defer close(engineEnded)
		return e.run()
	})
	stopTicks := parts.start("ticks", func(ctx context.Context) error { g.tick(ctx); return nil })
	if listener != nil {
		parts.start("gRPC", func(context.Context) error { return server.Serve(listener) })
	}

	select {
	case <-e.booted:
		close(g.ready)
		g.log.WithFields(logrus.Fields{
			"tcp": g.cfg.TCP, "websocket": g.cfg.WebSocket, "grpc": g.cfg.GRPC,
		}).Info("gate is ready")
		select {
		case <-ctx.Done():
		case <-parts.failed:
		}
		g.drain()
	case <-parts.failed:
	}

	limit, release := context.WithTimeout(base, stopTime)
	defer release()
	select {
	case <-e.booted:
		if err := e.stop(limit); err != nil {
			g.log.WithError(err).Error("stop the event loops")
		}
		<-engineEnded
	default: // it never came up
	}
	stopTicks()
	cancel() // verifications of tokens
	g.verifiers.Wait()
	stopServer(limit, server)
	stopReplies()
	stopAcks()
	publishers()
	stopEvents()
	stopUsers()
	return parts.wait()
}

// listen binds the gRPC address, and chooses ports for the client addresses that
// leave it open.
func (g *Gate) listen(ctx context.Context) (net.Listener, error) {
	for _, address := range []*string{&g.cfg.TCP, &g.cfg.WebSocket} {
		if !strings.HasSuffix(*address, ":0") {
			continue
		}
		// gnet does not say which port it was given, so the choice is made here;
		// who else takes it in between makes gnet fail, which is reported.
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", *address)
		if err != nil {
			return nil, fmt.Errorf("gate: choose a port: %w", err)
		}
		*address = l.Addr().String()
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("gate: choose a port: %w", err)
		}
	}
	if g.cfg.GRPC == "" {
		return nil, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", g.cfg.GRPC)
	if err != nil {
		return nil, fmt.Errorf("gate: listen for gRPC: %w", err)
	}
	if g.cfg.AdvertiseGRPC == g.cfg.GRPC {
		g.cfg.AdvertiseGRPC = l.Addr().String()
	}
	g.cfg.GRPC = l.Addr().String()
	return l, nil
}

func closeListener(l net.Listener) error {
	if l == nil {
		return nil
	}
	return l.Close()
}

func port(address string) int {
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		return 0
	}
	return n
}

// startPublishers opens the publisher shards. The function that it returns ends
// them, after what they hold was published.
func (g *Gate) startPublishers(p *parts) (stop func(), err error) {
	header := bus.Header{Gate: g.id, GateAddress: g.cfg.AdvertiseGRPC}
	var stops []func()
	var publishers []bus.Publisher
	stop = func() {
		for i := range stops {
			stops[i]()
			if err := publishers[i].Close(); err != nil {
				g.log.WithError(err).Warn("close a publisher")
			}
		}
	}
	for i := range g.cfg.Publishers {
		publisher, err := g.cfg.Bus.Publisher()
		if err != nil {
			stop()
			return nil, fmt.Errorf("gate: open a publisher: %w", err)
		}
		c := bus.NewCoalescer(bus.CoalescerConfig[ref]{
			Publisher: publisher, Exchange: g.cfg.Topology.RequestExchange(), Window: g.cfg.Window,
			MaxPending: g.cfg.Limits.PendingPerPublisher, Settle: g.settled,
			Header: func(b []byte, route string) []byte {
				h := header
				h.Route = route
				return bus.AppendHeader(b, h)
			},
		})
		g.shards = append(g.shards, c)
		publishers = append(publishers, publisher)
		stops = append(stops, p.start(fmt.Sprintf("publisher %d", i), c.Run))
	}
	return stop, nil
}

// drain lets requests in flight be answered, and sends all clients away.
func (g *Gate) drain() {
	g.draining.Store(true)
	ctx, cancel := context.WithTimeout(g.base, drainTime)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for g.waiting(ctx) && ctx.Err() == nil {
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	ctx, cancel = context.WithTimeout(g.base, drainTime)
	defer cancel()
	for _, l := range g.allLoops() {
		_, err := onLoop(ctx, l, func() (struct{}, error) {
			for _, s := range l.sessions {
				s.kick(kickShutdown, "the gate is shutting down")
			}
			return struct{}{}, nil
		})
		if err != nil {
			g.log.WithError(err).Warn("send clients away")
		}
	}
}

// waiting reports whether any request waits for its reply.
func (g *Gate) waiting(ctx context.Context) bool {
	for _, l := range g.allLoops() {
		busy, err := onLoop(ctx, l, func() (bool, error) { return l.busy.first != nil, nil })
		if busy || err != nil {
			return true
		}
	}
	return false
}

// stopServer lets running calls end, and cuts them off after the limit.
func stopServer(limit context.Context, server *grpc.Server) {
	stopped := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-limit.Done():
		server.Stop()
		<-stopped
	}
}
