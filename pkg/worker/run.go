package worker

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/pkg/errors"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	wire "github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/failure"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/proto/commonpb"
)

// Run serves until ctx ends, then finishes what it has taken within
// Config.DrainTimeout, or until Config.Ending hurries, and returns when
// everything it started has ended. It tells Config.Ending what it cut off. It
// returns nil after ctx ended, or what is wrong with the configuration, or why
// the service's queue can not be had. A worker runs once.
//
// A handler that does not return when its context ends is waited for 5 s more, or
// 1 s after a hurry. Its goroutine is then left to it, also after Run has returned;
// nobody is answered by it, and its request goes to another replica.
func (w *Worker) Run(ctx context.Context) error {
	if !w.started.CompareAndSwap(false, true) {
		return errors.New("worker: Run was called twice")
	}
	if len(w.problems) > 0 {
		return errors.WithStack(joined(w.problems))
	}
	for _, table := range []map[string]*route{w.routes, w.acks} {
		for _, r := range table {
			r.serve = w.chain(r)
		}
	}
	w.measure()
	publisher, err := w.cfg.Bus.Publisher()
	if err != nil {
		return errors.Wrap(err, "worker: open a publisher")
	}

	// Everything but the consuming lives longer than ctx, since what was taken is
	// finished, and is stopped in the order in which it feeds the next.
	lasting := context.WithoutCancel(ctx)
	base, stopCalls := context.WithCancelCause(lasting)
	defer stopCalls(nil)
	acks := newSettler(func(err error) { w.log.Errorf("ack: %+v", err) })
	out := newOutbox(publisher, w.cfg.Topology.ReplyExchange(), &w.stats, acks.done)
	out.tracer = w.cfg.Tracer
	lanes := newLanes(w.cfg.Concurrency, func(c *call) { w.serve(out, acks, c) })
	lanes.idling = out.coalescer.Flush
	announcer := newAnnouncer(w, publisher)
	stopAnnouncer := start(lasting, announcer.run)
	stopAcks := start(lasting, acks.run)
	stopSending := start(lasting, func(ctx context.Context) { _ = out.coalescer.Run(ctx) })
	stopRetry := start(lasting, out.retry)
	w.out.Store(out)
	w.lanes.Store(lanes)

	in := &intake{
		w: w, base: base, lanes: lanes, acks: acks,
		gates:  make(map[string]gateName),
		answer: announcer.tellGate,
		dead:   publisher,
	}
	// giveUp ends what is not finished, in the order in which one feeds the next.
	giveUp := sync.OnceFunc(func() {
		w.over.Store(true)
		lanes.stop() // first, so that the end of one call is not the start of another
		stopCalls(errShutdown)
		for c := lanes.close(w.awaitHandlers); c != nil; c = c.next {
			if c.deaf {
				w.stats.deaf.Add(1)
			} else {
				w.stats.givenBack.Add(1)
			}
			c.envelope.lost.Store(true)
			acks.done(c.envelope)
		}
		w.out.Store(nil)
		w.lanes.Store(nil)
		stopAnnouncer()
		stopRetry()
		stopSending()
		acks.giveBack()
	})
	stopHurrying := start(lasting, func(consumed context.Context) {
		select {
		case <-ctx.Done():
		case <-consumed.Done():
		}
		select {
		case <-w.cfg.Ending.Hurried():
			giveUp() // which settles everything, and so ends Consume
		case <-consumed.Done():
		}
	})
	var begun sync.Once // Ready is called after each loss of the broker
	failed := w.cfg.Bus.Consume(ctx, bus.Consumer{
		Queue:    w.queue(),
		Prefetch: w.cfg.Prefetch,
		Handle:   in.handle,
		Drain:    w.cfg.DrainTimeout,
		Lost:     func() { w.ready.Store(false) },
		Ready: func() {
			w.ready.Store(true)
			begun.Do(func() { w.log.WithField("routes", strings.Join(w.Routes(), " ")).Info("the worker takes requests") })
			announcer.tellAll()
		},
	})
	w.ready.Store(false)

	stopHurrying()
	giveUp()
	stopAcks()
	w.gates.close()
	if err := publisher.Close(); err != nil && failed == nil {
		w.log.Warnf("close the publisher: %+v", err)
	}
	w.tellCut()
	return errors.Wrapf(failed, "worker %s: consume", w.service)
}

// awaitHandlers waits until handlers whose contexts have ended have, and no longer
// than anybody can be expected to wait for those who do not heed that.
func (w *Worker) awaitHandlers(ended <-chan struct{}) {
	w.cfg.Ending.Await(ended, parts.DeafTime, parts.DeafHurried)
}

