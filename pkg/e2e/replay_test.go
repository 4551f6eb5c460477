package e2e_test

import (
	"context"
	"errors"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/pkg/tape/stream"
	"github.com/motto123/minigate/pkg/worker"
)

// desk is an installation that is recorded, and a shadow of it.
type desk struct {
	*world
	shadow bus.Topology
	gate   gate
	pushes bool // workers that are started from now on push to all and to who asks
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	w := newWorld(t)
	d := &desk{world: w, shadow: bus.NewTopology(w.topology.Prefix() + "_shadow")}
	t.Cleanup(func() {
		forgetBroker(t, d.shadow)
		for _, topology := range []bus.Topology{w.topology, d.shadow} {
			forgetAny(t, w.rabbitmq, topology.WorkerQueue("sum"), topology.TapeStream())
		}
	})
	d.gate = w.gate()
	return d
}

// forgetAny removes queues, whatever is in them.
func forgetAny(t *testing.T, url string, queues ...string) {
	c, err := amqp.Dial(url)
	if err != nil {
		t.Errorf("remove queues: %v", err)
		return
	}
	defer func() { _ = c.Close() }()
	for _, queue := range queues {
		if channel, err := c.Channel(); err == nil {
			_, _ = channel.QueueDelete(queue, false, false, false)
		}
	}
}

// summer is a worker that doubles numbers.
type summer struct {
	stop func()

	mu  sync.Mutex
	got map[int64]int // how often each number came
}

func (s *summer) numbers() map[int64]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.got)
}

// sum starts one. Its bug is that some numbers get another answer; a recorded one writes
// on the tape.
func (d *desk) sum(topology bus.Topology, wrong func(int64) bool, recorded bool) *summer {
	d.t.Helper()
	s := &summer{got: make(map[int64]int)}
	b, err := rabbit.Open(rabbit.Config{URL: d.rabbitmq, Topology: topology})
	if err != nil {
		d.t.Fatal(err)
	}
	cfg := worker.Config{Bus: b, Topology: topology}
	endTape := func() {}
	if recorded {
		cfg.Tape, endTape = d.recorder(topology)
	}
	sum, pushes := worker.New("sum", cfg), d.pushes
	worker.Handle(sum, "sum.double", func(ctx context.Context, in *wrapperspb.Int64Value) (*wrapperspb.Int64Value, error) {
		n := in.GetValue()
		if pushes {
			if err := errors.Join(sum.Push(ctx, worker.ToEveryone(), "sum.all", in), sum.Push(ctx, worker.ToSession(worker.From(ctx).Session), "sum.one", in)); err != nil {
				return nil, err
			}
		}
		s.mu.Lock()
		s.got[n]++
		s.mu.Unlock()
		if wrong(n) {
			return wrapperspb.Int64(2*n + 1), nil
		}
		return wrapperspb.Int64(2 * n), nil
	}, worker.Public())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sum.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		err := <-ended
		endTape()
		if err = errors.Join(err, b.Close()); err != nil {
			d.t.Error(err)
		}
	})
	d.t.Cleanup(s.stop)
	eventually(d.t, "the worker takes requests", func() bool { return sum.Health() == nil })
	return s
}

// recorder writes on the tape of an installation, until end is called.
func (d *desk) recorder(topology bus.Topology) (r *tape.Recorder, end func()) {
	d.t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	store, err := stream.NewStore(stream.Config{URL: d.rabbitmq, Topology: topology, MaxBytes: 1 << 30, MaxAge: time.Hour, Log: log})
	if err != nil {
		d.t.Fatal(err)
	}
	r = tape.NewRecorder(tape.RecorderConfig{Store: store, Log: log})
	storing, stopStore := context.WithCancel(context.Background())
	recording, stopRecorder := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := store.Run(storing); err != nil {
			d.t.Error(err)
		}
	})
	recorderEnded := make(chan error, 1)
	go func() { recorderEnded <- r.Run(recording) }()
	return r, func() {
		stopRecorder()
		if err := <-recorderEnded; err != nil {
			d.t.Error(err)
		}
		stopStore()
		all.Wait()
	}
}

