package auth

import (
	"context"
	"slices"

	"github.com/pkg/errors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/proto/authpb"
)

// maxUsers is how many ids one call of Users may name.
const maxUsers = 1000

// RegisterGRPC gives a gRPC server the service Auth, which gates and workers
// call.
func (s *Service) RegisterGRPC(r grpc.ServiceRegistrar) {
	authpb.RegisterAuthServer(r, server{service: s})
}

// server is the gRPC face of a Service.
type server struct {
	authpb.UnimplementedAuthServer
	service *Service
}

// Verify says whose token it is. Where the caller names a session, logout on it
// will end this token.
func (s server) Verify(ctx context.Context, in *authpb.VerifyRequest) (*authpb.VerifyResponse, error) {
	found, err := s.service.tokens.find(ctx, in.GetToken())
	if errors.Is(err, errNoToken) {
		return nil, status.Error(codes.Unauthenticated, "the token is not known, or has ended")
	}
	if err != nil {
		return nil, s.service.unavailable(ctx, "verify a token", err)
	}
	if in.GetGate() != "" {
		if err := s.service.tokens.attach(ctx, in.GetGate(), in.GetSession(), found); err != nil {
			return nil, s.service.unavailable(ctx, "remember the session's token", err)
		}
	}
	return &authpb.VerifyResponse{User: found.user, ExpiresAt: found.expires}, nil
}

// Users returns users as others see them.
func (s server) Users(ctx context.Context, in *authpb.UsersRequest) (*authpb.UsersResponse, error) {
	if len(in.GetIds()) > maxUsers {
		return nil, status.Errorf(codes.InvalidArgument, "%d ids, want at most %d", len(in.GetIds()), maxUsers)
	}
	ids := slices.Clone(in.GetIds())
	slices.Sort(ids)
	found, err := s.service.users.byIDs(ctx, slices.Compact(ids))
	if err != nil {
		err = s.service.stored(ctx, "list users", err)
		if _, ok := status.FromError(err); ok {
			return nil, err
		}
		// Beside the bus there is no worker that logs and hides it.
		s.service.logOf(ctx).Errorf("auth: %+v", err)
		return nil, status.Error(codes.Internal, "internal error")
	}
	out := &authpb.UsersResponse{Users: make([]*authpb.User, len(found))}
	for i, u := range found {
		out.Users[i] = u.public()
	}
	return out, nil
}
