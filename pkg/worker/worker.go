// Package worker is the base that services are built on. A service is a worker
// with a handler for each of its routes:
//
//	w := worker.New("game", worker.Config{Bus: b})
//	worker.Handle(w, "game.move", func(ctx context.Context, in *gamepb.Move) (*gamepb.Moved, error) { … })
//	return w.Run(ctx)
//
// The base consumes the service's queue, keeps the requests of one session in
// the order sent while different sessions run in parallel, decodes and checks
// the input, answers in the form that was asked in, and acks an envelope only
// when the broker has all of its replies: a request is handled at least once.
//
// It refuses to hold a session's state, to open a client's connection, and to
// know what a gate looks like inside: of gates it knows the bus and the gRPC
// service gatepb.Gate.
package worker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/presence"
	"github.com/motto123/minigate/pkg/tracing"
)

// Config is what a worker needs. Only Bus must be set.
type Config struct {
	Bus      bus.Bus
	Topology bus.Topology // the default installation's names where it is zero

	// Presence finds the gates of a user, for ToUser and KickUser.
	Presence *presence.Store

	// Prefetch is how many envelopes may be in the worker at once, 64 where it is
	// 0. With the size of an envelope it bounds the worker's memory.
	Prefetch int
	// Concurrency is how many handlers may run at once, 256 where it is 0.
	Concurrency int
	// Timeout is the time for a request that comes without a deadline; 30 s where
	// it is 0.
	Timeout time.Duration
	// DrainTimeout is how long Run goes on with what it has taken after its
	// context ended; 10 s where it is 0. What is not done then is handled again by
	// another replica.
	DrainTimeout time.Duration

	// Ending, if set, may cut DrainTimeout short, and is told what was cut off.
	Ending *parts.Ending

	// MaxReply bounds the data of a reply or push in bytes, 8 MiB where it is 0. A
	// larger reply becomes RESOURCE_EXHAUSTED, a larger push an error.
	MaxReply int
	// QueueBytes bounds what waits in the service's queue, 256 MiB where it is 0;
	// requests beyond it are refused by the broker. All replicas must agree.
	QueueBytes int
	// Quorum asks for a replicated queue. All replicas must agree.
	Quorum bool

	// GateOptions secure the gRPC calls to gates; none is plain text.
	GateOptions []grpc.DialOption
	// MaxGates bounds the gRPC connections to gates, 256 where it is 0.
	MaxGates int

	// Tape, if set, records requests and replies.
	Tape Tape

	// Log takes a *logrus.Logger or *logrus.Entry; logrus' standard logger where it
	// is nil.
	Log logrus.FieldLogger
	// Tracer makes spans of requests whose trace is kept; nil makes none.
	Tracer *tracing.Tracer
	// Observe, if set, is called after each request, Notify and Ack, from many
	// goroutines at once: for metrics. It must not block. route is empty where the
	// service has no such route, since then clients have made up the name.
	Observe func(route string, code codes.Code, took time.Duration)
}

// Worker is one replica of a service. Handle and its siblings and Use are
// called before Run; all other methods are safe to call at once.
type Worker struct {
	service string
	cfg     Config
	log     *logrus.Entry
	stats   counters
	gates   *gateConns

	measures *measures
	measured atomic.Pointer[map[string]*measured] // by route, from Run on
	progress progress

	validator *Validator

	// Before Run only.
	problems    []error // of the configuration, which Run returns
	routes      map[string]*route
	acks        map[string]*route
	middlewares []Middleware

	started atomic.Bool
	ready   atomic.Bool
	over    atomic.Bool            // the time to finish is over: calls that run are stopped
	out     atomic.Pointer[outbox] // while Run runs
	lanes   atomic.Pointer[lanes]  // while Run runs
}

// New returns a worker of a service. What is wrong with its configuration, or
// with the routes given to it later, is reported by Run, so that a service is
// three lines.
func New(service string, cfg Config) *Worker {
	w := &Worker{
		service:  service,
		measures: newMeasures(service),
		routes:   make(map[string]*route),
		acks:     make(map[string]*route),
	}
	if !bus.ValidRoute(service+".x") || bus.Service(service) != service {
		w.problem("service %q is not a name: want ASCII letters, digits, '_' and '-'", service)
	}
	if cfg.Bus == nil {
		w.problem("Config.Bus is not set")
	}
	if cfg.Topology == (bus.Topology{}) {
		cfg.Topology = bus.NewTopology("")
	}
	setDefault(w, "Prefetch", &cfg.Prefetch, 64)
	setDefault(w, "Concurrency", &cfg.Concurrency, 256)
	setDefault(w, "Timeout", &cfg.Timeout, 30*time.Second)
	setDefault(w, "DrainTimeout", &cfg.DrainTimeout, 10*time.Second)
	setDefault(w, "MaxReply", &cfg.MaxReply, 8<<20)
	setDefault(w, "QueueBytes", &cfg.QueueBytes, 256<<20)
	setDefault(w, "MaxGates", &cfg.MaxGates, 256)
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	validator, err := NewValidator()
	if err != nil {
		w.problems = append(w.problems, err)
	}
	w.validator = validator
	w.cfg = cfg
	w.log = cfg.Log.WithField("service", service)
	w.gates = newGateConns(cfg.GateOptions, cfg.MaxGates)
	return w
}

func setDefault[T ~int | ~int64](w *Worker, name string, v *T, to T) {
	if *v < 0 {
		w.problem("Config.%s is %v, want 0 or more", name, *v)
	}
	if *v <= 0 {
		*v = to
	}
}

func (w *Worker) problem(format string, args ...any) {
	w.problems = append(w.problems, errors.Errorf("worker: "+format, args...))
}

// Service is the name that the worker was made with.
func (w *Worker) Service() string { return w.service }

// Health is nil while the worker takes requests and can answer them.
func (w *Worker) Health() error {
	if !w.ready.Load() {
		return errors.New("worker: not consuming")
	}
	if state := w.cfg.Bus.State(); state != bus.Up {
		return errors.Errorf("worker: the bus is %v", state)
	}
	return nil
}

// HandlerFunc is a handler without its types, as middleware sees it. in is a
// proto.Message for handlers given to Handle, a *Raw for HandleRaw, and nil for
// HandleAck, whose push id is From(ctx).ID; out is of the same kind as in.
type HandlerFunc func(ctx context.Context, in any) (out any, err error)

// Middleware is a function around a handler.
type Middleware func(next HandlerFunc) HandlerFunc

// Use puts middlewares around all handlers of the worker, also those that are
// given to it later; the first is the outermost. They see what has been
// decoded, is valid, and comes from somebody who may call the route; for
// counting what did not get that far there is Config.Observe.
func (w *Worker) Use(mw ...Middleware) { w.middlewares = append(w.middlewares, mw...) }
