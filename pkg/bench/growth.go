package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/motto123/minigate/pkg/load"
)

const (
	// growthAddresses is how many local addresses the connections come from. From one
	// alone, the kernel looks long for a free port when over half of them are taken.
	growthAddresses = 4
	// heartbeat is how often idle connections send one here: several times while
	// they are looked at.
	heartbeat = 2 * time.Second
	// While idle sessions are held, so many others send so many requests a second.
	activeClients = 20
	activeRate    = 500
)

// levels are the numbers of idle sessions that are looked at.
func (b *bench) levels() []int {
	var all []int
	for _, n := range []int{b.Connections / 10, 1000, 5000, 10_000} {
		if n < b.Connections && (b.Quick || n >= 1000) && (len(all) == 0 || n > all[len(all)-1]) {
			all = append(all, n)
		}
	}
	return append(all, b.Connections)
}

// growth measures what idle sessions take of a gate's memory, how fast they come,
// and how long requests of others take while they are there.
func (b *bench) growth(ctx context.Context) error {
	curve := Curve{
		File: "memory.svg", Title: "Memory of a gate over idle sessions",
		X: Axis{Name: "sessions"}, Y: Axis{Name: "RSS in MB"},
	}
	limit := Line{Name: "1,000 B a session", Dashed: true}
	for _, over := range []string{"websocket", "tcp"} {
		line, err := b.grow(ctx, over)
		if err != nil {
			return err
		}
		curve.Lines = append(curve.Lines, line)
		limit.Points = nil
		for _, at := range line.Points {
			limit.add(at[0], line.Points[0][1]+at[0]*1000/1e6)
		}
		if err := b.stopChildren(0); err != nil {
			return err
		}
	}
	curve.Lines = append(curve.Lines, limit)
	b.report.Curves = append(b.report.Curves, curve)
	return nil
}

func (b *bench) grow(ctx context.Context, over string) (line Line, err error) {
	gate, err := b.startGate(ctx, "--heartbeat", heartbeat.String(), "--max-connections", strconv.Itoa(b.Connections+activeClients+10))
	if err != nil {
		return line, err
	}
	if _, err := b.startWorker("echo"); err != nil {
		return line, err
	}
	if err := gate.await(ctx, "echo.echo"); err != nil {
		return line, err
	}
	// The first clients, so that the empty gate has what every gate has.
	if _, err := b.steady(ctx, gate.addresses[over]); err != nil {
		return line, err
	}
	empty, err := gate.rss()
	if err != nil {
		return line, err
	}
	line.Name = transportName(over)
	line.add(0, float64(empty)/1e6)
	var holding []*held
	defer func() { err = errors.Join(err, releaseAll(holding)) }()
	open := 0
	for _, n := range b.levels() {
		h, err := hold(ctx, load.Config{Gates: []string{gate.addresses[over]}, Connections: n - open, Idle: 1, Addresses: growthAddresses})
		if err != nil {
			return line, err
		}
		holding = append(holding, h)
		open = n
		if err := wait(ctx, b.settle()); err != nil {
			return line, err
		}
		full, err := gate.rss()
		if err != nil {
			return line, err
		}
		line.add(float64(n), float64(full)/1e6)
		requests, err := b.steady(ctx, gate.addresses[over])
		if err != nil {
			return line, err
		}
		c := h.Opened()
		row := Row{
			Group: groupIdle, Name: fmt.Sprintf("RSS a session over %s, %s of them", transportName(over), thousands(int64(n))),
			Value: float64(full-empty) / float64(n), Unit: "B",
			Note: fmt.Sprintf("empty gate %.1f MB; the last %s came at %s/s",
				float64(empty)/1e6, thousands(int64(c.Established)), thousands(int64(c.PerSecond))),
		}
		if n == b.Connections {
			row.Target, row.Met = "≤ 1000 B", row.Value <= 1000
		}
		b.report.add(row)
		b.report.add(requestRow(groupIdle, fmt.Sprintf("requests of others beside %s over %s", thousands(int64(n)), transportName(over)), requests))
		if n == b.Connections {
			b.report.add(Row{
				Group: groupIdle, Name: "handshakes over " + transportName(over) + ", the last " + thousands(int64(c.Established)),
				Value: c.PerSecond, Unit: "/s", P50: c.Latency.P50, P99: c.Latency.P99,
				Target: "≥ 15000/s", Met: c.PerSecond >= 15_000,
			})
		}
	}
	return line, nil
}

// steady is a small load of requests beside idle sessions.
func (b *bench) steady(ctx context.Context, addresses string) (*load.Result, error) {
	return b.driveFor(ctx, b.Duration/2, addresses, shape{activeClients, 8}, "--rate", strconv.Itoa(activeRate))
}

// settle is how long idle connections are held before they are looked at: several
// heartbeats, in which the gate's heap is collected.
func (b *bench) settle() time.Duration {
	if b.Quick {
		return 500 * time.Millisecond
	}
	return max(3*heartbeat, b.Duration)
}
