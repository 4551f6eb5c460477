package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/client"
)

const (
	memoryLimit = 224 << 20        // GOMEMLIMIT of the gate
	recovery    = 15 * time.Second // in which calls are answered again; it takes two, where nothing else runs
)

// gateBlocked is the gate's connection as the broker lists it.
var gateBlocked = regexp.MustCompile(`minigate-gate.*\sblocked`)

// TestOverload: a gate with ten times the clients that keep it busy, of whom some do
// not read, whose worker stops and whose broker is blocked, stays within its memory,
// answers each request once, and recovers by itself.
//
// It runs alone: what it does to the machine, other tests would notice.
func TestOverload(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "minigate")
	building := make(chan error, 1)
	go func() { building <- buildPlain(binary) }()
	b := newBroker(t)
	w := newWorld(t)
	w.rabbitmq = b.url
	if err := <-building; err != nil {
		t.Fatal(err)
	}
	worker := start(t, w.env(), binary, "worker", "echo", "--admin", freePort(t))
	tcp, web, admin := freePort(t), freePort(t), freePort(t)
	g := start(t, append(w.env(), fmt.Sprintf("GOMEMLIMIT=%d", memoryLimit)), binary,
		"gate", "--gate-tcp", tcp, "--gate-websocket", web, "--gate-grpc", freePort(t), "--admin", admin)
	g.says(t, `gate is ready.*`+tcp)
	w.consumed("echo", 1)
	o := &overload{t: t, gate: g, address: "tcp://" + tcp, admin: admin}
	o.answers("before")
	idle, goroutines := o.memory("VmRSS"), o.metric("go_goroutines")

	f := newFlood(t, "tcp://"+tcp, "ws://"+web+"/ws")
	f.steady(28, true)
	o.flood = f
	o.step("28 clients keep the gate busy", 3*time.Second)
	// Ten times as many: if 28 did, the answers are hardly more now.
	f.steady(32, true)
	f.steady(60, false)
	f.bad(40, "deaf", requests(10, 20_000), deaf)
	f.bad(60, "slow", requests(100, 0), slow)
	f.bad(60, "fickle", requests(100, 0), fickle)
	o.step("flooded by 280", 5*time.Second)

	worker.signal(t, syscall.SIGSTOP)
	o.step("the worker is stopped", 4*time.Second)
	worker.signal(t, syscall.SIGCONT)
	o.recovers("the worker continues")

	ctl(t, b, "set_vm_memory_high_watermark", "absolute", "1MB")
	unavailable := f.code(codes.Unavailable)
	eventually(t, "the broker blocks the gate", func() bool {
		return f.code(codes.Unavailable) > unavailable && gateBlocked.MatchString(ctl(t, b, "list_connections", "client_properties", "state"))
	})
	o.step("the broker is blocked", 4*time.Second)
	ctl(t, b, "set_vm_memory_high_watermark", "0.4")
	o.recovers("the broker is unblocked")

	worker.signal(t, syscall.SIGSTOP)
	ctl(t, b, "set_vm_memory_high_watermark", "absolute", "1MB")
	o.step("both", 4*time.Second)
	ctl(t, b, "set_vm_memory_high_watermark", "0.4")
	worker.signal(t, syscall.SIGCONT)
	o.recovers("both are back")

	begun := time.Now()
	f.end()
	t.Logf("all is answered after %v more; %v", time.Since(begun).Round(time.Millisecond), f)
	// On a machine with much else to do, clients that read all they can are slow, too.
	if cut := f.cut.Load(); cut > 0 {
		kicked := o.metric(`minigate_gate_kicks_total{reason="slow_consumer"}`)
		t.Logf("%d of the greedy clients were cut off; the gate cut off %v in all", cut, kicked)
		if float64(cut) > kicked {
			t.Errorf("%d of 60 greedy clients lost their connection, and the gate cut off %v in all", cut, kicked)
		}
	}
	if f.answers() != f.sent.Load() && !t.Failed() {
		t.Errorf("%d requests have %d answers", f.sent.Load(), f.answers())
	}
	o.answers("afterwards")
	peak := o.memory("VmHWM")
	t.Logf("memory: %d MiB idle, %d MiB at the most, GOMEMLIMIT %d MiB", idle>>20, peak>>20, memoryLimit>>20)
	if peak > memoryLimit*12/10 {
		t.Errorf("the gate took %d MiB, want no more than %d", peak>>20, memoryLimit*12/10>>20)
	}
	g.lives(t)
	worker.lives(t)
	for name, limit := range map[string]float64{"go_goroutines": goroutines + 10, "minigate_gate_panics_total": 0, "minigate_gate_unsent_bytes": 0, "minigate_gate_unfinished_bytes": 0} {
		eventually(t, fmt.Sprintf("%s is down to %v", name, limit), func() bool { return o.metric(name) <= limit })
	}
}

