package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/motto123/minigate/pkg/load"
)

const (
	// perProcess is how many sessions a gate and a holder have at the most; beside
	// them there are listeners, the broker, and those who send requests.
	perProcess   = 19_700
	spareFiles   = 300
	millionRate  = 200 // requests a second of others meanwhile
	beforeTime   = 30 * time.Second
	aSession     = 14 << 10 // bytes: gate, client, and the kernel for both ends
	aProcess     = 40 << 20 // bytes, before there are sessions
	atOnce       = 2        // holders that connect beside each other
	progressTime = 5 * time.Second
)

// million holds very many sessions on this machine, their clients among them, and
// measures what that takes, and how long requests of others take meanwhile.
func (b *bench) million(ctx context.Context) error {
	per, err := sessionsPerProcess()
	if err != nil {
		return err
	}
	if b.perProcess > 0 {
		per = b.perProcess
	}
	n := (b.Sessions + per - 1) / per
	// There are far more of them than processors: with threads for all of these, each
	// heartbeat that comes alone wakes several.
	b.everywhere = []string{"GOMAXPROCS=1"}
	defer func() { b.everywhere = nil }()
	if err := b.preflight(n); err != nil {
		return err
	}
	m := &crowd{bench: b, group: thousands(int64(b.Sessions)) + " sessions at once, over " + transportName(b.Over), began: time.Now()}
	if err := m.start(ctx, n); err != nil {
		return err
	}
	fmt.Fprintf(b.Progress, "%s\n\n%s of them; requests without sessions, for %v\n", m.group, count(n, "gate"), min(b.Hold, beforeTime))
	before, err := m.requests(ctx, min(b.Hold, beforeTime))
	if err != nil {
		return err
	}
	empty, err := m.measure(ctx)
	if err != nil {
		return err
	}
	if err := m.connect(ctx); err != nil {
		return err
	}
	meanwhile, err := m.hold(ctx)
	if err != nil {
		return err
	}
	full, err := m.measure(ctx)
	if err != nil {
		return err
	}
	lost := b.Sessions - full.open
	m.report(before, meanwhile, empty, full, lost)
	return m.end(ctx)
}

// crowd is one such run.
type crowd struct {
	*bench
	group   string
	began   time.Time
	gates   []*gateProcess
	holders []*process
	sizes   []int
	rate    float64 // handshakes a second
}

// taken is what is taken at some time.
type taken struct {
	gates, holders int64 // bytes of RSS
	machine        int64 // bytes that are neither free nor copies of files
	slab           int64
	sockets        string
	open           int
}

// sessionsPerProcess is what the limit of open files allows.
func sessionsPerProcess() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("bench: limit of open files: %w", err)
	}
	if limit.Cur < 4*spareFiles {
		return 0, fmt.Errorf("bench: a process may open %d files here, want %d or more (ulimit -n)", limit.Cur, 4*spareFiles)
	}
	return int(min(limit.Cur-spareFiles, perProcess)), nil
}

// preflight says what the machine has too little of, before it has to be found
// out the hard way.
func (b *bench) preflight(gates int) error {
	need := int64(b.Sessions)*aSession + int64(2*gates)*aProcess
	got, err := meminfo("MemAvailable")
	if err != nil {
		return err
	}
	var all []error
	if got < need {
		all = append(all, fmt.Errorf("bench: %s sessions need about %.1f GB of memory, and %.1f GB are available: want fewer (--sessions)",
			thousands(int64(b.Sessions)), float64(need)/1e9, float64(got)/1e9))
	}
	if files, ok := kernelSetting("fs/file-max"); ok && files < 2*int64(b.Sessions)+20_000 {
		all = append(all, fmt.Errorf("bench: the machine may have %d files open, want %d: sysctl fs.file-max=%[2]d", files, 2*b.Sessions+20_000))
	}
	// Only where connections are tracked at all: a rule of a firewall does that.
	tracked, _ := kernelSetting("net/netfilter/nf_conntrack_count")
	if most, ok := kernelSetting("net/netfilter/nf_conntrack_max"); ok && tracked > 0 && most < int64(b.Sessions)+tracked+20_000 {
		all = append(all, fmt.Errorf("bench: a firewall here keeps track of %d connections at the most, and drops others: want sysctl net.netfilter.nf_conntrack_max=%d",
			most, 2*b.Sessions))
	}
	return errors.Join(all...)
}

