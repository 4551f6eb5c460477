package process

import (
	"context"
	"os"
	"runtime/debug"
	"slices"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/authrpc"
	"github.com/motto123/minigate/pkg/events"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/worker"
)

// Service is one of somebody's own, beside those that are shipped: its worker, and
// what of the process it may use. All of it is closed when the worker has ended.
type Service struct {
	*worker.Worker
	Events *events.Events // to publish, and to subscribe to before it runs
	Users  *authrpc.Client
	Redis  redis.UniversalClient
	Log    logrus.FieldLogger
}

// ServiceSettings declares the settings of a service of somebody's own.
func (c *Config) ServiceSettings(s settings.Set) {
	c.commonSettings(s)
	c.Workers.WorkerSettings(s.Group("Worker"))
	c.authSettings(s)
	c.Tape.settings(s, streamSize)
	c.GRPC.Settings(s.Group("Calls between services"))
	c.productionSettings(s)
}

// CheckService says what of the settings a service refuses.
func (c *Config) CheckService() error {
	return c.refuse(slices.Concat(c.insecure(), c.unproven()))
}

// RunService runs the service that define declares until ctx ends or it fails.
func (c *Config) RunService(ctx context.Context, name string, define func(*Service) error) error {
	collectLess()
	c.own = define
	return c.run(ctx, connect, []string{name}, false)
}

// collectLess sets a worker's GOGC, where nobody else has.
func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(workerGCPercent)
	}
}

// services starts the services of a process.
func (p *process) services(names []string) error {
	if p.own == nil {
		return p.Start(names...)
	}
	return p.StartOwn(names[0], func(w *worker.Worker) error {
		return p.own(&Service{
			Worker: w, Events: p.Events, Users: p.Users, Redis: p.Process.Redis, Log: p.log.WithField("service", names[0]),
		})
	})
}