// overload is the gate of TestOverload.
type overload struct {
	t       *testing.T
	gate    *process
	address string
	admin   string
	flood   *flood
}

// step lets time pass.
func (o *overload) step(what string, d time.Duration) {
	o.t.Helper()
	before := o.flood.answers()
	pass := time.NewTimer(d)
	defer pass.Stop()
	select {
	case <-pass.C:
	case <-o.gate.exited:
		o.t.Fatalf("%s: the gate has ended: %v", what, o.gate.err)
	}
	o.t.Logf("%s: %d answers in %v, %d MiB; %v", what, o.flood.answers()-before, d, o.memory("VmRSS")>>20, o.flood)
	if n := o.metric("go_goroutines"); n > 100 {
		o.t.Errorf("%s: %v goroutines", what, n)
	}
}

// metric is what the gate says of itself. A flooded gate says it within 25 ms; with the
// race detector, beside other tests, it may be so late that its server gives up.
func (o *overload) metric(name string) (v float64) {
	o.t.Helper()
	eventually(o.t, "the gate says "+name, func() bool {
		_, body := fetch(o.t, o.admin, "/metrics")
		_, value, found := strings.Cut(body, "\n"+name+" ")
		_, err := fmt.Sscan(value, &v)
		return found && err == nil
	})
	return v
}

// recovers waits until a client that comes now is answered.
func (o *overload) recovers(what string) {
	o.t.Helper()
	begun := time.Now()
	ok := o.flood.code(codes.OK)
	o.answers(what)
	took := time.Since(begun)
	o.t.Logf("%s: a new client is answered after %v; %v", what, took.Round(time.Millisecond), o.flood)
	if took > recovery {
		o.t.Errorf("%s: a new client is answered after %v, want within %v", what, took, recovery)
	}
	eventually(o.t, "the others are answered too", func() bool { return o.flood.code(codes.OK) > ok+1000 })
}

// answers waits until a call of a new client succeeds.
func (o *overload) answers(what string) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), patience)
	defer cancel()
	for {
		err := o.call(ctx)
		if err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			o.t.Fatalf("%s: a new client's call: %v", what, err)
		}
	}
}

func (o *overload) call(ctx context.Context) error {
	c, err := client.Dial(ctx, o.address, client.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = c.CallRaw(ctx, "echo.echo", codec.Text, "", []byte("new"))
	return err
}

// memory is what /proc says of the gate, in bytes.
func (o *overload) memory(name string) int64 {
	o.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", o.gate.cmd.Process.Pid))
	if err != nil {
		o.t.Fatalf("this test reads Linux' /proc: %v", err)
	}
	m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindStringSubmatch(string(b))
	if m == nil {
		o.t.Fatalf("no %s in %s", name, b)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		o.t.Fatal(err)
	}
	return n << 10
}

// buildPlain builds the command without the race detector, whose own memory is
// several times that of the program.
func buildPlain(binary string) error {
	cmd := exec.Command("go", "build", "-o", binary, ".")
	cmd.Dir = built.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// ctl runs rabbitmqctl.
func ctl(t *testing.T, b *broker, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), address(t, "RABBITMQ_CTL"), append([]string{"rabbit", b.dir, "ctl"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("rabbitmqctl %v: %v\n%s", args, err, out)
	}
	return string(out)
}
