// Package echo answers every request with its own bytes, data type and name:
// the service of tests, benchmarks and first steps.
//
// It refuses to look at what it is given.
package echo

import (
	"context"

	"github.com/motto123/minigate/pkg/worker"
)

// Service is the name of the service, and Route its only route, which needs no
// login.
const (
	Service = "echo"
	Route   = "echo.echo"
)

// New returns the worker.
func New(cfg worker.Config) *worker.Worker {
	w := worker.New(Service, cfg)
	worker.HandleRaw(w, Route, echo, worker.Public())
	return w
}

func echo(_ context.Context, in worker.Raw) (worker.Raw, error) { return in, nil }
