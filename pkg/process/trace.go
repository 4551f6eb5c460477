package process

import (
	"strings"

	"github.com/motto123/minigate/pkg/redisdb"
	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/tracing/otlp"
)

// serviceOf names a process in traces, by what runs in it.
func serviceOf(names []string, withGate bool) string {
	switch {
	case withGate && len(names) > 0:
		return "minigate-dev"
	case withGate:
		return "minigate-gate"
	}
	return "minigate-" + strings.Join(names, "-")
}

// traces starts the export of traces, where they are asked for; otherwise it returns
// nil. It ends after all that makes spans.
func (p *process) traces(service string) (*otlp.Exporter, error) {
	cfg := p.Config.Traces
	cfg.Service, cfg.Namespace, cfg.Version, cfg.Ending, cfg.Log = service, p.Prefix, p.Version, p.Ending, p.log
	if cfg.System == "" {
		cfg.System = "rabbitmq"
	}
	exporter, err := otlp.New(cfg)
	if err != nil || exporter == nil {
		return nil, err
	}
	p.Parts.Start("traces", exporter.Run)
	p.tracer = exporter.Tracer()
	return exporter, nil
}

// traceRedis has commands traced, before there are any.
func (p *process) traceRedis() {
	if p.tracer != nil {
		redisdb.Trace(p.Process.Redis, p.tracer.Provider())
	}
}

// database is the configuration of the database at an address.
func (p *process) database(address string) sqldb.Config {
	cfg := sqldb.Config{Address: address}
	if p.tracer != nil {
		cfg.Tracer = p.tracer.Provider()
	}
	return cfg
}
