package worker

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var errNoLogin = status.Error(codes.Unauthenticated, "log in first")

// authenticate lets in only callers that are somebody. Who they are, the gate
// has said.
func authenticate(next HandlerFunc) HandlerFunc {
	return func(ctx context.Context, in any) (any, error) {
		if From(ctx).User == 0 {
			return nil, errNoLogin
		}
		return next(ctx, in)
	}
}
