package worker

import (
	"context"
	"slices"

	"github.com/pkg/errors"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
)

// route is one entry of a worker's table.
type route struct {
	name    string
	public  bool
	unknown bool        // made up by a client
	handler HandlerFunc // the service's own
	codec   Middleware  // nil for raw handlers and acks
	inName  string      // what the codec wants; empty where there is none
	checks  Middleware  // nil where the input has no rules
	secrets *secrets    // nil where input and answer have none
	serve   HandlerFunc // all of it, made by Run

	measured *measured
}

// HandleOption says something about a route.
type HandleOption func(*route)

// Public lets in callers that are not logged in; without it they are answered
// UNAUTHENTICATED.
func Public() HandleOption { return func(r *route) { r.public = true } }

// Handle gives a worker its handler of a route. Input and answer are protobuf
// messages; clients may send JSON and text too, see DataType. The input obeys the
// validate tags of its fields when the handler gets it, see Validator. A nil
// answer without an error is an empty message.
//
// The handler's context ends with the request's deadline. An error with a gRPC
// status reaches the client as it is; any other is logged whole, with its
// stack, and reaches the client as INTERNAL without its text.
func Handle[In, Out any, PIn interface {
	*In
	proto.Message
}, POut interface {
	*Out
	proto.Message
}](w *Worker, name string, h func(ctx context.Context, in PIn) (POut, error), opts ...HandleOption) {
	descriptor := PIn(new(In)).ProtoReflect().Descriptor()
	c := &codec{
		inName:  string(descriptor.FullName()),
		newIn:   func() proto.Message { return PIn(new(In)) },
		text:    firstString(descriptor),
		nothing: POut(new(Out)),
	}
	s := secretsOf(c)
	c.secret = s != nil && s.in
	w.add(w.routes, &route{
		name:    name,
		codec:   c.wrap,
		inName:  c.inName,
		checks:  w.rulesOf(PIn(new(In))),
		secrets: s,
		handler: func(ctx context.Context, in any) (any, error) {
			message, ok := in.(PIn)
			if !ok {
				return nil, errors.Errorf("middleware passed on a %T, want %T", in, message)
			}
			out, err := h(ctx, message)
			if err != nil {
				return nil, err
			}
			if out == nil {
				return c.nothing, nil
			}
			return out, nil
		},
	}, opts)
}

// Raw is the data of a message as it is.
type Raw struct {
	DataType DataType
	Name     string // protobuf full name of what Data holds; may be empty
	Data     []byte
}

// HandleRaw gives a worker a handler that decodes and encodes by itself. in.Data
// belongs to the handler. Clients expect an answer in the data type that they
// asked in.
func HandleRaw(w *Worker, name string, h func(ctx context.Context, in Raw) (Raw, error), opts ...HandleOption) {
	w.add(w.routes, &route{name: name, handler: func(ctx context.Context, in any) (any, error) {
		raw, ok := in.(*Raw)
		if !ok {
			return nil, errors.Errorf("middleware passed on a %T, want %T", in, raw)
		}
		out, err := h(ctx, *raw)
		if err != nil {
			return nil, err
		}
		*raw = out // the request is done with, and a new Raw would be an allocation
		return raw, nil
	}}, opts)
}

// HandleAck gives a worker a handler of the Acks with which clients answer
// pushes of a route that carry a PushID. Acks without a handler are counted and
// dropped. Nobody gets an answer: an error is logged.
func HandleAck(w *Worker, name string, h func(ctx context.Context, pushID uint64) error, opts ...HandleOption) {
	w.add(w.acks, &route{name: name, handler: func(ctx context.Context, _ any) (any, error) {
		return nil, h(ctx, From(ctx).ID)
	}}, opts)
}

func (w *Worker) add(table map[string]*route, r *route, opts []HandleOption) {
	for _, option := range opts {
		if option != nil {
			option(r)
		}
	}
	switch {
	case !bus.ValidRoute(r.name):
		w.problem("%q is not a route: want service.method", r.name)
	case bus.Service(r.name) != w.service:
		w.problem("route %q is not of service %q, whose queue gets %q", r.name, w.service, w.service+".#")
	case table[r.name] != nil:
		w.problem("route %q has two handlers", r.name)
	case w.started.Load():
		w.problem("route %q came after Run", r.name)
	default:
		table[r.name] = r
	}
}

// Routes are the routes that the worker answers, sorted.
func (w *Worker) Routes() []string {
	names := make([]string, 0, len(w.routes))
	for name := range w.routes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// chain puts the base's and the service's middlewares around a handler. From
// the outside in: nothing that panics gets past recover; the log sees all
// outcomes; who is late or not allowed is turned away before anything is
// decoded; the service's own middlewares see messages that keep their rules.
func (w *Worker) chain(r *route) HandlerFunc {
	h := r.handler
	for _, mw := range slices.Backward(w.middlewares) {
		h = mw(h)
	}
	if r.checks != nil {
		h = r.checks(h)
	}
	if r.codec != nil {
		h = r.codec(h)
	}
	if !r.public {
		h = authenticate(h)
	}
	return w.logged(w.recovered(deadline(h)))
}
