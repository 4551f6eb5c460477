package worker

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/errors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/certificates"
	"github.com/motto123/minigate/pkg/certificates/certtest"
	"github.com/motto123/minigate/pkg/grpcauth"
	"github.com/motto123/minigate/pkg/presence"
	"github.com/motto123/minigate/proto/gatepb"
)

// gateServer is the gRPC service of a gate with one session, 5, of user 7.
type gateServer struct {
	gatepb.UnimplementedGateServer

	address string
	mu      sync.Mutex
	calls   []string
}

func newGateServer(t *testing.T, options ...grpc.ServerOption) *gateServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &gateServer{address: listener.Addr().String()}
	server := grpc.NewServer(options...)
	gatepb.RegisterGateServer(server, s)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-ended; err != nil {
			t.Errorf("gate server: %v", err)
		}
	})
	return s
}

func (s *gateServer) saw(call string) {
	s.mu.Lock()
	s.calls = append(s.calls, call)
	s.mu.Unlock()
}

func (s *gateServer) Bind(_ context.Context, in *gatepb.BindRequest) (*gatepb.BindResponse, error) {
	if in.GetSession() != 5 {
		return nil, status.Error(codes.NotFound, "no such session")
	}
	s.saw("bind")
	return &gatepb.BindResponse{}, nil
}

func (s *gateServer) Kick(_ context.Context, in *gatepb.KickRequest) (*gatepb.KickResponse, error) {
	if in.GetSession() != 5 && in.GetUser() != 7 {
		return nil, status.Error(codes.NotFound, "nobody")
	}
	s.saw("kick " + in.GetCode() + " " + in.GetReason())
	return &gatepb.KickResponse{Kicked: 2}, nil
}

func (s *gateServer) Join(_ context.Context, in *gatepb.JoinRequest) (*gatepb.JoinResponse, error) {
	s.saw("join " + in.GetGroup())
	return &gatepb.JoinResponse{}, nil
}

func (s *gateServer) Leave(_ context.Context, in *gatepb.LeaveRequest) (*gatepb.LeaveResponse, error) {
	s.saw("leave " + in.GetGroup())
	return &gatepb.LeaveResponse{}, nil
}

func (s *gateServer) Sessions(_ context.Context, in *gatepb.SessionsRequest) (*gatepb.SessionsResponse, error) {
	return &gatepb.SessionsResponse{Sessions: []*gatepb.Session{{Session: 5, User: in.GetUser()}}}, nil
}

