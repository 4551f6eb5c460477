package bus_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/motto123/minigate/pkg/bus"
)

func TestTopologyNames(t *testing.T) {
	standard, other := bus.NewTopology(""), bus.NewTopology("other")
	for _, c := range []struct {
		what             string
		name             func(bus.Topology) string
		standard, others string
	}{
		{"prefix", bus.Topology.Prefix, "minigate", "other"},
		{"request exchange", bus.Topology.RequestExchange, "minigate.request", "other.request"},
		{"reply exchange", bus.Topology.ReplyExchange, "minigate.reply", "other.reply"},
		{"event exchange", bus.Topology.EventExchange, "minigate.event", "other.event"},
		{"dead exchange", bus.Topology.DeadExchange, "minigate.dead", "other.dead"},
		{"dead queue", bus.Topology.DeadQueue, "minigate.dead", "other.dead"},
		{"tape", bus.Topology.TapeStream, "minigate.tape", "other.tape"},
		{"gate queue", func(t bus.Topology) string { return t.GateQueue("g1") }, "gate.g1", "other.gate.g1"},
		{"worker queue", func(t bus.Topology) string { return t.WorkerQueue("chat") }, "worker.chat", "other.worker.chat"},
		{"event queue", func(t bus.Topology) string { return t.EventQueue("email", "user.registered") },
			"event.email.user.registered", "other.event.email.user.registered"},
		{"gate key", func(t bus.Topology) string { return t.GateKey("g1") }, "gate.g1", "gate.g1"},
		{"all gates", bus.Topology.AllGates, "gate.all", "gate.all"},
		{"service key", func(t bus.Topology) string { return t.ServiceKey("chat") }, "chat.#", "chat.#"},
		{"announce key", bus.Topology.AnnounceKey, "$announce", "$announce"},
	} {
		if got := c.name(standard); got != c.standard {
			t.Errorf("%s is %q, want %q", c.what, got, c.standard)
		}
		if got := c.name(other); got != c.others {
			t.Errorf("with a prefix, %s is %q, want %q", c.what, got, c.others)
		}
	}
	want := []string{"minigate.request", "minigate.reply", "minigate.event", "minigate.dead"}
	if got := standard.Exchanges(); !slices.Equal(got, want) {
		t.Errorf("exchanges %q, want %q", got, want)
	}
	if bus.NewTopology("minigate") != standard {
		t.Error("naming the default prefix makes another installation")
	}
}

func TestValidRoute(t *testing.T) {
	for route, want := range map[string]bool{
		"chat.send":                       true,
		"a.b":                             true,
		"a.b.c.d":                         true,
		"Game_1.move-fast.X9":             true,
		"a." + strings.Repeat("x", 253):   true,
		"a." + strings.Repeat("x", 254):   false,
		"":                                false,
		"chat":                            false,
		".":                               false,
		".send":                           false,
		"chat.":                           false,
		"chat..send":                      false,
		"chat.send.":                      false,
		"chat.*":                          false,
		"chat.#":                          false,
		"#.send":                          false,
		"$announce":                       false,
		"$chat.send":                      false,
		"chat.send now":                   false,
		"chat.s\x00nd":                    false,
		"chat.s\u00e9nd":                  false,
		"chat.\xff":                       false,
		"chat/send":                       false,
		strings.Repeat("a.", 127) + "a":   true,
		strings.Repeat("a.", 128) + "abc": false,
	} {
		if got := bus.ValidRoute(route); got != want {
			t.Errorf("ValidRoute(%q) = %v, want %v", route, got, want)
		}
	}
}

func TestService(t *testing.T) {
	for route, want := range map[string]string{"chat.send": "chat", "a.b.c": "a", "alone": "alone", "": ""} {
		if got := bus.Service(route); got != want {
			t.Errorf("Service(%q) = %q, want %q", route, got, want)
		}
	}
}
