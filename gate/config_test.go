package gate

import (
	"math"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// TestDefaultsOfMemory: what may wait follows from the memory that the process is
// told to keep to, unless it is set.
func TestDefaultsOfMemory(t *testing.T) {
	unlimited := debug.SetMemoryLimit(math.MaxInt64)
	defer debug.SetMemoryLimit(unlimited)
	for _, x := range []struct {
		memory                int64
		set                   int
		queues, held, pending int
	}{
		{math.MaxInt64, 0, 256 << 20, 256 << 20, 16 << 20},
		{8 << 30, 0, 256 << 20, 256 << 20, 16 << 20},
		{160 << 20, 0, 20 << 20, 20 << 20, 10 << 20},
		{1 << 20, 0, 1 << 20, 1 << 20, 1 << 20},
		{160 << 20, 5000, 5000, 5000, 5000},
	} {
		debug.SetMemoryLimit(x.memory)
		l := Config{Limits: Limits{WriteQueues: x.set, Unfinished: x.set, PendingPerPublisher: x.set}}.withDefaults().Limits
		if l.WriteQueues != x.queues || l.Unfinished != x.held || l.PendingPerPublisher != x.pending {
			t.Errorf("%+v: got %d, %d and %d", x, l.WriteQueues, l.Unfinished, l.PendingPerPublisher)
		}
	}
}

func TestConfig(t *testing.T) {
	b := start(t).bus
	for name, change := range map[string]func(*Config){
		"no address":      func(c *Config) { c.TCP = "" },
		"bad address":     func(c *Config) { c.TCP = "7001" },
		"no bus":          func(c *Config) { c.Bus = nil },
		"heartbeat":       func(c *Config) { c.Heartbeat = 1500 * time.Millisecond },
		"request timeout": func(c *Config) { c.RequestTimeout = -1 },
		"257 loops":       func(c *Config) { c.Loops = 257 },
		"-1 loops":        func(c *Config) { c.Loops = -1 },
		"tiny message":    func(c *Config) { c.Limits.Message = 1000 },
		"huge message":    func(c *Config) { c.Limits.Message = maxMessage + 1 },
		"routes":          func(c *Config) { c.Limits.Routes = 65536 },
		"write queue":     func(c *Config) { c.Limits.WriteQueue = -1 },
	} {
		cfg := Config{TCP: "127.0.0.1:0", Bus: b}
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.HasPrefix(err.Error(), "gate: ") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := New(Config{TCP: "127.0.0.1:0", Bus: b, Loops: 256}); err != nil {
		t.Error(err)
	}
}
