// Package process puts minigate's processes together: it opens what their parts
// talk to, starts the parts in the order in which they need each other, and ends
// them in the reverse order.
//
// It refuses to know where settings come from, and to look at signals: a
// context that ends is the wish to stop.
package process

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/motto123/minigate/gate"
	"github.com/motto123/minigate/pkg/admin"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/discovery"
	"github.com/motto123/minigate/pkg/grpcauth"
	"github.com/motto123/minigate/pkg/logging"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/redisdb"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/tracing/otlp"
	"github.com/motto123/minigate/workers"
)

// Config is what the processes need. Its settings are declared by the methods
// below, for the commands that have them.
type Config struct {
	Log          logging.Config
	Prefix       string          // of all names in RabbitMQ and Redis
	RabbitMQ     string          // a URL
	Redis        string          // host:port or a URL
	Database     string          // a URL
	DatabaseWait time.Duration   // for one that does not answer yet
	AuthAddress  string          // as discovery.Dial takes it
	GRPC         grpcauth.Config // of the calls between services
	Gate         gate.Config
	Admin        admin.Config
	Traces       otlp.Config
	Workers      workers.Process
	Tape         TapeConfig // of workers, in a stream of RabbitMQ
	DevTape      TapeConfig // of a process that has everything in it, in its folder
	Data         string     // the folder of a process that has everything in it
	Production   bool       // see CheckGate and CheckWorkers

	Ending *parts.Ending // may hurry the end of the process

	own func(*Service) error // of RunService

	Schema      string // of the database, in SQL
	DefaultGate string // where clients look for a gate unless told
	Version     string // of what runs
}

// GateSettings declares the settings of minigate gate.
func (c *Config) GateSettings(s settings.Set) {
	c.commonSettings(s)
	c.Gate.Settings(s.Group("Gate"))
	c.Gate.TraceSettings(s.Group("Traces"))
	c.authSettings(s)
	c.GRPC.Settings(s.Group("Calls between services"))
	c.productionSettings(s)
}

// WorkerSettings declares the settings of minigate worker.
func (c *Config) WorkerSettings(s settings.Set) {
	c.commonSettings(s)
	c.DatabaseSettings(s.Of("auth", "chat"))
	c.Workers.WorkerSettings(s.Group("Workers"))
	c.Workers.AuthSettings(s.Group("Auth worker").Of("auth"))
	c.authSettings(s.Of("chat"))
	c.Tape.settings(s.Of(taped...), streamSize)
	c.Workers.EmailSettings(s.Group("Email worker").Of("email"))
	c.GRPC.Settings(s.Group("Calls between services"))
	c.productionSettings(s)
}

// DevSettings declares the settings of minigate dev.
func (c *Config) DevSettings(s settings.Set) {
	c.logSettings(s)
	s.Group("Stores").Text(&c.Data, "data", ".dev", "folder that keeps users, messages and logins")
	c.Gate.Settings(s.Group("Gate"))
	c.Workers.WorkerSettings(s.Group("Workers"))
	c.Workers.AuthSettings(s.Group("Auth worker"))
	c.DevTape.settings(s, folderSize)
	c.Admin.Settings(s.Group("Admin"))
	c.Traces.Settings(s.Group("Traces"))
	c.Gate.TraceSettings(s.Group("Traces"))
}

// DatabaseSettings declares where the database is.
func (c *Config) DatabaseSettings(s settings.Set) {
	s.Group("Stores").SecretURL(&c.Database, "database", "mysql://root@127.0.0.1:3306/minigate", "mysql://USER:PASSWORD@HOST:PORT/NAME or sqlite:PATH", sqldb.CheckAddress)
}

// commonSettings are those of every process that is one of several.
func (c *Config) commonSettings(s settings.Set) {
	c.logSettings(s)
	c.Admin.Settings(s.Group("Admin"))
	c.Traces.Settings(s.Group("Traces"))
	s = s.Group("Broker")
	s.SecretURL(&c.RabbitMQ, "rabbitmq", "amqp://guest:guest@127.0.0.1:5672/", "URL of RabbitMQ, amqp://USER:PASSWORD@HOST:PORT/VHOST", rabbit.CheckURL)
	s.Text(&c.Prefix, "prefix", bus.DefaultPrefix, "what names in RabbitMQ and Redis begin with; one an installation")
	s = s.Group("Stores")
	s.SecretURL(&c.Redis, "redis", "127.0.0.1:6379", "Redis, HOST:PORT or redis://:PASSWORD@HOST:PORT/DB", redisdb.CheckURL)
}

func (c *Config) logSettings(s settings.Set) {
	s = s.Group("Log")
	s.Text(&c.Log.Level, "log-level", "info", "what is logged", "error", "warn", "info", "debug")
	s.Text(&c.Log.Format, "log-format", "text", "form of the log on the screen", "text", "json")
	s.Text(&c.Log.File, "log-file", "", "file that takes the log too, and is rotated daily")
	s.Int(&c.Log.Days, "log-days", 14, 1, 3650, "days that rotated log files are kept")
}

func (c *Config) authSettings(s settings.Set) {
	s = s.Group("Calls between services")
	s.Checked(&c.AuthAddress, "auth-address", "127.0.0.1:7102", "address", discovery.Want, "where the auth workers are called by gRPC", discovery.Check)
}

func (c *Config) productionSettings(s settings.Set) {
	s = s.Group("Production")
	s.Bool(&c.Production, "production", false, "refuse settings that are for development only, and say which")
}

// RunGate runs a gate until ctx ends or it fails.
func (c *Config) RunGate(ctx context.Context, _ []string) error {
	return c.run(ctx, connect, nil, true)
}

// workerGCPercent is what workers have instead of GOGC's 100: next to nothing lives
// in a stateless worker, so that its heap was collected some thirty times a second.
const workerGCPercent = 400

// RunWorkers runs the workers that are named, after CheckWorkers.
func (c *Config) RunWorkers(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("worker: want the name of one or more of %s", strings.Join(workers.Names(), ", "))
	}
	collectLess()
	return c.run(ctx, connect, names, false)
}

// RunDev runs everything, with its data in a folder.
func (c *Config) RunDev(ctx context.Context, _ []string) error {
	if c.Log.File == "" {
		c.Log.File = filepath.Join(c.Data, "minigate.log")
	}
	c.AuthAddress, c.Traces.System = c.Workers.AuthGRPC, "memory"
	return c.run(ctx, embed, workers.Names(), true)
}
