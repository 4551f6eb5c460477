package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/motto123/minigate/gate"
	"github.com/motto123/minigate/pkg/authrpc"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/events"
	"github.com/motto123/minigate/pkg/logging"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/presence"
	"github.com/motto123/minigate/pkg/redisdb"
	"github.com/motto123/minigate/pkg/snowflakes"
	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/workers"
)

// process is what the parts of one process share.
type process struct {
	workers.Process
	*Config
	log      *logging.Log
	topology bus.Topology
	named    string          // as traces and the broker's connections have it
	tracer   *tracing.Tracer // nil where nothing is traced
	bus      bus.Bus
	embedded bool
	stores   bool // has a worker with a database and ids of its own
	holds    bool // is a gate alone: holds clients, and asks others to answer them
	tapes    bool // has a worker whose requests are recorded
}

// run opens what open says, starts workers and a gate, and ends everything in
// reverse order when ctx ends or a part fails.
func (c *Config) run(ctx context.Context, open func(context.Context, *process) error, names []string, withGate bool) error {
	log, err := logging.New(c.Log)
	if err != nil {
		return err
	}
	p := &process{Process: c.Workers, Config: c, log: log, topology: bus.NewTopology(c.Prefix)}
	p.Parts = parts.New()
	p.stores = c.own == nil && (slices.Contains(names, "auth") || slices.Contains(names, "chat"))
	p.holds = withGate && len(names) == 0
	p.tapes = c.own != nil || slices.ContainsFunc(names, func(name string) bool { return slices.Contains(taped, name) })
	p.Parts.Start("log", log.Run)
	redisdb.LogTo(log)
	p.named = serviceOf(names, withGate)
	if err = p.observe(p.named); err == nil {
		err = open(ctx, p)
	}
	if err == nil {
		err = p.start(ctx, names, withGate)
	}
	if err == nil {
		select {
		case <-ctx.Done():
			log.Info("stopping")
		case <-p.Parts.Failed():
		}
	}
	p.Process.Admin.Draining()
	told, quiet := time.Now(), p.sayHurry()
	p.Parts.Stop()
	err = errors.Join(err, p.Parts.Wait())
	quiet()
	err = p.tell(err, time.Since(told))
	return errors.Join(err, log.Close())
}

// connect opens the services that a production process talks to; none of them has
// to be there yet.
func connect(ctx context.Context, p *process) (err error) {
	if p.Process.Redis, err = redisdb.Open(redisdb.Config{URL: p.Config.Redis}); err != nil {
		return err
	}
	p.Parts.Closing("Redis", p.Process.Redis)
	p.traceRedis()
	if p.stores {
		if p.DB, err = sqldb.Open(ctx, p.database(p.Database)); err != nil {
			return err
		}
		p.Parts.Closing("the database", p.DB)
	}
	b, err := rabbit.Open(rabbit.Config{
		URL: p.RabbitMQ, Topology: p.topology, Name: p.named,
		Report: func(err error) {
			p.log.WithError(err).Warn("RabbitMQ can not be used; trying again (--rabbitmq says where it is)")
		},
		Back: func(outage time.Duration) { p.log.Infof("RabbitMQ is back after %v", outage.Round(time.Millisecond)) },
	})
	if err != nil {
		return err
	}
	p.Parts.Closing("RabbitMQ", b)
	if err := p.use(b); err != nil || !p.tapes || !p.Tape.On {
		return err
	}
	return p.recordStream()
}

