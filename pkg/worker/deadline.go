package worker

import (
	"context"
	"time"

	"github.com/pkg/errors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errLate says that nobody waits for the answer any more: there will be none.
var errLate = errors.New("worker: the deadline had passed before the request was handled")

// deadline turns away what is late, and gives the end of a context its code.
func deadline(next HandlerFunc) HandlerFunc {
	return func(ctx context.Context, in any) (any, error) {
		if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) {
			return nil, errLate
		}
		out, err := next(ctx, in)
		if err == nil {
			return out, nil
		}
		canceled := errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled
		if canceled && errors.Is(context.Cause(ctx), errShutdown) {
			return nil, Fail(codes.Unavailable, "the service is shutting down", err)
		}
		return nil, err
	}
}
