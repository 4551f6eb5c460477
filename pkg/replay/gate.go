package replay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/grpcserver"
	"github.com/motto123/minigate/proto/gatepb"
)

// Gate is what workers call instead of the gate that a session was on. It has no
// sessions: it says yes to everything, does nothing, and counts.
type Gate struct {
	gatepb.UnimplementedGateServer
	id       string
	listener net.Listener
	server   *grpc.Server
	calls    atomic.Int64
	served   chan error
}

// ListenGate begins to serve at host:port, by which workers have to reach it. The port
// may be 0.
func ListenGate(address string, options ...grpc.ServerOption) (*Gate, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("replay: address %q: want host:port: %w", address, err)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return nil, fmt.Errorf("replay: address %q: want the host by which the workers reach it", address)
	}
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("replay: make an id: %w", err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("replay: serve what workers call of gates: %w", err)
	}
	g := &Gate{id: bus.ReplayGate + hex.EncodeToString(id[:]), listener: listener, server: grpc.NewServer(append(slices.Clip(options), grpc.ConnectionTimeout(grpcserver.Greeting))...), served: make(chan error, 1)}
	gatepb.RegisterGateServer(g.server, g)
	go func() { g.served <- g.server.Serve(listener) }()
	return g, nil
}

// ID is the gate's name on the bus, new with each start.
func (g *Gate) ID() string { return g.id }

// Address is where workers call it.
func (g *Gate) Address() string { return g.listener.Addr().String() }

// Calls is how often it was called.
func (g *Gate) Calls() int { return int(g.calls.Load()) }

// Close ends it.
func (g *Gate) Close() error {
	g.server.Stop()
	if err := <-g.served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("replay: serve what workers call of gates: %w", err)
	}
	return nil
}

// Bind implements gatepb.GateServer.
func (g *Gate) Bind(context.Context, *gatepb.BindRequest) (*gatepb.BindResponse, error) {
	g.calls.Add(1)
	return &gatepb.BindResponse{}, nil
}

// Kick implements gatepb.GateServer.
func (g *Gate) Kick(context.Context, *gatepb.KickRequest) (*gatepb.KickResponse, error) {
	g.calls.Add(1)
	return &gatepb.KickResponse{}, nil
}

// Join implements gatepb.GateServer.
func (g *Gate) Join(context.Context, *gatepb.JoinRequest) (*gatepb.JoinResponse, error) {
	g.calls.Add(1)
	return &gatepb.JoinResponse{}, nil
}

// Leave implements gatepb.GateServer.
func (g *Gate) Leave(context.Context, *gatepb.LeaveRequest) (*gatepb.LeaveResponse, error) {
	g.calls.Add(1)
	return &gatepb.LeaveResponse{}, nil
}

// Sessions implements gatepb.GateServer.
func (g *Gate) Sessions(context.Context, *gatepb.SessionsRequest) (*gatepb.SessionsResponse, error) {
	g.calls.Add(1)
	return &gatepb.SessionsResponse{}, nil
}