// embed opens the same in this process, with its data in a folder.
func embed(ctx context.Context, p *process) (err error) {
	e, err := redisdb.OpenEmbedded(filepath.Join(p.Data, "redis.json"))
	if err != nil {
		return err
	}
	p.Process.Redis = e
	p.Parts.Start("the embedded Redis", e.Run)
	p.traceRedis()
	if p.DB, err = sqldb.Open(ctx, p.database("sqlite:"+filepath.Join(p.Data, "minigate.db"))); err != nil {
		return err
	}
	p.Parts.Closing("the database", p.DB)
	b := mem.New(mem.Config{Topology: p.topology})
	p.Parts.Closing("the bus", b)
	p.embedded, p.RabbitMQ = true, ""
	if err := p.use(b); err != nil {
		return err
	}
	if p.DevTape.On {
		if err := p.recordFolder(); err != nil {
			return err
		}
	}
	return sqldb.Init(ctx, p.DB, p.Schema)
}

// start starts the parts: what others need first, the gate last.
func (p *process) start(ctx context.Context, names []string, withGate bool) (err error) {
	if p.stores {
		if p.IDs, err = snowflakes.New(snowflakes.Config{Redis: p.Process.Redis, Prefix: p.Prefix, Log: p.log}); err != nil {
			return err
		}
		p.Parts.Start("ids", p.IDs.Run)
	}
	present, err := presence.New(presence.Config{Redis: p.Process.Redis, Prefix: p.Prefix})
	if err != nil {
		return err
	}
	p.Events, err = events.New(events.Config{Topology: p.topology, URL: p.RabbitMQ, Ending: p.Ending, Tracer: p.tracer}, p.log)
	if err != nil {
		return err
	}
	calls, err := p.secure(names, withGate)
	if err != nil {
		return err
	}
	if p.Users, err = authrpc.New(authrpc.Config{Address: p.AuthAddress, Options: calls, Log: p.log}); err != nil {
		return err
	}
	p.Parts.Closing("calls of the auth service", p.Users)

	p.Process.Log, p.Mails = p.log, os.Stdout
	p.Worker.Bus, p.Worker.Topology, p.Worker.Presence, p.Worker.Log, p.Worker.Ending = p.bus, p.topology, present, p.log, p.Ending
	p.Worker.Tracer, p.Auth.Prefix = p.tracer, p.Prefix
	if err := p.services(names); err != nil {
		return err
	}
	if err := p.observeEvents(withGate); err != nil {
		return err
	}
	if !withGate {
		p.Process.Admin.Started()
		return nil
	}
	cfg := p.Gate
	// A port that is chosen only when it is bound is known to the gate alone.
	if _, port, _ := net.SplitHostPort(cfg.GRPC); cfg.AdvertiseGRPC == "" && port != "0" {
		if cfg.AdvertiseGRPC, err = reachable(cfg.GRPC); err != nil {
			return err
		}
	}
	cfg.Bus, cfg.Topology, cfg.Presence, cfg.Events, cfg.Verify, cfg.Log, cfg.Ending = p.bus, p.topology, present, p.Events, p.Users, p.log, p.Ending
	cfg.Tracer = p.tracer
	g, err := gate.New(cfg)
	if err != nil {
		return err
	}
	if err := p.observeGate(g); err != nil {
		return err
	}
	p.Parts.Start("gate", g.Run)
	select {
	case <-g.Ready():
		p.Process.Admin.Started()
		if p.embedded {
			p.greet(g.WebSocketAddress())
		}
	case <-p.Parts.Failed():
	case <-ctx.Done():
	}
	return nil
}

// greeting says what to try next.
const greeting = `
minigate is ready. It keeps its data in %s; Ctrl-C ends it.

Try, each in a terminal of its own:

  %[2]s chat%[3]s --register --account alice --password alice-secret --email alice@example.org --to bob
  %[2]s chat%[3]s --register --account bob --password bob-secret --email bob@example.org --to alice

or send one request:

  %[2]s call%[3]s echo.echo '{"hello":"world"}'

`

// greet names the gate where clients do not look for it anyway.
func (p *process) greet(websocket string) {
	where := ""
	if url := "ws://" + websocket + "/ws"; p.Gate.WebSocket != "" && url != p.DefaultGate {
		where = " --gate " + url
	}
	fmt.Printf(greeting, p.Data, os.Args[0], where)
}
