package process

import (
	"context"
	"fmt"

	"github.com/motto123/minigate/gate"
	"github.com/motto123/minigate/pkg/admin"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/redisdb"
)

// observe serves what operators ask, and exports traces where they are asked for,
// before there is anything to tell and until all other parts have ended.
func (p *process) observe(service string) (err error) {
	cfg := p.Config.Admin
	cfg.Log, cfg.Version = p.log, p.Version
	if p.Process.Admin, err = admin.New(cfg); err != nil {
		return err
	}
	traces, err := p.traces(service)
	if err != nil {
		return err
	}
	p.Parts.Start("admin", p.Process.Admin.Run)
	if traces == nil {
		return nil
	}
	return p.Process.Admin.Measure(traces.Metrics())
}

// metered is a bus that counts.
type metered interface {
	bus.Bus
	Meter() *bus.Meter
}

// use makes b the process's bus.
func (p *process) use(b metered) error {
	p.bus = b
	// Workers can do nothing without it. Gates hold their clients meanwhile, and say
	// for themselves when they should get more: see gate.Health.
	needed := p.Process.Admin.Ready
	if p.holds {
		needed = p.Process.Admin.Depends
	}
	needed("broker", func(context.Context) error {
		if s := b.State(); s != bus.Up {
			return fmt.Errorf("the broker is %v", s)
		}
		return nil
	})
	if p.stores { // auth and chat: neither a login nor a message goes without
		p.Process.Admin.Ready("database", p.DB.PingContext)
		p.Process.Admin.Ready("redis", func(ctx context.Context) error { return redisdb.Ping(ctx, p.Process.Redis) })
	}
	return p.Process.Admin.Measure(b.Meter())
}

// observeEvents is called when all have subscribed.
func (p *process) observeEvents(withGate bool) error {
	if !withGate { // clients are served without events
		p.Process.Admin.Ready("events", func(context.Context) error { return p.Events.Health() })
	}
	return p.Process.Admin.Measure(p.Events)
}

func (p *process) observeGate(g *gate.Gate) error {
	p.Process.Admin.Ready("gate", func(context.Context) error { return g.Health() })
	p.Process.Admin.Depends("replies", func(context.Context) error { return g.Replies() })
	p.Process.Admin.Live("gate", g.Live)
	return p.Process.Admin.Measure(g.Metrics())
}
