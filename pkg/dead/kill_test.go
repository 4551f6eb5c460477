package dead

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// command is this program as minigate dead.
func command(t *testing.T, r *rig, broker string, args ...string) *exec.Cmd {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(executable, append(args, "--rabbitmq", broker, "--prefix", r.topology.Prefix())...)
	cmd.Env = append(os.Environ(), childName+"=1", "GORACE=atexit_sleep_ms=10")
	return cmd
}

// victim is a process that is killed by what looks at its connection.
type victim struct {
	cmd             *exec.Cmd
	started, exited chan struct{}
}

func newVictim() *victim { return &victim{started: make(chan struct{}), exited: make(chan struct{})} }

// kill returns when the process is no more.
func (v *victim) kill() {
	<-v.started
	_ = v.cmd.Process.Kill() // run looks at how it ended
	<-v.exited
}

// run runs the command to its end, which has to be that it was killed.
func (v *victim) run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	v.cmd = cmd
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	close(v.started)
	err := cmd.Wait()
	close(v.exited)
	if err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the command ended with %v", err)
	}
}

// peek returns the bodies in a queue, and leaves them there.
func (r *rig) peek(queue string) (all []string) {
	r.t.Helper()
	channel, err := r.conn.Channel()
	if err != nil {
		r.t.Fatal(err)
	}
	for {
		d, ok, err := channel.Get(queue, false)
		if err != nil {
			r.t.Fatal(err)
		}
		if !ok {
			break
		}
		all = append(all, string(d.Body))
	}
	if err := channel.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.waiting(queue, len(all))
	return all
}

// differ counts the places at which a is not b.
func differ(a, b []string) (n int) {
	for i, s := range a {
		if i >= len(b) || s != b[i] {
			n++
		}
	}
	return n
}

// TestRequeueIsKilled kills the command in the middle of 2,000 letters, again and
// again, at each step of its transactions: each letter is in one queue all the time,
// and in its order.
func TestRequeueIsKilled(t *testing.T) {
	const n = 2000
	r := newRig(t)
	var want [2][]string
	queues := [2]string{r.topology.EventQueue("g", "a.happened"), r.topology.EventQueue("g", "b.happened")}
	for i, q := range queues {
		r.declare(q, amqp.Table{"x-max-length": int64(1_000_000), "x-overflow": "reject-publish"})
		want[i] = numbered([]string{"a", "b"}[i], i, n, 2)
	}
	mixed(r, n)

	// state is how many letters of each queue have been moved.
	state := func() (moved [2]int) {
		t.Helper()
		eventually(t, "no letter is with the killed one any more", func() bool {
			return r.depth(r.topology.DeadQueue())+r.depth(queues[0])+r.depth(queues[1]) >= n
		})
		dead := r.peek(r.topology.DeadQueue())
		var left []string
		for i, q := range queues {
			there := r.peek(q)
			moved[i] = len(there)
			if moved[i] > len(want[i]) || !slices.Equal(there, want[i][:moved[i]]) {
				t.Fatalf("%s has lost, doubled or turned letters: it holds %d, of which %d are not where they were", q, len(there), differ(there, want[i]))
			}
		}
		for i := range n {
			if i/2 >= moved[i%2] {
				left = append(left, want[i%2][i/2])
			}
		}
		if !slices.Equal(dead, left) {
			t.Fatalf("with %v letters moved there are %d dead letters, of which %d are not where they were", moved, len(dead), differ(dead, left))
		}
		return moved
	}

	moved := 0
	for _, round := range []struct {
		at    method
		count int
		after bool
	}{
		{basicGet, 1, true},
		{basicPublish, 1, false},
		{basicPublish, 2, true},
		{basicAck, 7, false},
		{basicAck, 31, true},
		{txCommit, 1, false},
		{txCommit, 1, true},
		{txCommit, 50, true},
		{txCommit, 113, false},
		{basicPublish, 200, true},
		{txCommit, 222, true},
		{basicGet, 301, false},
	} {
		name := fmt.Sprintf("%v %d after %v", round.at, round.count, round.after)
		v, met := newVictim(), 0
		hit := func(m method) bool { return m == round.at && met == round.count }
		var p *tap
		p = newTap(t, func(m method) {
			if m == round.at {
				met++
			}
			if hit(m) && !round.after {
				v.kill()
				p.cut() // it has not sent this
			}
		}, func(m method) {
			if hit(m) && round.after {
				v.kill()
			}
		})
		v.run(t, command(t, r, p.url, "requeue", "--all", "--yes"))
		now := state()
		done := now[0] + now[1] - moved
		moved = now[0] + now[1]
		// What it had written when it was killed reaches the broker, or does not.
		least, most := round.count-1, round.count-1
		if round.after {
			most = round.count
		}
		if done < least || done > most {
			t.Errorf("%s: %d letters were moved, want %d to %d", name, done, least, most)
		}
	}
	if moved < 800 || moved > n-200 {
		t.Errorf("all rounds have moved %d letters: they were not in the middle", moved)
	}
	out, err := command(t, r, r.url, "requeue", "--all", "--yes").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), fmt.Sprintf("requeued %s letters", number(n-moved))) {
		t.Errorf("%v: %s", err, out)
	}
	if last := state(); last != [2]int{n / 2, n / 2} {
		t.Errorf("in the end %v letters were moved", last)
	}
}

// TestDiscardIsKilled: what was discarded before is gone, and the rest is there.
func TestDiscardIsKilled(t *testing.T) {
	const n = 500
	r := newRig(t)
	a, _ := mixed(r, n)
	for _, count := range []int{1, 3} {
		v, met := newVictim(), 0
		before := r.peek(r.topology.DeadQueue())
		var p *tap
		p = newTap(t, func(m method) {
			if m != txCommit {
				return
			}
			if met++; met == count {
				v.kill()
				p.cut()
			}
		}, nil)
		v.run(t, command(t, r, p.url, "discard", "--queue", a, "--yes"))
		gone, want := (count-1)*discardBatch, make(map[string]bool)
		for _, body := range before {
			if strings.HasPrefix(body, "a") && gone > 0 {
				gone--
				continue
			}
			want[body] = true
		}
		r.waiting(r.topology.DeadQueue(), len(want))
		after := r.peek(r.topology.DeadQueue())
		if !slices.Equal(slices.Sorted(slices.Values(after)), slices.Sorted(maps.Keys(want))) {
			t.Errorf("killed at commit %d: %d letters are left, want %d", count, len(after), len(want))
		}
	}
}