const (
	people  = 20
	numbers = 100 // of each
)

// load has people ask for numbers, all at once, each for 0, 1, 2 … on top of the
// person's own thousand.
func (d *desk) load() {
	d.t.Helper()
	var all sync.WaitGroup
	for i := range people {
		c, _, err := dial(d.t, d.gate.tcp, "")
		if err != nil {
			d.t.Fatal(err)
		}
		all.Go(func() {
			var own sync.WaitGroup
			defer own.Wait()
			for n := range numbers {
				own.Go(func() {
					if err := c.Call(d.t.Context(), "sum.double", wrapperspb.Int64(int64(1000*i+n)), new(wrapperspb.Int64Value)); err != nil {
						d.t.Errorf("a call: %v", err)
					}
				})
			}
		})
	}
	all.Wait()
}

// run runs a command of the installation.
func (d *desk) run(code int, args ...string) string {
	d.t.Helper()
	return command(d.t, d.env(), code, args...)
}

// taped is what is on the tape, to be compared with later.
func (d *desk) taped() (entries int, sum uint64) {
	d.t.Helper()
	source, err := stream.Open(d.rabbitmq, d.topology)
	if err != nil {
		d.t.Fatal(err)
	}
	all := fnv.New64a()
	err = source.Read(d.t.Context(), tape.Start{}, false, func(e *tape.Entry) error {
		entries++
		_, err := all.Write(e.Envelope)
		return err
	})
	if err = errors.Join(err, source.Close()); err != nil {
		d.t.Fatal(err)
	}
	return entries, all.Sum64()
}

var isWrong = func(n int64) bool { return n%7 == 3 }

func never(int64) bool { return false }

// TestAPlantedBugIsFound: a worker with a bug is recorded under load, the fixed one runs
// under another prefix, and replay says of exactly those requests that their answer is
// another one.
func TestAPlantedBugIsFound(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	buggy := d.sum(d.topology, isWrong, true)
	seen := d.watch()
	seen.ask(people * 1000)
	seen.want("answer 40000")
	d.load()
	buggy.stop()
	entries, hash := d.taped()

	d.pushes = true
	said := d.run(1, "replay", "--to", d.topology.Prefix())
	if !strings.Contains(said, "is the installation that was recorded") || !strings.Contains(said, "--against-production") {
		t.Errorf("to the recorded installation it says\n%s", said)
	}
	said = d.run(1, "replay", "--to", d.shadow.Prefix())
	if !strings.Contains(said, "nobody takes the requests under the prefix "+d.shadow.Prefix()) {
		t.Errorf("where nobody is it says\n%s", said)
	}

	unfixed := d.sum(d.shadow, isWrong, false)
	said = d.run(0, "replay", "--to", d.shadow.Prefix())
	if !regexp.MustCompile(`(?m)^same +2,001$`).MatchString(said) || !regexp.MustCompile(`(?m)^pushes +\d`).MatchString(said) || !regexp.MustCompile(`(?m)^differ +0$`).MatchString(said) {
		t.Errorf("with the bug it says\n%s", said)
	}
	unfixed.stop()

	fixed := d.sum(d.shadow, never, false)
	file := filepath.Join(t.TempDir(), "sum.tape")
	listed := d.run(0, "tail", "--no-follow", "--route", "sum.*", "--save", file)
	if strings.Count(listed, "sum.double") != people*numbers+1 {
		t.Errorf("tail lists %d requests", strings.Count(listed, "sum.double"))
	}
	if strings.Contains(listed, "\x1b") {
		t.Error("in a pipe tail has escape codes")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the saved file: %v, %v", info, err)
	}
	for name, args := range map[string][]string{
		"the tape": {"replay", "--to", d.shadow.Prefix(), "--in-flight", "5"},
		"the file": {"replay", "--to", d.shadow.Prefix(), file},
	} {
		said := d.run(2, args...)
		var found []int64
		for _, m := range regexp.MustCompile(`(?m)^\S+ +\S+ +sum\.double .*\n  - value: (\d+)\n  \+ value: (\d+)$`).FindAllStringSubmatch(said, -1) {
			was, is := number(t, m[1]), number(t, m[2])
			if was != is+1 {
				t.Errorf("of %s: %d became %d", name, was, is)
			}
			found = append(found, is/2)
		}
		slices.Sort(found)
		var want []int64
		for i := range int64(people) {
			for n := range int64(numbers) {
				if isWrong(1000*i + n) {
					want = append(want, 1000*i+n)
				}
			}
		}
		if !slices.Equal(found, want) || strings.Count(said, "\n  - ") != len(want) {
			t.Errorf("of %s: it finds %d requests, want %d:\n%s", name, len(found), len(want), tail(said))
		}
		if strings.Contains(said, "\x1b") {
			t.Errorf("of %s: in a pipe it has escape codes", name)
		}
	}
	// A file does not say where it was recorded, but the gate that it names is there.
	said = d.run(1, "replay", "--prefix", "another", "--to", d.topology.Prefix(), file)
	if !strings.Contains(said, "is the installation that was recorded") {
		t.Errorf("to the recorded installation, from a file, it says\n%s", said)
	}
	for n, times := range fixed.numbers() {
		if times != 2 {
			t.Errorf("%d came %d times in two replays", n, times)
		}
	}
	if n, h := d.taped(); n != entries || h != hash {
		t.Errorf("the tape had %d entries, and now others: %d", entries, n)
	}

	// Nobody of production has seen any of it, and would have.
	seen.want("answer 40000")
	d.sum(d.topology, never, false)
	seen.ask(7)
	seen.want("answer 40000", "answer 14", "sum.all 7", "sum.one 7")
	d.stop()
}

