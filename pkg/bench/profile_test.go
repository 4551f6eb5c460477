package bench

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/pprof/profile"
)

func TestWhatIsAtWork(t *testing.T) {
	for _, c := range []struct{ stack, part, function, allocator string }{
		{
			"internal/runtime/syscall/linux.Syscall6 golang.org/x/sys/unix.write github.com/motto123/minigate/gate.(*socket).write",
			"system calls: gate", "runtime/syscall/linux.Syscall6", "runtime/syscall/linux.Syscall6",
		},
		{"runtime.scanobject runtime.gcDrain runtime.gcBgMarkWorker", "garbage collector", "runtime.scanobject", "runtime.scanobject"},
		{
			"runtime.memclr runtime.mallocgc github.com/rabbitmq/amqp091-go.readBytes",
			"allocation: amqp091-go", "runtime.memclr", "amqp091-go.readBytes",
		},
		{"runtime.futex runtime.futexsleep runtime.findRunnable runtime.schedule", "scheduler of Go", "runtime.futex", "runtime.futex"},
		{"runtime.memmove google.golang.org/protobuf/proto.Marshal", "protobuf/proto", "runtime.memmove", "protobuf/proto.Marshal"},
		{"sort.Sort runtime.main", "packages of Go", "sort.Sort", "sort.Sort"},
		{"", "unknown", "unknown", "unknown"},
	} {
		stack := strings.Fields(c.stack)
		if got := part(stack); got != c.part {
			t.Errorf("part of %q: %q, want %q", c.stack, got, c.part)
		}
		if got := function(stack); got != c.function {
			t.Errorf("function of %q: %q, want %q", c.stack, got, c.function)
		}
		if got := allocator(stack); got != c.allocator {
			t.Errorf("allocator of %q: %q, want %q", c.stack, got, c.allocator)
		}
	}
	if got := withoutTypes("a/b.(*C[go.shape.struct { d/e.f uint64 }]).Add"); got != "a/b.(*C).Add" {
		t.Errorf("got %q", got)
	}
}

func TestShares(t *testing.T) {
	at := func(names ...string) []*profile.Location {
		l := new(profile.Location)
		for _, n := range names {
			l.Line = append(l.Line, profile.Line{Function: &profile.Function{Name: n}})
		}
		return []*profile.Location{l}
	}
	p := &profile.Profile{Sample: []*profile.Sample{
		{Location: at("x/y.b"), Value: []int64{1, 10}}, {Location: at("x/y.a"), Value: []int64{1, 60}}, {Location: at("x/y.b"), Value: []int64{1, 30}},
	}}
	got := shares(p, 1, function)
	if len(got) != 2 || got[0] != (Share{"y.a", 0.6}) || got[1] != (Share{"y.b", 0.4}) {
		t.Errorf("got %+v", got)
	}
	table := profileTables([]Profile{{Load: "256 × 1", Process: "gate", Parts: got}, {Load: "256 × 8", Process: "gate"}})
	for _, want := range []string{"| gate, 256 × 1 | gate, 256 × 8 |", "| 60 % y.a |  |", "| 40 % y.b |  |"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in:\n%s", want, table)
		}
	}
	if shares(&profile.Profile{}, 0, function) != nil || profileTables(nil) != "" {
		t.Error("nothing has shares")
	}
}

func TestAProfileThatIsNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p")
	if _, err := readProfile(file); err == nil {
		t.Error("a file that is not there is taken")
	}
	if err := os.WriteFile(file+".cpu", []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readProfile(file); err == nil || !strings.Contains(err.Error(), "p.cpu") {
		t.Errorf("got %v", err)
	}
}
