package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/motto123/minigate/pkg/load"
)

// sturdy measures what it costs that the broker keeps what it is given: a service
// whose queue is replicated, and messages that are on the broker's disk before
// they are confirmed. Requests themselves are never that: whoever waits for an
// answer hears of a loss.
func (b *bench) sturdy(ctx context.Context) error {
	gate, err := b.startGate(ctx)
	if err != nil {
		return err
	}
	// The queue of a service is what it was when it was made: a service of its own.
	if _, err := b.start("worker", serveName, quorumName, b.RabbitMQ, b.prefix); err != nil {
		return err
	}
	if err := gate.await(ctx, quorumRoute); err != nil {
		return err
	}
	if _, err := b.startWorker("echo"); err != nil {
		return err
	}
	if err := gate.await(ctx, "echo.echo"); err != nil {
		return err
	}
	for _, s := range mainShapes()[:2] {
		for _, v := range []struct {
			name string
			args []string
		}{
			{"the service's queue is a quorum queue", []string{"--route", quorumRoute}},
			{"notify with an id, persistent: until the Ack that the broker has it on its disk", []string{"--notify"}},
		} {
			r, err := b.drive(ctx, gate.addresses["tcp"], s, v.args...)
			if err != nil {
				return err
			}
			row := requestRow(groupSturdy, s.String()+", "+v.name, r)
			row.compare(b.report, pathName("tcp", s), row.Value, nil)
			b.report.add(row)
		}
	}
	return nil
}

// scale measures what more gates and more workers do. On one machine they share
// its processors: what is to be seen is that they do not cost much.
func (b *bench) scale(ctx context.Context) error {
	counts := []struct{ gates, workers int }{{1, 1}, {2, 1}, {4, 1}, {1, 2}, {1, 4}, {2, 2}, {4, 4}}
	if b.Quick {
		counts = counts[5:6]
	}
	for _, n := range counts {
		gates, workers, err := b.startPath(ctx, n.gates, n.workers)
		if err != nil {
			return err
		}
		var addresses []string
		var processes []*process
		for _, gate := range gates {
			addresses = append(addresses, gate.addresses["tcp"])
			processes = append(processes, gate.process)
		}
		processes = append(processes, workers...)
		for _, s := range mainShapes()[:2] {
			before, err := newClock(processes...)
			if err != nil {
				return err
			}
			r, err := b.driveFor(ctx, b.Duration/2, strings.Join(addresses, ","), s)
			if err != nil {
				return err
			}
			row := requestRow(groupScale, scaleName(n.gates, n.workers, s), r)
			row.compare(b.report, scaleName(1, 1, s), row.Value, nil)
			if row.Note, err = before.shares(r, processes...); err != nil {
				return err
			}
			b.report.add(row)
		}
		if err := b.stopChildren(0); err != nil {
			return err
		}
	}
	return nil
}

func scaleName(gates, workers int, s shape) string {
	return fmt.Sprintf("%s, %s, %s", count(gates, "gate"), count(workers, "worker"), s)
}

func count(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return strconv.Itoa(n) + " " + of + "s"
}

// overload measures latencies at a fixed rate, up to the most that was answered
// when everybody waited for answers.
func (b *bench) overload(ctx context.Context) error {
	shares := []int{10, 25, 50, 75, 90, 100}
	if b.Quick {
		shares = []int{10, 50}
	}
	most, err := b.report.value(pathName("tcp", mainShapes()[1]))
	if err != nil {
		return err
	}
	gates, _, err := b.startPath(ctx, 1, 1)
	if err != nil {
		return err
	}
	curve := Curve{
		File: "latency.svg", Title: "Latency over load, client to client through RabbitMQ",
		X: Axis{Name: "requests a second"}, Y: Axis{Name: "latency in ms", Log: true},
	}
	p50, p99, p999 := Line{Name: "p50"}, Line{Name: "p99"}, Line{Name: "p99.9"}
	for _, share := range shares {
		rate := int(most * float64(share) / 100)
		r, err := b.driveOver(ctx, gates[0].addresses["tcp"], shape{clients, 64}, "--rate", strconv.Itoa(rate))
		if err != nil {
			return err
		}
		row := requestRow(groupLoad, fmt.Sprintf("%d %% of the most at %s: %s req/s", share, mainShapes()[1], thousands(int64(rate))), r)
		row.P999 = r.Requests.Latency.P999
		if q := r.Requests; q.Unsent+q.Unanswered > 0 {
			row.note(fmt.Sprintf("%s too late to be sent or answered", thousands(q.Unsent+q.Unanswered)))
		}
		b.report.add(row)
		p50.add(float64(rate), row.P50)
		p99.add(float64(rate), row.P99)
		p999.add(float64(rate), row.P999)
	}
	curve.Lines = []Line{p999, p99, p50}
	b.report.Curves = append(b.report.Curves, curve)
	return nil
}

