package worker

import (
	"context"
	stderrors "errors" // for what is returned from many places, without the stack of its declaration
	"strings"

	"github.com/pkg/errors"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tracing"
)

// ErrNobody says that a push or call found no gate to go to: the session's gate
// is gone, or the user is nowhere. That a gate took a push says nothing about
// the client: for that there is PushID.
var ErrNobody = stderrors.New("worker: nobody is there")

// ErrNotRunning says that the worker can not push before Run or after it.
var ErrNotRunning = stderrors.New("worker: not running")

// Target is who a push goes to, by ToSession, ToUser, ToGroup or ToEveryone.
type Target struct {
	kind    targetKind
	session Session
	user    int64
	group   string
}

type targetKind uint8

const (
	nobody targetKind = iota
	oneSession
	oneUser
	oneGroup
	everyone
)

// ToSession is one connection.
func ToSession(s Session) Target { return Target{kind: oneSession, session: s} }

// ToUser is every connection of a user, on whatever gate.
func ToUser(id int64) Target { return Target{kind: oneUser, user: id} }

// ToGroup is every connection that joined a group, on whatever gate.
func ToGroup(name string) Target { return Target{kind: oneGroup, group: name} }

// ToEveryone is every connection.
func ToEveryone() Target { return Target{kind: everyone} }

// PushOption says something about a push.
type PushOption func(*bus.Reply)

// PushID asks each client that gets the push for an Ack with this id, see
// HandleAck; 0 asks for none. Such a push also survives a restart of the broker.
func PushID(id uint64) PushOption { return func(r *bus.Reply) { r.ID = id } }

// LatestOnly says that of the pushes of this route (and group) only the latest
// matters, as of positions or a score: a client that does not read fast enough
// misses those between, instead of being kicked for what waits for it.
func LatestOnly() PushOption { return func(r *bus.Reply) { r.LatestOnly = true } }

// Push sends a message to clients unasked. It returns when the broker has
// confirmed it, with ErrNobody where no gate is there to take it, or with what
// kept the broker from it (bus.ErrUnavailable and its siblings): then it may or
// may not arrive. A push to a user is one message for each gate that the user is on;
// one to a group or everyone is a single message to all gates. What a replayed request
// has pushed to a user who is nowhere goes to the replay, which shows it to nobody.
func (w *Worker) Push(ctx context.Context, to Target, route string, m proto.Message, opts ...PushOption) error {
	out := w.out.Load()
	if out == nil {
		return errors.WithStack(ErrNotRunning)
	}
	if !bus.ValidRoute(route) {
		return errors.Errorf("push: %q is not a route", route)
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return errors.Wrapf(err, "push %s", route)
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		return errors.Wrapf(err, "push %s", route)
	}
	if len(data)+len(text) > w.cfg.MaxReply {
		return errors.Errorf("push %s: %d bytes, and as JSON %d, are more than the %d that a push may have",
			route, len(data), len(text), w.cfg.MaxReply)
	}
	reply := bus.Reply{
		Route:    route,
		DataType: uint8(Protobuf),
		Name:     []byte(m.ProtoReflect().Descriptor().FullName()),
		Data:     data,
		JSON:     text,
	}
	for _, option := range opts {
		option(&reply)
	}
	return errors.Wrapf(w.push(ctx, out, to, &reply), "push %s", route)
}

func (w *Worker) push(ctx context.Context, out *outbox, to Target, reply *bus.Reply) error {
	t := w.cfg.Topology
	switch to.kind {
	case oneSession:
		reply.Session = to.session.ID
		return w.pushTo(ctx, out, []string{t.GateKey(to.session.Gate)}, reply)[0]
	case oneUser:
		reply.User = to.user
		return w.pushToUser(ctx, out, reply)
	case oneGroup:
		reply.Group = to.group
		return w.pushTo(ctx, out, []string{t.AllGates()}, reply)[0]
	case everyone:
		reply.Everyone = true
		return w.pushTo(ctx, out, []string{t.AllGates()}, reply)[0]
	}
	return errors.New("the target is none of ToSession, ToUser, ToGroup and ToEveryone")
}

// pushToUser sends one message to each gate of the user, and takes gates that
// the broker does not know any more off the user.
func (w *Worker) pushToUser(ctx context.Context, out *outbox, reply *bus.Reply) error {
	if w.cfg.Presence == nil {
		return errors.New("Config.Presence is not set")
	}
	gates, err := w.gatesOf(ctx, reply.User)
	if err != nil {
		return err
	}
	if asker := From(ctx).Session.Gate; len(gates) == 0 && strings.HasPrefix(asker, bus.ReplayGate) {
		// Where the recorded request came from, the user was there perhaps.
		return w.pushTo(ctx, out, []string{w.cfg.Topology.GateKey(asker)}, reply)[0]
	}
	keys := make([]string, len(gates))
	for i, gate := range gates {
		keys[i] = w.cfg.Topology.GateKey(gate.ID)
	}
	there, failed := false, error(nil)
	for i, err := range w.pushTo(ctx, out, keys, reply) {
		switch {
		case err == nil:
			there = true
		case errors.Is(err, ErrNobody):
			w.stats.goneGates.Add(1)
			if err := w.cfg.Presence.Remove(ctx, reply.User, gates[i].ID); err != nil {
				w.log.WithFields(tracing.Fields(ctx)).WithField("user", reply.User).Warnf("%+v", err)
			}
		default:
			failed = err
		}
	}
	if failed == nil && !there {
		return ErrNobody
	}
	return failed
}

// pushTo sends the same reply to each key and waits for every outcome, in the
// order of the keys.
func (w *Worker) pushTo(ctx context.Context, out *outbox, keys []string, reply *bus.Reply) []error {
	ctx, span := w.tracePush(ctx, reply, keys)
	item := bus.AppendReply(nil, reply)
	outcomes := make([]error, len(keys))
	parcels := make([]*parcel, len(keys))
	for i, key := range keys {
		parcels[i] = &parcel{key: key, item: item, persistent: reply.ID != 0, outcome: make(chan error, 1)}
		if err := out.add(ctx, parcels[i]); err != nil {
			parcels[i].outcome <- err
		}
	}
	for i, p := range parcels {
		select {
		case outcomes[i] = <-p.outcome:
		case <-ctx.Done():
			outcomes[i] = errors.WithStack(ctx.Err())
		}
		switch {
		case outcomes[i] == nil:
			w.stats.pushes.Add(1)
		case errors.Is(outcomes[i], bus.ErrNoRoute):
			outcomes[i] = ErrNobody
			tracing.Failed(span, bus.Outcome(bus.ErrNoRoute))
		default:
			tracing.Failed(span, bus.Outcome(outcomes[i]))
		}
	}
	span.End()
	return outcomes
}
