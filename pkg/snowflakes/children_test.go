package snowflakes

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// child is a process that makes ids.
type child struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	ids []int64
}

func startChild(t *testing.T, prefix string, nodes int, lease time.Duration) *child {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(executable), done: make(chan struct{})}
	// One thread for its Go code: fifty times all processors is a crowd.
	c.cmd.Env = append(os.Environ(), "GOMAXPROCS=1", childPrefix+"="+prefix, fmt.Sprintf("%s=%d", childNodes, nodes), fmt.Sprintf("%s=%v", childLease, lease))
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.done)
		in := bufio.NewReader(out)
		for {
			var b [8]byte
			if _, err := io.ReadFull(in, b[:]); err != nil {
				if !errors.Is(err, io.EOF) {
					t.Error("read ids:", err)
				}
				return
			}
			c.mu.Lock()
			c.ids = append(c.ids, int64(binary.LittleEndian.Uint64(b[:])))
			c.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			_ = c.cmd.Process.Kill()
			<-c.done
			_ = c.cmd.Wait()
		}
	})
	return c
}

func (c *child) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ids)
}

// node is the node number of the newest id, -1 without one.
func (c *child) node() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ids) == 0 {
		return -1
	}
	return Node(c.ids[len(c.ids)-1])
}

func (c *child) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// ended waits for a process that was told to end.
func (c *child) ended(t *testing.T) {
	t.Helper()
	<-c.done
	if err := c.cmd.Wait(); err != nil {
		t.Error("process that makes ids:", err)
	}
}

// Fifty processes use up fifty node numbers. One is stopped past its lease, and
// a new process takes its number: that both have used it, and no id is double,
// is what the lease promises.
func TestIDsOfFiftyProcesses(t *testing.T) {
	const processes = 50
	lease := 3 * time.Second
	client, prefix := testRedis(t)
	names := newKeys(prefix)
	children := make([]*child, processes)
	for i := range children {
		children[i] = startChild(t, prefix, processes, lease)
	}
	for _, c := range children {
		eventually(t, "each process makes ids", func() bool { return c.count() > 100 })
	}
	seen := map[int64]bool{}
	for _, c := range children {
		seen[c.node()] = true
	}
	if len(seen) != processes {
		t.Fatalf("%d processes use %d node numbers", processes, len(seen))
	}

	paused := children[0]
	paused.signal(t, syscall.SIGSTOP)
	number := paused.node()
	before := paused.count()
	eventually(t, "the lease of the stopped process expires", func() bool {
		return errors.Is(client.Get(t.Context(), names.node(number)).Err(), redis.Nil)
	})
	successor := startChild(t, prefix, processes, lease)
	children = append(children, successor)
	eventually(t, "a new process uses the number of the stopped one", func() bool { return successor.count() > 200 })
	if successor.node() != number {
		t.Fatalf("the new process has node number %d, only %d was free", successor.node(), number)
	}

	// It wakes and goes on where it was: with no number left, it can make none.
	paused.signal(t, syscall.SIGCONT)
	woken := successor.count()
	eventually(t, "the new process goes on", func() bool { return successor.count() > woken+200 })
	if free := children[1].node(); free == number {
		t.Fatalf("two living processes share node number %d", free)
	}
	children[1].signal(t, syscall.SIGTERM)
	children[1].ended(t)
	eventually(t, "the woken process leases the number that became free", func() bool {
		return paused.node() == children[1].node()
	})
	resumed := paused.count()
	eventually(t, "the woken process makes ids again", func() bool { return paused.count() > resumed+200 })

	others := append([]*child{paused}, children[2:]...)
	for _, c := range others {
		c.signal(t, syscall.SIGTERM)
	}
	for _, c := range others {
		c.ended(t)
	}
	owner := map[int64]int{}
	for i, c := range children {
		for _, id := range c.ids {
			if other, double := owner[id]; double {
				t.Fatalf("id %d was made by process %d and by process %d (paused: 0, its successor: %d)", id, other, i, processes)
			}
			owner[id] = i
		}
	}
	overlap(t, children)
	t.Logf("%d ids, all different; %d of them by the paused process, %d before its pause", len(owner), paused.count(), before)
}

// overlap fails where two processes used a node number at the same time, also
// where their ids happened to differ.
func overlap(t *testing.T, children []*child) {
	t.Helper()
	type stretch struct {
		process     int
		first, last int64
	}
	used := map[int64][]stretch{}
	for i, c := range children {
		of := map[int64]*stretch{}
		for _, id := range c.ids {
			s := of[Node(id)]
			if s == nil {
				s = &stretch{process: i, first: millis(id)}
				of[Node(id)] = s
			}
			s.last = millis(id)
		}
		for number, s := range of {
			for _, other := range used[number] {
				if s.first <= other.last && other.first <= s.last {
					t.Errorf("node number %d: process %d used it from %d to %d, process %d from %d to %d",
						number, s.process, s.first, s.last, other.process, other.first, other.last)
				}
			}
			used[number] = append(used[number], *s)
		}
	}
}
