package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child of the same binary.
type process struct {
	name  string
	cmd   *exec.Cmd
	input io.WriteCloser

	lines chan string // what it says, until somebody has found what it waits for
	ended chan struct{}
	err   error // once ended

	mu   sync.Mutex
	tail []string
}

const (
	readyTime = 30 * time.Second // until a child answers
	stopTime  = 20 * time.Second // until it has ended
	keepLines = 30
)

// start starts a child. With a folder for profiles it leaves its own there.
func (b *bench) start(name string, args ...string) (*process, error) {
	return b.startWith(nil, name, args...)
}

// startWith is start with more variables in the child's environment.
func (b *bench) startWith(variables []string, name string, args ...string) (*process, error) {
	if b.profiles != "" {
		args = append([]string{serveName, "profiled", filepath.Join(b.profiles, b.profiled+"-"+name)}, args...)
	}
	p := &process{name: name, lines: make(chan string, 256), ended: make(chan struct{})}
	p.cmd = exec.Command(b.binary, args...)
	p.cmd.Env = append(b.environment(), variables...)
	// Ctrl-C reaches this process alone, which ends its children in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if p.input, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("bench: start %s: %w", name, err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("bench: start %s: %w", name, err)
	}
	p.cmd.Stdout, p.cmd.Stderr = write, write
	err = p.cmd.Start()
	_ = write.Close() // the child has its own
	if err != nil {
		_ = read.Close()
		return nil, fmt.Errorf("bench: start %s: %w", name, err)
	}
	go func() {
		defer close(p.ended)
		p.read(read)
		p.err = p.cmd.Wait()
	}()
	b.children = append(b.children, p)
	return p, nil
}

// environment is this process's, without settings that are meant for it.
func (b *bench) environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "MINIGATE_") {
			env = append(env, v)
		}
	}
	return append(env, b.everywhere...)
}

func (p *process) read(r io.ReadCloser) {
	defer r.Close()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.mu.Lock()
		p.tail = append(p.tail, lines.Text())
		p.tail = p.tail[max(0, len(p.tail)-keepLines):]
		p.mu.Unlock()
		select {
		case p.lines <- lines.Text():
		default: // nobody waits for anything
		}
	}
}

// await returns the first line that found takes.
func (p *process) await(ctx context.Context, found func(line string) bool) error {
	return p.awaitFor(ctx, readyTime, found)
}

func (p *process) awaitFor(ctx context.Context, patience time.Duration, found func(line string) bool) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case line := <-p.lines:
			if found(line) {
				return nil
			}
		case <-p.ended:
			return p.failure("has ended")
		case <-timer.C:
			return p.failure("is not ready")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *process) failure(what string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Errorf("bench: %s %s; its last words:\n%s", p.name, what, strings.Join(p.tail, "\n"))
}

// stop ends a child, which is waited for.
func (p *process) stop() error {
	select {
	case <-p.ended:
		return p.failure("has ended too early")
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.input.Close()
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.ended
		return p.failure("did not end")
	}
	if p.err != nil {
		return p.failure("ended with " + p.err.Error())
	}
	return nil
}

// stopChildren ends those that were started since there were n, the last first.
func (b *bench) stopChildren(n int) error {
	var all []error
	for len(b.children) > n {
		last := len(b.children) - 1
		all = append(all, b.children[last].stop())
		b.children = b.children[:last]
	}
	return errors.Join(all...)
}

// output runs a child to its end and reads what it prints as JSON.
func (b *bench) output(ctx context.Context, name string, into any, args ...string) error {
	if b.profiles != "" {
		args = append([]string{serveName, "profiled", filepath.Join(b.profiles, b.profiled+"-"+name)}, args...)
	}
	cmd := exec.CommandContext(ctx, b.binary, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTime
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = b.environment()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		// What it has printed before is there anyway.
		_ = json.Unmarshal(stdout.Bytes(), into)
		return fmt.Errorf("bench: %s: %w: %s", name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
		return fmt.Errorf("bench: what %s prints: %w", name, err)
	}
	return nil
}

// rss is what the kernel says the process has in memory, in bytes.
func (p *process) rss() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("bench: memory of %s: %w", p.name, err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("bench: memory of %s: %w", p.name, err)
			}
			return kilobytes << 10, nil
		}
	}
	return 0, fmt.Errorf("bench: memory of %s: no VmRSS", p.name)
}

// processor is the processor time that it has used.
func (p *process) processor() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("bench: processor time of %s: %w", p.name, err)
	}
	// proc(5): the name in brackets may hold anything; utime and stime are the
	// twelfth and thirteenth field behind it, in hundredths of a second.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("bench: processor time of %s: %q", p.name, stat)
	}
	var sum int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("bench: processor time of %s: %w", p.name, err)
		}
		sum += n
	}
	return time.Duration(sum) * 10 * time.Millisecond, nil
}