// scheduler measures a gate and a worker that have a processor each, as where a
// container gets one, against those that may use all: then the threads of each wake
// fewer of their own.
func (b *bench) scheduler(ctx context.Context) error {
	defer func() { b.variables, b.working = nil, nil }()
	for _, s := range mainShapes() {
		for _, all := range []bool{true, false} {
			b.variables = []string{"GOMAXPROCS=1"}
			if all {
				b.variables = nil
			}
			b.working = b.variables
			gates, workers, err := b.startPath(ctx, 1, 1)
			if err != nil {
				return err
			}
			before, err := newClock(gates[0].process, workers[0])
			if err != nil {
				return err
			}
			r, err := b.driveFor(ctx, b.Duration/2, gates[0].addresses["tcp"], s)
			if err != nil {
				return err
			}
			row := requestRow(groupSchedule, scheduleName(s, all), r)
			if !all {
				row.compare(b.report, scheduleName(s, true), row.Value, nil)
			}
			if row.Note, err = before.shares(r, gates[0].process, workers[0]); err != nil {
				return err
			}
			b.report.add(row)
			if err := b.stopChildren(0); err != nil {
				return err
			}
		}
	}
	return nil
}

func scheduleName(s shape, all bool) string {
	if all {
		return s.String() + ", all processors"
	}
	return s.String() + ", one each"
}

// collector measures what the settings of Go's garbage collector do to a gate.
func (b *bench) collector(ctx context.Context) error {
	settings := [][]string{{"GOGC=100"}, {"GOGC=50"}, {"GOGC=200"}, {"GOGC=400"}, {"GOMEMLIMIT=64MiB"}, {"GOGC=off", "GOMEMLIMIT=128MiB"}}
	if b.Quick {
		settings = settings[:2]
	}
	defer func() { b.variables = nil }()
	for _, variables := range settings {
		b.variables = variables
		gates, workers, err := b.startPath(ctx, 1, 1)
		if err != nil {
			return err
		}
		before, err := newClock(gates[0].process, workers[0])
		if err != nil {
			return err
		}
		r, err := b.driveFor(ctx, b.Duration/2, gates[0].addresses["tcp"], mainShapes()[1])
		if err != nil {
			return err
		}
		row := requestRow(groupGC, strings.Join(variables, " ")+", "+mainShapes()[1].String(), r)
		row.compare(b.report, "GOGC=100, "+mainShapes()[1].String(), row.Value, nil)
		memory, err := gates[0].rss()
		if err != nil {
			return err
		}
		if row.Note, err = before.shares(r, gates[0].process, workers[0]); err != nil {
			return err
		}
		row.Note = fmt.Sprintf("gate's RSS %.0f MB; %s", float64(memory)/1e6, row.Note)
		b.report.add(row)
		if err := b.stopChildren(0); err != nil {
			return err
		}
	}
	return nil
}

// driveOver is drive with more than the gate may be able to answer: what was too
// late is no error, but what was wrong is.
func (b *bench) driveOver(ctx context.Context, address string, s shape, more ...string) (*load.Result, error) {
	r, err := b.drive(ctx, address, s, more...)
	if err == nil || r.Requests.Answered == 0 {
		return r, err
	}
	rest := *r
	rest.Requests.Unsent, rest.Requests.Unanswered = 0, 0
	return r, rest.Failed()
}
