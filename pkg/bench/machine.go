package bench

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/motto123/minigate/pkg/load"
)

// Machine is where a report was made.
type Machine struct {
	Processor string `json:"processor"`
	Cores     int    `json:"cores"`
	Memory    int64  `json:"memory"` // bytes
	System    string `json:"system"`
	Go        string `json:"go"`
	RabbitMQ  string `json:"rabbitmq"`
	Load      string `json:"load"` // mean numbers of processes that run, before the beginning
}

func thisMachine(rabbitmq string) (m Machine, err error) {
	m = Machine{Processor: "unknown", Cores: runtime.NumCPU(), Go: runtime.Version()}
	if m.RabbitMQ, err = brokerVersion(rabbitmq); err != nil {
		return m, err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		m.System = unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:]) + " " + runtime.GOARCH
	}
	// Elsewhere than on Linux these are not there, and stay unknown.
	m.Processor = procField("/proc/cpuinfo", "model name", m.Processor)
	if n, err := meminfo("MemTotal"); err == nil {
		m.Memory = n
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(load))[:3], ", ")
	}
	return m, nil
}

// procField is the first value of a name in a file of names and values.
func procField(file, name, otherwise string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return otherwise
	}
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return otherwise
}

// meminfo is a field of /proc/meminfo, in bytes.
func meminfo(name string) (int64, error) {
	text := procField("/proc/meminfo", name, "")
	kilobytes, err := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("bench: %s in /proc/meminfo: got %q", name, text)
	}
	return kilobytes << 10, nil
}

// kernelSetting is a number of /proc/sys, if it is there.
func kernelSetting(name string) (int64, bool) {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

// clock holds what processor time had been used at some time.
type clock struct {
	at        time.Time
	processes []time.Duration
	machine   time.Duration
}

func newClock(processes ...*process) (c clock, err error) {
	c.at = time.Now()
	for _, p := range processes {
		used, err := p.processor()
		if err != nil {
			return c, err
		}
		c.processes = append(c.processes, used)
	}
	c.machine, err = machineTime()
	return c, err
}

// shares says how many processors the processes of each name have used since, and
// all others together, RabbitMQ first among them.
func (c clock) shares(r *load.Result, processes ...*process) (string, error) {
	now, err := newClock(processes...)
	if err != nil {
		return "", err
	}
	seconds := now.at.Sub(c.at).Seconds()
	generator := time.Duration((r.Processor.User + r.Processor.System) * float64(time.Second))
	rest := now.machine - c.machine - generator
	var parts, names []string
	byName := make(map[string]time.Duration) // of several gates together
	for i, p := range processes {
		used := now.processes[i] - c.processes[i]
		rest -= used
		if _, ok := byName[p.name]; !ok {
			names = append(names, p.name)
		}
		byName[p.name] += used
	}
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%s %.2f", name, byName[name].Seconds()/seconds))
	}
	parts = append(parts, fmt.Sprintf("load %.2f", generator.Seconds()/seconds), fmt.Sprintf("RabbitMQ and others %.2f", max(0, rest.Seconds())/seconds))
	return "processors: " + strings.Join(parts, ", "), nil
}

// machineTime is the time that all processors together were busy, as proc(5) has it.
func machineTime() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("bench: processor time: %w", err)
	}
	fields := strings.Fields(string(b))
	var busy int64
	for i, f := range fields[1:min(len(fields), 9)] {
		if i == 3 || i == 4 { // idle, and waiting for disks
			continue
		}
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("bench: processor time: %w", err)
		}
		busy += n
	}
	return time.Duration(busy) * 10 * time.Millisecond, nil
}