func number(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAReplayThatIsKilledGoesOn: the tape stays as it is, and a second run from the
// place that the first one printed sends the rest.
func TestAReplayThatIsKilledGoesOn(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	buggy := d.sum(d.topology, isWrong, true)
	d.load()
	buggy.stop()
	entries, hash := d.taped()
	places := d.placeOf()
	if len(places) != people*numbers {
		t.Fatalf("the tape has %d numbers", len(places))
	}
	// It would take about half a minute, however fast they were recorded.
	speed := strconv.FormatFloat(d.recordedFor().Seconds()/30, 'f', 6, 64)
	args := []string{"replay", "--to", d.shadow.Prefix()}
	for name, end := range map[string]func(*process){
		"killed":      func(p *process) { p.kill(t) },
		"interrupted": func(p *process) { p.signal(t, syscall.SIGINT); p.ends(t, 0) },
	} {
		s := d.sum(d.shadow, isWrong, false)
		p := d.start(append(args, "--speed", speed)...)
		p.says(t, `\d sent .*--from [1-9]\d*\.`)
		end(p)
		found := regexp.MustCompile(`--from (\d+\.\d+\.\d+)`).FindAllStringSubmatch(p.out.String(), -1)
		from := found[len(found)-1][1]
		first := s.numbers()
		if len(first) == 0 || len(first) == len(places) {
			t.Fatalf("%s: the first run sent %d of %d", name, len(first), len(places))
		}
		d.run(0, append(args, "--from", from)...)
		second := s.numbers()
		place, err := tape.ParsePlace(from)
		if err != nil {
			t.Fatal(err)
		}
		for n, at := range places {
			switch times := second[n]; {
			case times == 0:
				t.Errorf("%s: %d at %v was not sent", name, n, at)
			case times > 1 && at.Before(place):
				t.Errorf("%s: %d at %v was sent again, from %s on", name, n, at, from)
			case times > 1 && name == "interrupted":
				t.Errorf("%s: %d at %v was sent %d times", name, n, at, times)
			}
		}
		s.stop()
	}
	if n, h := d.taped(); n != entries || h != hash {
		t.Errorf("the tape had %d entries, and now others: %d", entries, n)
	}
	d.stop()
}