// start starts the gates, a worker, and the holders, which have no connections
// yet. Each gate has an address of its own: the kernel has 28,232 ports towards
// each.
func (m *crowd) start(ctx context.Context, n int) error {
	for i := range n {
		size := m.Sessions / n
		if i < m.Sessions%n {
			size++
		}
		m.sizes = append(m.sizes, size)
		host := fmt.Sprintf("127.0.%d.%d:0", 1+i/250, 1+i%250)
		gate, err := m.startGate(ctx, "--gate-tcp", host, "--gate-websocket", host, "--heartbeat", millionHeartbeat.String(),
			"--max-connections", strconv.Itoa(size+100))
		if err != nil {
			return err
		}
		m.gates = append(m.gates, gate)
		if i%10 == 9 {
			fmt.Fprintf(m.Progress, "%4.0fs  %d of %d gates\n", time.Since(m.began).Seconds(), i+1, n)
		}
	}
	if _, err := m.startWorker("echo"); err != nil {
		return err
	}
	for i, gate := range m.gates {
		if err := gate.await(ctx, "echo.echo"); err != nil {
			return err
		}
		holder, err := m.bench.start(holdName, serveName, holdName, gate.addresses[m.Over], strconv.Itoa(m.sizes[i]))
		if err != nil {
			return err
		}
		m.holders = append(m.holders, holder)
	}
	return nil
}

const millionHeartbeat = time.Minute

// requests is a small load over connections to all gates.
func (m *crowd) requests(ctx context.Context, d time.Duration) (*load.Result, error) {
	var all []string
	for _, gate := range m.gates {
		all = append(all, gate.addresses[m.Over])
	}
	return m.driveFor(ctx, d, strings.Join(all, ","), shape{max(20, len(all)), 8}, "--rate", strconv.Itoa(millionRate), "--warmup", "2s")
}

// connect opens all sessions, a few holders at once.
func (m *crowd) connect(ctx context.Context) error {
	began := time.Now()
	said := began
	open, told := 0, 0
	for i, holder := range m.holders {
		for ; told < min(i+atOnce, len(m.holders)); told++ {
			if _, err := io.WriteString(m.holders[told].input, "connect\n"); err != nil {
				return m.holders[told].failure("does not read: " + err.Error())
			}
		}
		h, err := holder.holding(ctx, holdConnect)
		if err != nil {
			return err
		}
		if open += h.Open; time.Since(said) > time.Second {
			said = time.Now()
			fmt.Fprintf(m.Progress, "%4.0fs  %s sessions, %s/s\n", time.Since(m.began).Seconds(), thousands(int64(open)),
				thousands(int64(float64(open)/time.Since(began).Seconds())))
		}
	}
	m.rate = float64(open) / time.Since(began).Seconds()
	return nil
}

// hold holds the sessions while requests are sent.
func (m *crowd) hold(ctx context.Context) (*load.Result, error) {
	type outcome struct {
		result *load.Result
		err    error
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan outcome, 1)
	go func() {
		r, err := m.requests(ctx, m.Hold)
		done <- outcome{r, err}
	}()
	ticker := time.NewTicker(progressTime)
	defer ticker.Stop()
	began := time.Now()
	for {
		select {
		case o := <-done:
			cancel()
			return o.result, o.err
		case <-ticker.C:
			now, err := m.measure(ctx)
			if err != nil {
				cancel()
				return nil, errors.Join(err, (<-done).err)
			}
			fmt.Fprintf(m.Progress, "%4.0fs  %s sessions, %d lost, held for %.0f s of %v; gates %.2f GB, machine %.2f GB\n",
				time.Since(m.began).Seconds(), thousands(int64(now.open)), m.Sessions-now.open, time.Since(began).Seconds(), m.Hold,
				float64(now.gates)/1e9, float64(now.machine)/1e9)
		}
	}
}

