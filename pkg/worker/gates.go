package worker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/presence"
	"github.com/motto123/minigate/proto/gatepb"
)

// Bind makes a session a user's, or nobody's with user 0. When it returns nil,
// whatever the client sends afterwards carries the user. NOT_FOUND says that the
// session is gone.
func (w *Worker) Bind(ctx context.Context, s Session, user int64) error {
	return w.gates.call(s.GateAddress, "bind", func(gate gatepb.GateClient) error {
		_, err := gate.Bind(ctx, &gatepb.BindRequest{Session: s.ID, User: user})
		return err
	})
}

// Kick closes a session. code is one of the protocol's, "kicked" where it is
// empty; reason is for people.
func (w *Worker) Kick(ctx context.Context, s Session, code, reason string) error {
	return w.gates.call(s.GateAddress, "kick", func(gate gatepb.GateClient) error {
		_, err := gate.Kick(ctx, &gatepb.KickRequest{Session: s.ID, Code: code, Reason: reason})
		return err
	})
}

// KickUser closes all sessions of a user, on whatever gate, and returns how many
// there were. It asks all gates at once, so that one that does not answer does not
// keep the others, and returns the first error.
func (w *Worker) KickUser(ctx context.Context, user int64, code, reason string) (kicked int, failed error) {
	if w.cfg.Presence == nil {
		return 0, errors.New("kick user: Config.Presence is not set")
	}
	gates, err := w.gatesOf(ctx, user)
	if err != nil {
		return 0, err
	}
	var all atomic.Int64
	errs := make([]error, len(gates))
	var asked sync.WaitGroup
	for i, gate := range gates {
		asked.Go(func() {
			errs[i] = w.gates.call(gate.Address, "kick", func(client gatepb.GateClient) error {
				answer, err := client.Kick(ctx, &gatepb.KickRequest{User: user, Code: code, Reason: reason})
				all.Add(int64(answer.GetKicked()))
				return err
			})
		})
	}
	asked.Wait()
	for _, err := range errs {
		if err != nil && status.Code(err) != codes.NotFound {
			return int(all.Load()), err
		}
	}
	return int(all.Load()), nil
}

func (w *Worker) gatesOf(ctx context.Context, user int64) ([]presence.Gate, error) {
	gates, err := w.cfg.Presence.Gates(ctx, user)
	if err != nil {
		return nil, Fail(codes.Unavailable, "it is not known where the user is", err)
	}
	return gates, nil
}

// Join puts a session into a group; twice is once.
func (w *Worker) Join(ctx context.Context, s Session, group string) error {
	return w.gates.call(s.GateAddress, "join", func(gate gatepb.GateClient) error {
		_, err := gate.Join(ctx, &gatepb.JoinRequest{Session: s.ID, Group: group})
		return err
	})
}

// Leave takes a session out of a group.
func (w *Worker) Leave(ctx context.Context, s Session, group string) error {
	return w.gates.call(s.GateAddress, "leave", func(gate gatepb.GateClient) error {
		_, err := gate.Leave(ctx, &gatepb.LeaveRequest{Session: s.ID, Group: group})
		return err
	})
}

// Sessions lists the sessions of a user on the gate of a session.
func (w *Worker) Sessions(ctx context.Context, s Session, user int64) ([]*gatepb.Session, error) {
	var sessions []*gatepb.Session
	err := w.gates.call(s.GateAddress, "sessions", func(gate gatepb.GateClient) error {
		answer, err := gate.Sessions(ctx, &gatepb.SessionsRequest{User: user})
		sessions = answer.GetSessions()
		return err
	})
	return sessions, err
}

// gateConns keeps one gRPC connection to each gate that was called lately.
type gateConns struct {
	options []grpc.DialOption
	limit   int

	mu     sync.Mutex
	conns  map[string]*gateConn
	clock  uint64 // counts uses
	closed bool
}

type gateConn struct {
	conn  *grpc.ClientConn
	users int    // calls that run
	used  uint64 // the clock's reading at the last call
}

// connectParams try again soon: gRPC's own would wait up to two minutes for a gate that
// was away, and all logins on it fail meanwhile.
var connectParams = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastPause},
	MinConnectTimeout: 3 * time.Second,
}

func newGateConns(options []grpc.DialOption, limit int) *gateConns {
	plain := grpc.WithTransportCredentials(insecure.NewCredentials()) // unless options say otherwise
	return &gateConns{
		options: append([]grpc.DialOption{plain, grpc.WithNoProxy(), grpc.WithConnectParams(connectParams)}, options...),
		limit:   limit, conns: make(map[string]*gateConn),
	}
}

func (g *gateConns) call(address, operation string, f func(gatepb.GateClient) error) error {
	c, err := g.take(address)
	if err != nil {
		return gateFailure(operation, err)
	}
	defer g.give(c)
	if err := f(gatepb.NewGateClient(c.conn)); err != nil {
		return gateFailure(operation, err)
	}
	return nil
}

// take returns the connection to an address. Where there are too many, the one
// that was not used for longest makes room; none that is in use does.
func (g *gateConns) take(address string) (*gateConn, error) {
	if address == "" {
		return nil, errors.New("the gate did not give an address")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, ErrNotRunning
	}
	g.clock++
	c := g.conns[address]
	if c == nil {
		if len(g.conns) >= g.limit && !g.evict() {
			return nil, errors.Errorf("calls to %d gates are running", len(g.conns))
		}
		// Connects at the first call and not here: nothing blocks under the lock.
		conn, err := grpc.NewClient("passthrough:///"+address, g.options...)
		if err != nil {
			return nil, errors.WithStack(err)
		}
		c = &gateConn{conn: conn}
		g.conns[address] = c
	}
	c.users++
	c.used = g.clock
	return c, nil
}

func (g *gateConns) evict() bool {
	var oldest string
	for address, c := range g.conns {
		if c.users == 0 && (oldest == "" || c.used < g.conns[oldest].used) {
			oldest = address
		}
	}
	if oldest == "" {
		return false
	}
	g.conns[oldest].conn.Close()
	delete(g.conns, oldest)
	return true
}

func (g *gateConns) give(c *gateConn) {
	g.mu.Lock()
	c.users--
	g.mu.Unlock()
}

// close ends all connections; calls that still run fail.
func (g *gateConns) close() {
	g.mu.Lock()
	conns := g.conns
	g.conns, g.closed = nil, true
	g.mu.Unlock()
	for _, c := range conns {
		c.conn.Close()
	}
}

// gateFailure is what a call to a gate came to. A handler may return it as it
// is: the client gets the code, and neither addresses nor what went wrong below.
func gateFailure(operation string, err error) error {
	code, message := status.Code(err), "the gate can not be reached"
	switch code {
	case codes.NotFound:
		message = "the session or user is not there any more"
	case codes.InvalidArgument, codes.ResourceExhausted, codes.FailedPrecondition:
		message = status.Convert(err).Message()
	case codes.DeadlineExceeded, codes.Canceled:
		message = "the gate did not answer in time"
	default:
		code = codes.Unavailable
	}
	return Fail(code, message, errors.Wrap(err, "gate: "+operation))
}
