package worker

import (
	"context"

	"github.com/pkg/errors"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/pkg/stack"
)

// logged writes a line for what went wrong, once, here at the top. What the
// client did wrong it is told itself, so that is a line for debugging only.
func (w *Worker) logged(next HandlerFunc) HandlerFunc {
	return func(ctx context.Context, in any) (any, error) {
		out, err := next(ctx, in)
		if err == nil || errors.Is(err, errLate) {
			return out, err
		}
		caller := From(ctx)
		level := logrus.DebugLevel
		switch code := codeOf(err); {
		case code == codes.Internal || code == codes.DataLoss:
			level = logrus.ErrorLevel
		case code == codes.Unavailable || code == codes.DeadlineExceeded:
			level = logrus.WarnLevel
		}
		if w.log.Logger.IsLevelEnabled(level) {
			fields := logrus.Fields(caller.Fields())
			fields[logrus.ErrorKey] = err
			if text := stack.Of(err); text != "" && level < logrus.DebugLevel {
				fields["stack"] = text // here, so that a logger that knows no errors has it, too
			}
			w.log.WithFields(fields).Log(level, "the request failed")
		}
		return out, err
	}
}
