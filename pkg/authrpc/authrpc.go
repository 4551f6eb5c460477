// Package authrpc calls the Auth service over gRPC: whose token it is, and who
// users are. Its replicas are taken in turn, and a call that one of them could not
// take is tried at another.
//
// It refuses to cache: who holds a token may lose it at any moment.
package authrpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/grpcauth"
	"github.com/motto123/minigate/proto/authpb"
)

// Config says where the Auth service is.
type Config struct {
	// Addresses are host:port of its replicas, at least one.
	Addresses []string
	// Options secure the calls; none is plain text.
	Options []grpc.DialOption
	// Timeout bounds a call whose context ends later; 3 s where it is 0.
	Timeout time.Duration
}

// Client calls the Auth service. Its methods are safe to call at once; their
// errors have gRPC's codes.
type Client struct {
	conn    *grpc.ClientConn
	auth    authpb.AuthClient
	timeout time.Duration
}

// serviceConfig takes replicas in turn, and tries again what no replica has seen.
const serviceConfig = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"methodConfig": [{
		"name": [{"service": "auth.Auth"}],
		"retryPolicy": {
			"maxAttempts": 3, "initialBackoff": "0.02s", "maxBackoff": "0.2s", "backoffMultiplier": 2,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}]
}`

// New returns a client; it connects with the first call.
func New(cfg Config) (*Client, error) {
	if len(cfg.Addresses) == 0 {
		return nil, errors.New("authrpc: no address of the auth service")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 3 * time.Second
	}
	replicas := manual.NewBuilderWithScheme("auth")
	var state resolver.State
	for _, address := range cfg.Addresses {
		// A replica's certificate has the host by which it is called.
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("authrpc: %w", err)
		}
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address, ServerName: host}}})
	}
	replicas.InitialState(state)
	conn, err := grpc.NewClient("auth:///replicas", append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), // unless Options say otherwise
		grpc.WithResolvers(replicas), grpc.WithDefaultServiceConfig(serviceConfig),
	}, cfg.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("authrpc: %w", err)
	}
	return &Client{conn: conn, auth: authpb.NewAuthClient(conn), timeout: cfg.Timeout}, nil
}

// Verify says whose token it is; the code is Unauthenticated where it is
// nobody's. gate and session are what the token is used for.
func (c *Client) Verify(ctx context.Context, token, gate string, session uint64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	out, err := c.auth.Verify(ctx, &authpb.VerifyRequest{Token: token, Gate: gate, Session: session})
	if err != nil {
		return 0, failure(err)
	}
	return out.GetUser(), nil
}

// Users returns the users of some ids, without those that do not exist.
func (c *Client) Users(ctx context.Context, in *authpb.UsersRequest, opts ...grpc.CallOption) (*authpb.UsersResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	out, err := c.auth.Users(ctx, in, opts...)
	return out, failure(err)
}

// failure does not let a refusal of this process pass for one of a user's token:
// clients would throw good tokens away.
func failure(err error) error {
	if !grpcauth.Refused(err) {
		return err
	}
	return status.Error(codes.Unavailable, "the auth service refuses this process, and has logged why")
}

// Close ends the connections.
func (c *Client) Close() error { return c.conn.Close() }