func joined(problems []error) error {
	err := problems[0]
	for _, p := range problems[1:] {
		err = errors.Errorf("%v; %v", err, p)
	}
	return err
}

// start runs f in a goroutine; stop ends its context and waits for it.
func start(parent context.Context, f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(parent)
	var ended sync.WaitGroup
	ended.Go(func() { f(ctx) })
	return func() {
		cancel()
		ended.Wait()
	}
}

func (w *Worker) queue() bus.Queue {
	t := w.cfg.Topology
	return bus.Queue{
		Name: t.WorkerQueue(w.service),
		Bindings: []bus.Binding{
			{Exchange: t.RequestExchange(), Key: t.ServiceKey(w.service)},
			{Exchange: t.RequestExchange(), Key: t.AnnounceKey()},
		},
		MaxBytes:   w.cfg.QueueBytes,
		DeadLetter: true,
		Quorum:     w.cfg.Quorum,
	}
}

// serve brings one call to its end: BenchmarkServe counts what it costs.
func (w *Worker) serve(out *outbox, acks *settler, c *call) {
	begun := time.Now()
	w.measures.lane.Took(begun.Sub(c.envelope.taken))
	if c.deadline.IsZero() {
		c.deadline = begun.Add(w.cfg.Timeout)
	}
	if c.caller.trace != nil {
		w.trace(c)
	}
	answer, err := c.route.serve(c, &c.raw)
	took := time.Since(begun)
	if !c.told.CompareAndSwap(false, true) { // Run waits no more, and has given it back
		c.finish()
		return
	}
	if w.over.Load() {
		w.stats.stopped.Add(1)
	}
	code := codeOf(err)
	late := errors.Is(err, errLate)
	switch {
	case late:
		w.stats.expired.Add(1)
		code = codes.DeadlineExceeded
	case err != nil:
		w.stats.fail(code)
	}
	w.stats.handled.Add(1)
	c.route.measured.codes.Add(uint32(code))
	if !late {
		c.route.measured.handler.Took(took)
	}
	e := c.envelope
	if late || c.caller.Type != Request {
		acks.done(e)
	} else {
		w.answer(out, c, begun.Add(took), answer, err)
	}
	c.finish()
	if c.caller.trace != nil {
		c.caller.trace.end(code)
	}
	if w.cfg.Observe != nil {
		name := c.route.name
		if c.route.unknown {
			name = ""
		}
		w.cfg.Observe(name, code, time.Since(begun))
	}
}

// answer sends what a handler returned at a time, or its error.
func (w *Worker) answer(out *outbox, c *call, at time.Time, answer any, err error) {
	reply := bus.Reply{
		Session:  c.caller.Session.ID,
		Sequence: c.caller.Sequence,
		DataType: uint8(c.caller.DataType),
	}
	raw, ok := answer.(*Raw)
	switch {
	case err != nil:
		w.fill(&reply, c, problemOf(err))
	case !ok:
		w.log.WithFields(c.caller.Fields()).Errorf("the answer is a %T", answer)
		w.fill(&reply, c, problemOf(errors.New("no answer")))
	case len(raw.Data) > w.cfg.MaxReply:
		w.log.WithFields(c.caller.Fields()).Errorf("the answer has %d bytes, more than the %d allowed",
			len(raw.Data), w.cfg.MaxReply)
		w.fill(&reply, c, &commonpb.Error{
			Code: int32(codes.ResourceExhausted), Message: "the answer is too large",
		})
	default:
		reply.DataType, reply.Data = uint8(raw.DataType), raw.Data
		reply.Name = append(c.name[:0], raw.Name...)
	}
	var span trace.Span
	if c.caller.trace != nil {
		span, reply.Trace = out.traceReply(c, &reply)
	}
	b := newBuffer()
	b.b = bus.AppendReply(b.b[:0], &reply)
	if w.cfg.Tape != nil {
		w.recordReply(c, at, &reply, b.b, err)
	}
	out.reply(c, b, span)
}

func (w *Worker) fill(reply *bus.Reply, c *call, problem *commonpb.Error) {
	data, err := failure.Encode(problem, wire.DataType(c.caller.DataType))
	if err != nil {
		w.log.WithFields(c.caller.Fields()).Errorf("%+v", err) // the client still learns from name and code
	}
	reply.Name, reply.Data, reply.Code = []byte(failure.Name), data, uint32(problem.Code)
}
