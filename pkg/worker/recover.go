package worker

import (
	"context"

	"github.com/pkg/errors"
)

// recovered makes a panic the error of one request, with the stack of where it
// happened: the deferred function runs on top of it.
func (w *Worker) recovered(next HandlerFunc) HandlerFunc {
	return func(ctx context.Context, in any) (out any, err error) {
		defer func() {
			if reason := recover(); reason != nil {
				w.stats.panics.Add(1)
				out, err = nil, errors.Errorf("panic: %v", reason)
			}
		}()
		return next(ctx, in)
	}
}
