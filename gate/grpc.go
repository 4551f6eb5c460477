package gate

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/proto/gatepb"
)

// service is the Gate service: direct calls of workers about sessions of this
// gate. Its methods are safe to call at once; each runs on the session's loop and
// waits for that.
type service struct {
	gatepb.UnimplementedGateServer
	gate *Gate
}

const maxGroup = 128

// reasonUnbound is why session.closed comes for a user whose session goes on.
const reasonUnbound = "unbound"

// Bind makes a session a user's, or nobody's.
func (v *service) Bind(ctx context.Context, in *gatepb.BindRequest) (*gatepb.BindResponse, error) {
	g := v.gate
	user := in.GetUser()
	if user < 0 {
		return nil, status.Errorf(codes.InvalidArgument, "user: got %d, want 0 or more", user)
	}
	if user != 0 {
		if err := g.users.bound(ctx, user); err != nil {
			return nil, err
		}
	}
	err := g.onSession(ctx, in.GetSession(), func(s *session) error {
		if s.user == user {
			if user != 0 { // counted once already
				g.users.unbound(user)
			}
			return nil
		}
		if s.user != 0 {
			g.users.unbound(s.user)
			g.sessionClosed(ctx, s.id, s.user, reasonUnbound)
		}
		s.leaveGroups() // they were the other user's
		s.loop.bind(s, user)
		if user != 0 {
			g.sessionBound(ctx, s.id, user)
		}
		return nil
	}, func() {
		if user != 0 {
			g.users.unbound(user)
		}
	})
	if err != nil {
		return nil, err
	}
	return &gatepb.BindResponse{}, nil
}

// Kick closes one session, or all sessions of a user on this gate.
func (v *service) Kick(ctx context.Context, in *gatepb.KickRequest) (*gatepb.KickResponse, error) {
	code := in.GetCode()
	if code == "" {
		code = kickKicked
	}
	if !validKick(code) {
		return nil, status.Errorf(codes.InvalidArgument, "code: got %q, which the protocol does not name", code)
	}
	if code == kickDraining { // a client then asks again what it has no answer to
		return nil, status.Errorf(codes.InvalidArgument, "code: got %q, which only a gate that ends says", code)
	}
	if in.GetSession() != 0 {
		err := v.gate.onSession(ctx, in.GetSession(), func(s *session) error {
			s.kickFor(askedBy(ctx), code, in.GetReason())
			return nil
		}, nil)
		if err != nil {
			return nil, err
		}
		return &gatepb.KickResponse{Kicked: 1}, nil
	}
	if in.GetUser() <= 0 {
		return nil, status.Error(codes.InvalidArgument, "want a session or a user")
	}
	var kicked int32
	for _, l := range v.gate.loops {
		n, err := onLoop(ctx, l, func() (int32, error) {
			sessions := slices.Clone(l.users[in.GetUser()]) // a kick takes its session out of the list
			for _, s := range sessions {
				s.kickFor(askedBy(ctx), code, in.GetReason())
			}
			return int32(len(sessions)), nil
		})
		if err != nil {
			return nil, err
		}
		kicked += n
	}
	if kicked == 0 {
		return nil, status.Errorf(codes.NotFound, "user %d has no session here", in.GetUser())
	}
	return &gatepb.KickResponse{Kicked: kicked}, nil
}

// Join puts a session into a group.
func (v *service) Join(ctx context.Context, in *gatepb.JoinRequest) (*gatepb.JoinResponse, error) {
	group := in.GetGroup()
	if group == "" || len(group) > maxGroup {
		return nil, status.Errorf(codes.InvalidArgument, "group: got %d bytes, want 1 to %d", len(group), maxGroup)
	}
	err := v.gate.onSession(ctx, in.GetSession(), func(s *session) error {
		if slices.Contains(s.groups, group) {
			return nil
		}
		if limit := v.gate.cfg.Limits.GroupsPerSession; len(s.groups) >= limit {
			v.gate.stats.GroupsRefused.Add(1)
			return status.Errorf(codes.ResourceExhausted, "the session is in %d groups", limit)
		}
		s.groups = append(s.groups, group)
		s.loop.join(s, group)
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	return &gatepb.JoinResponse{}, nil
}

// Leave takes a session out of a group.
func (v *service) Leave(ctx context.Context, in *gatepb.LeaveRequest) (*gatepb.LeaveResponse, error) {
	err := v.gate.onSession(ctx, in.GetSession(), func(s *session) error {
		if i := slices.Index(s.groups, in.GetGroup()); i >= 0 {
			s.groups = slices.Delete(s.groups, i, i+1)
			s.loop.leave(s, in.GetGroup())
		}
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	return &gatepb.LeaveResponse{}, nil
}

// Sessions lists the sessions of a user on this gate.
func (v *service) Sessions(ctx context.Context, in *gatepb.SessionsRequest) (*gatepb.SessionsResponse, error) {
	out := new(gatepb.SessionsResponse)
	for _, l := range v.gate.loops {
		sessions, err := onLoop(ctx, l, func() ([]*gatepb.Session, error) {
			var of []*gatepb.Session
			for _, s := range l.users[in.GetUser()] {
				of = append(of, &gatepb.Session{
					Session: s.id, User: s.user, Address: s.address.String(), Transport: s.transport.String(),
					ClientType: s.clientType, ConnectedAt: l.wall - l.now + s.connectedAt,
				})
			}
			return of, nil
		})
		if err != nil {
			return nil, err
		}
		out.Sessions = append(out.Sessions, sessions...)
	}
	if len(out.Sessions) == 0 {
		return nil, status.Errorf(codes.NotFound, "user %d has no session here", in.GetUser())
	}
	return out, nil
}

// onSession runs f with an active session on its loop. Where it was not run,
// because there is no such session or nobody waits any more, undo is called.
func (g *Gate) onSession(ctx context.Context, id uint64, f func(*session) error, undo func()) error {
	if undo == nil {
		undo = func() {}
	}
	loops := g.loops
	index := int(id & loopMask)
	if index >= len(loops) {
		undo()
		return status.Errorf(codes.NotFound, "no session %d here", id)
	}
	l := loops[index]
	_, err := onLoop(ctx, l, func() (struct{}, error) {
		if err := ctx.Err(); err != nil { // nobody waits for it any more
			undo()
			return struct{}{}, status.FromContextError(err).Err()
		}
		s := l.sessions[id]
		if s == nil || s.state != active {
			undo()
			return struct{}{}, status.Errorf(codes.NotFound, "no session %d here", id)
		}
		return struct{}{}, f(s)
	})
	return err
}

// onLoop runs f on a loop and waits for its result. Where ctx ends first, f may
// still run.
func onLoop[T any](ctx context.Context, l *loop, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	l.post(func() {
		r := result{err: status.Error(codes.Internal, "the gate could not do this")}
		defer func() { done <- r }() // after a panic too
		r.value, r.err = f()
	})
	var none T
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, status.FromContextError(ctx.Err()).Err()
	case <-l.gate.ended:
		return none, status.Error(codes.Unavailable, "the gate has ended")
	}
}