func TestCallsToTheSessionsGate(t *testing.T) {
	server := newGateServer(t)
	w := New("auth", Config{Bus: newMem(t), Log: quiet()})
	run(t, w)
	s := Session{Gate: "g1", GateAddress: server.address, ID: 5}
	ctx := t.Context()
	for what, err := range map[string]error{
		"bind": w.Bind(ctx, s, 7), "join": w.Join(ctx, s, "room"), "leave": w.Leave(ctx, s, "room"),
		"kick": w.Kick(ctx, s, "replaced", "elsewhere"),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	sessions, err := w.Sessions(ctx, s, 7)
	if err != nil || len(sessions) != 1 || sessions[0].GetUser() != 7 {
		t.Errorf("sessions: got %v, %v", sessions, err)
	}
	slices.Sort(server.calls)
	if got, want := strings.Join(server.calls, ", "), "bind, join room, kick replaced elsewhere, leave room"; got != want {
		t.Errorf("the gate saw %q, want %q", got, want)
	}
	if n := len(w.gates.conns); n != 1 {
		t.Errorf("%d connections to one gate", n)
	}

	if err := w.Bind(ctx, Session{GateAddress: server.address, ID: 6}, 7); status.Code(err) != codes.NotFound {
		t.Errorf("a session that is gone: got %v", err)
	}
	err = w.Bind(ctx, Session{GateAddress: "127.0.0.1:1", ID: 5}, 7)
	if st := statusOf(err); st.Code() != codes.Unavailable || strings.Contains(st.Message(), "127.0.0.1") {
		t.Errorf("a gate that is gone: the client gets %v", st)
	}
	if !strings.Contains(err.Error(), "bind") {
		t.Errorf("a gate that is gone: the log gets %v", err)
	}
	if err := w.Bind(ctx, Session{ID: 5}, 7); status.Code(err) != codes.Unavailable {
		t.Errorf("a gate without an address: got %v", err)
	}
}

// TestCallsToGatesShowWhoCalls: a gate takes the calls of a worker that has what
// it asks for, and no others.
func TestCallsToGatesShowWhoCalls(t *testing.T) {
	f := certtest.NewAuthority(t, "one").Write(t, t.TempDir(), certtest.Options{})
	guard, err := grpcauth.New(grpcauth.Config{
		Files: certificates.Config{Cert: f.Cert, Key: f.Key, CA: f.CA}, Tokens: "a-token-of-services", Log: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	options, err := guard.ServerOptions()
	if err != nil {
		t.Fatal(err)
	}
	s := Session{GateAddress: newGateServer(t, options...).address, ID: 5}
	known := New("auth", Config{Bus: newMem(t), Log: quiet(), GateOptions: guard.DialOptions()})
	run(t, known)
	if err := known.Bind(t.Context(), s, 7); err != nil {
		t.Error(err)
	}
	stranger := New("auth", Config{Bus: newMem(t), Log: quiet()})
	run(t, stranger)
	if err := stranger.Bind(t.Context(), s, 7); status.Code(err) != codes.Unavailable {
		t.Errorf("a worker without a certificate: got %v", err)
	}
}

func TestKickUserOnAllGates(t *testing.T) {
	store := newPresence(t)
	w := New("auth", Config{Bus: newMem(t), Log: quiet(), Presence: store})
	run(t, w)
	for _, id := range []string{"g1", "g2"} {
		if err := store.Add(t.Context(), 7, presence.Gate{ID: id, Address: newGateServer(t).address}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := w.KickUser(t.Context(), 7, "", "password changed"); n != 4 || err != nil {
		t.Errorf("kicked %d, %v, want 4", n, err)
	}
	if n, err := w.KickUser(t.Context(), 8, "", ""); n != 0 || err != nil {
		t.Errorf("a user that is nowhere: kicked %d, %v", n, err)
	}
	if err := store.Add(t.Context(), 7, presence.Gate{ID: "g0", Address: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	if n, err := w.KickUser(t.Context(), 7, "", ""); n != 4 || status.Code(err) != codes.Unavailable {
		t.Errorf("with a gate that is gone: kicked %d, %v, want 4 and UNAVAILABLE", n, err)
	}
}

func TestConnectionsToGatesAreBoundedAndReused(t *testing.T) {
	g := newGateConns(nil, 2)
	defer g.close()
	a, err := g.take("a:1")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := g.take("b:1")
	if _, err := g.take("c:1"); err == nil {
		t.Error("a third connection while two are in use")
	}
	g.give(a)
	g.give(b)
	if again, _ := g.take("a:1"); again != a {
		t.Error("the connection was not used again")
	} else {
		g.give(again)
	}
	if c, err := g.take("c:1"); err != nil || g.conns["b:1"] != nil || g.conns["a:1"] != a {
		t.Errorf("%v, %v: want b, which was not used for longest, to make room", c, err)
	}
	g.close()
	if _, err := g.take("a:1"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after close: got %v", err)
	}
}

func TestACallToAGateEndsWithItsContext(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	w := New("auth", Config{Bus: newMem(t), Log: quiet()})
	run(t, w)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = w.Bind(ctx, Session{GateAddress: listener.Addr().String(), ID: 5}, 7)
	if c := status.Code(err); c != codes.DeadlineExceeded {
		t.Errorf("got %v, want DEADLINE_EXCEEDED", err)
	}
}

// A gate that was away is called soon after it is back: its clients wait for their
// logins.
func TestAGateThatWasAwayIsCalledSoon(t *testing.T) {
	server := newGateServer(t)
	var dials atomic.Int32
	away := grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		if dials.Add(1) < 8 {
			return nil, errors.New("away")
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	})
	w := New("auth", Config{Bus: newMem(t), Log: quiet(), GateOptions: []grpc.DialOption{away}})
	run(t, w)
	s := Session{Gate: "g1", GateAddress: server.address, ID: 5}
	eventually(t, "the gate is called", func() bool { return w.Bind(t.Context(), s, 7) == nil })
}

// A gate that says nothing does not keep the others from being told.
func TestKickUserBesideASilentGate(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	server := newGateServer(t)
	store := newPresence(t)
	w := New("auth", Config{Bus: newMem(t), Log: quiet(), Presence: store})
	run(t, w)
	for id, address := range map[string]string{"a": silent.Addr().String(), "b": server.address} {
		if err := store.Add(t.Context(), 7, presence.Gate{ID: id, Address: address}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if n, err := w.KickUser(ctx, 7, "", "bye"); n != 2 || err == nil {
		t.Errorf("kicked %d, %v, want 2 and that one gate did not answer", n, err)
	}
}
