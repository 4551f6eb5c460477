// Package authrpc calls the Auth service over gRPC: whose token it is, and who
// users are. Its replicas are taken in turn, and a call that one of them could not
// take is tried at another.
//
// It refuses to cache: who holds a token may lose it at any moment.
package authrpc

import (
	"context"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/discovery"
	"github.com/motto123/minigate/pkg/grpcauth"
	"github.com/motto123/minigate/proto/authpb"
)

// Config says where the Auth service is.
type Config struct {
	// Address is where its replicas are, as discovery.Dial takes it.
	Address string
	// Options secure the calls; none is plain text.
	Options []grpc.DialOption
	// Timeout bounds a call whose context ends later; 3 s where it is 0. So long a
	// call also waits for a replica, where there is none now.
	Timeout time.Duration
	// Log takes what becomes of looking for replicas; nil is nowhere.
	Log logrus.FieldLogger
}

// Client calls the Auth service. Its methods are safe to call at once; their
// errors have gRPC's codes.
type Client struct {
	conn    *grpc.ClientConn
	auth    authpb.AuthClient
	timeout time.Duration
}

// New returns a client; it connects with the first call.
func New(cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 3 * time.Second
	}
	// Both calls only read.
	conn, err := discovery.Dial(cfg.Address, discovery.Config{
		Options: cfg.Options, Repeatable: []string{authpb.Auth_ServiceDesc.ServiceName}, Log: cfg.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("authrpc: %w", err)
	}
	return &Client{conn: conn, auth: authpb.NewAuthClient(conn), timeout: cfg.Timeout}, nil
}

// Verify says whose token it is; the code is Unauthenticated where it is
// nobody's. gate and session are what the token is used for.
func (c *Client) Verify(ctx context.Context, token, gate string, session uint64) (int64, error) {
	calling, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	out, err := c.auth.Verify(calling, &authpb.VerifyRequest{Token: token, Gate: gate, Session: session})
	if err != nil {
		return 0, failure(ctx, err)
	}
	return out.GetUser(), nil
}

// Users returns the users of some ids, without those that do not exist.
func (c *Client) Users(ctx context.Context, in *authpb.UsersRequest, opts ...grpc.CallOption) (*authpb.UsersResponse, error) {
	calling, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	out, err := c.auth.Users(calling, in, opts...)
	return out, failure(ctx, err)
}

// failure does not let a refusal of this process pass for one of a user's token:
// clients would throw good tokens away. And that no replica took a call in time is
// the service's fault, unless the caller's own time was over.
func failure(ctx context.Context, err error) error {
	switch {
	case grpcauth.Refused(err):
		return status.Error(codes.Unavailable, "the auth service refuses this process, and has logged why")
	case status.Code(err) == codes.DeadlineExceeded && ctx.Err() == nil:
		return status.Error(codes.Unavailable, "the auth service did not answer: "+status.Convert(err).Message())
	}
	return err
}

// Close ends the connections.
func (c *Client) Close() error { return c.conn.Close() }
