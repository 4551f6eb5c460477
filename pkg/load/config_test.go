package load

import (
	"errors"
	"io"
	"math"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/motto123/minigate/pkg/settings"
)

func TestOptionsAreChecked(t *testing.T) {
	const local = "tcp://127.0.0.1:7001"
	if _, err := New(Config{Gates: []string{local}}); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"no gate":              {},
		"no port":              {Gates: []string{"tcp://127.0.0.1"}},
		"scheme":               {Gates: []string{"http://127.0.0.1:80"}},
		"password":             {Gates: []string{"tcp://a:b@127.0.0.1:80"}},
		"connections":          {Gates: []string{local}, Connections: -1},
		"more than files":      {Gates: []string{local}, Connections: 9_000_000, Addresses: 250},
		"in flight":            {Gates: []string{local}, InFlight: 1025},
		"idle":                 {Gates: []string{local}, Idle: 1.1},
		"idle is no number":    {Gates: []string{local}, Idle: math.NaN()},
		"rate of the idle":     {Gates: []string{local}, Idle: 1, Rate: 1},
		"route":                {Gates: []string{local}, Route: "echo"},
		"payload":              {Gates: []string{local}, Payload: 2 << 20},
		"body":                 {Gates: []string{local}, Body: string(make([]byte, 2<<20))},
		"rate and think":       {Gates: []string{local}, Rate: 1, Think: time.Second},
		"duration":             {Gates: []string{local}, Duration: -1},
		"addresses":            {Gates: []string{local}, Addresses: 251},
		"addresses over IPv6":  {Gates: []string{"tcp://[::1]:7001"}, Addresses: 2},
		"addresses of a route": {Gates: []string{"tcp://192.0.2.1:7001"}, Anywhere: true, Addresses: 2},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestOnlyThisMachine(t *testing.T) {
	// 192.0.2.0/24 is for documentation: RFC 5737.
	cfg := Config{Gates: []string{"tcp://127.0.0.1:1", "ws://192.0.2.1:80/ws"}}
	if _, err := New(cfg); !errors.Is(err, ErrNotLocal) {
		t.Errorf("got %v, want ErrNotLocal", err)
	}
	cfg.Anywhere = true
	if _, err := New(cfg); err != nil {
		t.Error(err)
	}
}

func TestSettings(t *testing.T) {
	var c Command
	fs := pflag.NewFlagSet("load", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	c.Settings(settings.Set{FlagSet: fs})
	if _, err := New(c.Config); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	if err := fs.Parse([]string{"--gate=tcp://127.0.0.1:1, ws://127.0.0.1:2/ws", "--idle=0.25", "--payload=1KiB", "--json"}); err != nil {
		t.Fatal(err)
	}
	if len(c.Gates) != 2 || c.Idle != 0.25 || c.Payload != 1024 || !c.JSON {
		t.Errorf("%+v", c)
	}
	for _, bad := range []string{"--idle=2", "--idle=x", "--gate=nowhere", "--rate=-1"} {
		if fs.Parse([]string{bad}) == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
