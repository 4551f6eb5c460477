package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/client"
)

// startBare starts a server that is the event loop alone.
func (b *bench) startBare(ctx context.Context, over string) (*process, string, error) {
	p, err := b.start("bare", serveName, over)
	if err != nil {
		return nil, "", err
	}
	var address string
	err = p.await(ctx, func(line string) (ok bool) {
		address, ok = strings.CutPrefix(line, listening)
		return ok
	})
	if over == "websocket" {
		return p, "ws://" + address + "/ws", err
	}
	return p, "tcp://" + address, err
}

// gateProcess is a gate in a process of its own, or with everything else.
type gateProcess struct {
	*process
	addresses map[string]string // by transport
}

// startGate starts a gate and waits until it takes clients.
func (b *bench) startGate(ctx context.Context, args ...string) (*gateProcess, error) {
	p, err := b.startWith(b.variables, "gate", append([]string{
		"gate", "--rabbitmq", b.RabbitMQ, "--prefix", b.prefix, "--log-format", "json",
		"--max-requests-per-second", "0", "--gate-tcp", "127.0.0.1:0", "--gate-websocket", "127.0.0.1:0", "--gate-grpc", "127.0.0.1:0",
		"--admin", "",
	}, args...)...)
	if err != nil {
		return nil, err
	}
	return p.gateReady(ctx)
}

// gateReady reads in its log where the gate listens.
func (p *process) gateReady(ctx context.Context) (*gateProcess, error) {
	g := &gateProcess{process: p}
	err := p.await(ctx, func(line string) bool {
		var log struct {
			Message   string `json:"msg"`
			TCP       string `json:"tcp"`
			WebSocket string `json:"websocket"`
		}
		if json.Unmarshal([]byte(line), &log) != nil || log.TCP == "" || log.WebSocket == "" {
			return false
		}
		g.addresses = map[string]string{"tcp": "tcp://" + log.TCP, "websocket": "ws://" + log.WebSocket + "/ws"}
		return true
	})
	return g, err
}

func (b *bench) startWorker(names ...string) (*process, error) {
	admin := "" // a million sessions need more processes than there are default ports
	if b.tape {
		admin = "127.0.0.1:0" // which is asked what is on the tape
	}
	return b.startWith(b.working, "worker", append(append([]string{"worker"}, names...), "--rabbitmq", b.RabbitMQ, "--prefix", b.prefix,
		"--log-format", "json", "--admin", admin, fmt.Sprint("--tape=", b.tape))...)
}

// startPath starts so many gates and echo workers, and waits until all workers
// take requests and all gates pass them on.
func (b *bench) startPath(ctx context.Context, gates, workers int) (all []*gateProcess, working []*process, err error) {
	for range gates {
		gate, err := b.startGate(ctx)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, gate)
	}
	for range workers {
		worker, err := b.startWorker("echo")
		if err != nil {
			return nil, nil, err
		}
		working = append(working, worker)
	}
	for _, worker := range working {
		if err := worker.await(ctx, func(line string) bool { return strings.Contains(line, "takes requests") }); err != nil {
			return nil, nil, err
		}
	}
	for _, gate := range all {
		if err := gate.await(ctx, "echo.echo"); err != nil {
			return nil, nil, err
		}
	}
	return all, working, nil
}

// await asks until a route is answered: workers start when they start.
func (g *gateProcess) await(ctx context.Context, route string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	c, err := client.Dial(ctx, g.addresses["tcp"], client.Options{ClientType: "bench"})
	if err != nil {
		return fmt.Errorf("bench: dial the gate: %w", err)
	}
	defer c.Close()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for {
		_, err := c.CallRaw(ctx, route, codec.Text, "", []byte("hello"))
		if err == nil {
			return nil
		}
		if code := status.Code(err); code != codes.NotFound && code != codes.Unavailable {
			return fmt.Errorf("bench: await %s: %w", route, err)
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return g.failure(fmt.Sprintf("does not answer %s: %v", route, err))
		}
	}
}

// paths measures the whole path.
func (b *bench) paths(ctx context.Context) error {
	gates, workers, err := b.startPath(ctx, 1, 1)
	if err != nil {
		return err
	}
	gate, worker := gates[0], workers[0]
	for _, over := range []string{"tcp", "websocket"} {
		for _, s := range mainShapes() {
			beside, err := b.beside(ctx, over, s)
			if err != nil {
				return err
			}
			before, err := newClock(gate.process, worker)
			if err != nil {
				return err
			}
			r, err := b.drive(ctx, gate.addresses[over], s)
			if err != nil {
				return err
			}
			row := requestRow(groupPath, pathName(over, s), r)
			if row.Note, err = before.shares(r, gate.process, worker); err != nil {
				return err
			}
			switch {
			case s.connections == 1:
				row.compare(b.report, beside, row.P50, atMost(1.5))
				row.Unit += ", p50 compared"
				row.also(b.report, sureAloneName, row.P50)
			case s.inFlight == 1:
				row.compare(b.report, beside, row.Value, atLeast(2.3))
				row.also(b.report, sureName, row.Value)
			default:
				row.compare(b.report, beside, row.Value, atLeast(7.5))
				row.also(b.report, sureName, row.Value)
			}
			b.report.add(row)
			if s == (shape{clients, 1}) {
				tail := Row{Group: groupPath, Name: pathName(over, s) + ": p99 to p50", Value: row.P99, Unit: "ms"}
				tail.compareWith("its p50", row.P50, row.P99, atMost(4))
				b.report.add(tail)
			}
		}
	}
	return nil
}

// beside measures RabbitMQ alone once more, right before what is compared with it: the
// speed of a machine changes within minutes. It returns the row's name.
func (b *bench) beside(ctx context.Context, over string, s shape) (string, error) {
	name := aloneName
	if s.connections > 1 {
		name = tripName
	}
	name += ", before " + pathName(over, s)
	return name, b.trip(ctx, groupPath, name, roundTrip{inFlight: s.connections, perMessage: 1})
}

func pathName(over string, s shape) string { return "over " + transportName(over) + ", " + s.String() }

// embedded measures minigate dev: everything in one process.
func (b *bench) embedded(ctx context.Context) error {
	folder, err := os.MkdirTemp("", "minigate-bench-")
	if err != nil {
		return fmt.Errorf("bench: folder of minigate dev: %w", err)
	}
	defer os.RemoveAll(folder)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("bench: port of minigate dev: %w", err)
	}
	auth := l.Addr().String()
	if err := l.Close(); err != nil {
		return fmt.Errorf("bench: port of minigate dev: %w", err)
	}
	p, err := b.start("dev", "dev", "--data", folder, "--log-format", "json", "--auth-grpc", auth, "--tape=false",
		"--max-requests-per-second", "0", "--gate-tcp", "127.0.0.1:0", "--gate-websocket", "127.0.0.1:0", "--gate-grpc", "127.0.0.1:0")
	if err != nil {
		return err
	}
	gate, err := p.gateReady(ctx)
	if err != nil {
		return err
	}
	if err := gate.await(ctx, "echo.echo"); err != nil {
		return err
	}
	for _, over := range []string{"tcp", "websocket"} {
		for _, s := range mainShapes() {
			r, err := b.drive(ctx, gate.addresses[over], s)
			if err != nil {
				return err
			}
			row := requestRow(groupMem, "in memory, "+pathName(over, s), r)
			if s == (shape{clients, 1}) {
				row.compare(b.report, echoName(over, s), row.Value, atLeast(0.7))
			} else {
				row.compare(b.report, echoName(over, s), row.Value, nil)
			}
			b.report.add(row)
		}
	}
	return b.stopChildren(0)
}