// measure asks everybody.
func (m *crowd) measure(ctx context.Context) (t taken, err error) {
	for _, gate := range m.gates {
		rss, err := gate.rss()
		if err != nil {
			return t, err
		}
		t.gates += rss
	}
	for _, holder := range m.holders {
		rss, err := holder.rss()
		if err != nil {
			return t, err
		}
		t.holders += rss
	}
	if m.rate > 0 { // they are connected
		for _, holder := range m.holders {
			if _, err := io.WriteString(holder.input, "how many\n"); err != nil {
				return t, holder.failure("does not read: " + err.Error())
			}
		}
		for _, holder := range m.holders {
			h, err := holder.holding(ctx, readyTime)
			if err != nil {
				return t, err
			}
			t.open += h.Open
		}
	}
	all, err := meminfo("MemTotal")
	if err != nil {
		return t, err
	}
	t.machine = all
	// Not MemAvailable, which counts as available most of what sockets hold.
	for _, unused := range []string{"MemFree", "Buffers", "Cached"} {
		n, err := meminfo(unused)
		if err != nil {
			return t, err
		}
		t.machine -= n
	}
	t.sockets = procField("/proc/net/sockstat", "TCP", "")
	t.slab, err = meminfo("Slab")
	return t, err
}

// holding reads the next line of a holder.
func (p *process) holding(ctx context.Context, patience time.Duration) (h holding, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = p.awaitFor(ctx, patience, func(line string) bool { return json.Unmarshal([]byte(line), &h) == nil })
	return h, err
}

func (m *crowd) report(before, meanwhile *load.Result, empty, full taken, lost int) {
	n := float64(m.Sessions)
	gates, holders := float64(full.gates-empty.gates), float64(full.holders-empty.holders)
	add := func(r Row) { r.Group = m.group; m.bench.report.add(r) }
	add(Row{
		Name: fmt.Sprintf("held for %v, heartbeats every %v", m.Hold, millionHeartbeat), Value: float64(full.open), Unit: "sessions",
		Target: "0 lost", Met: lost == 0, Note: fmt.Sprintf("%d lost; %s and as many generators, each with GOMAXPROCS=1", lost, count(len(m.gates), "gate")),
	})
	add(Row{Name: "handshakes", Value: m.rate, Unit: "/s", Target: "≥ 15000/s", Met: m.rate >= 15_000})
	add(Row{
		Name: "RSS of the gates, a session", Value: gates / n, Unit: "B", Target: "≤ 1000 B", Met: gates/n <= 1000,
		Note: fmt.Sprintf("%.2f GB in all, %.2f GB without sessions", float64(full.gates)/1e9, float64(empty.gates)/1e9),
	})
	add(Row{Name: "RSS of the generators, a connection", Value: holders / n, Unit: "B"})
	add(Row{
		Name: "slab of the kernel, a session with both ends", Value: float64(full.slab-empty.slab) / n, Unit: "B",
		Note: "sockets: " + full.sockets,
	})
	add(Row{Name: "memory in use by the whole machine", Value: float64(full.machine) / 1e9, Unit: "GB", Note: fmt.Sprintf("%.2f GB without sessions; the rest is %.0f B a session, all told", float64(empty.machine)/1e9, float64(full.machine-empty.machine)/n)})
	add(requestRow(m.group, fmt.Sprintf("%d req/s of others, without sessions", millionRate), before))
	row := requestRow(m.group, fmt.Sprintf("%d req/s of others, meanwhile", millionRate), meanwhile)
	row.compareWith("p99 without sessions", before.Requests.Latency.P99, row.P99, atMost(2))
	add(row)
}

// end lets all sessions go. Who was lost is said with the reason.
func (m *crowd) end(ctx context.Context) error {
	reasons := make(map[string]int64)
	for _, holder := range m.holders {
		if err := holder.input.Close(); err != nil {
			return holder.failure("does not end: " + err.Error())
		}
		h, err := holder.holding(ctx, stopTime)
		for err == nil && h.Released == nil {
			h, err = holder.holding(ctx, stopTime)
		}
		if err != nil {
			return err
		}
		for why, n := range h.Released.Connections.Disconnects {
			reasons[why] += n
		}
		<-holder.ended
	}
	for why, n := range reasons {
		fmt.Fprintf(m.Progress, "  lost: %d, %s\n", n, why)
	}
	kept := m.children[:0]
	for _, p := range m.children {
		if p.name != holdName {
			kept = append(kept, p)
		}
	}
	m.children = kept
	return nil
}
