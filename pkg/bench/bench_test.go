package bench

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// gnet has a pool whose goroutines begin with the process.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// buildBinary is the program, built for the test.
func buildBinary(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "minigate")
	cmd := exec.Command("go", "build", "-o", file, "github.com/motto123/minigate")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build minigate: %v\n%s", err, out)
	}
	return file
}

// TestQuick runs all of it. How fast that is depends on the machine, and is not
// looked at.
func TestQuick(t *testing.T) {
	url := os.Getenv("MINIGATE_TEST_RABBITMQ")
	if url == "" {
		t.Fatal("MINIGATE_TEST_RABBITMQ is not set: want amqp://USER:PASSWORD@HOST:PORT/")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	profiles := filepath.Join(t.TempDir(), "profiles")
	r, err := Run(ctx, Config{RabbitMQ: url, Binary: buildBinary(t), Quick: true, Profiles: profiles})
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]int)
	for _, row := range r.Rows {
		rows[row.Group]++
		if row.Value <= 0 && row.Group != groupIdle {
			t.Errorf("%+v", row)
		}
	}
	for group, want := range map[string]int{
		groupBroker: 9, groupEcho: 6, groupPath: 14, groupSturdy: 4, groupMem: 6, groupScale: 2, groupLoad: 2, groupTape: 8, groupSchedule: 6, groupGC: 2, groupIdle: 10, groupPush: 5,
	} {
		if rows[group] != want {
			t.Errorf("%d lines about %s, want %d", rows[group], group, want)
		}
	}
	if len(r.Profiles) != 4 || len(r.Profiles[0].Parts) == 0 || len(r.Profiles[0].Functions) == 0 || len(r.Profiles[0].Allocations) == 0 {
		t.Errorf("profiles: %+v", r.Profiles)
	}
	if len(r.Curves) != 2 || len(r.Curves[0].Lines[0].Points) != 2 || len(r.Curves[1].Lines[0].Points) != 3 {
		t.Errorf("curves: %+v", r.Curves)
	}
	if r.Machine.RabbitMQ == "" || r.Machine.Cores == 0 {
		t.Errorf("machine: %+v", r.Machine)
	}
	for _, load := range []string{"256x1", "256x8"} {
		for _, name := range []string{"gate", "worker", "load"} {
			for _, kind := range []string{"cpu", "heap"} {
				file := filepath.Join(profiles, load+"-"+name+"."+kind)
				if info, err := os.Stat(file); err != nil || info.Size() == 0 {
					t.Errorf("profile %s: %v", filepath.Base(file), err)
				}
			}
		}
	}
}

func TestWithoutABroker(t *testing.T) {
	_, err := Run(t.Context(), Config{RabbitMQ: "amqp://guest:guest@127.0.0.1:1/", Binary: "minigate", Quick: true})
	if err == nil || !strings.Contains(err.Error(), "RabbitMQ") {
		t.Errorf("got %v", err)
	}
}

// A child that ends, or that never gets ready, says why in the error.
func TestAChildThatFails(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{binary: shell}
	p, err := b.start("child", "-c", "echo its last words; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	err = p.await(t.Context(), func(string) bool { return false })
	if err == nil || !strings.Contains(err.Error(), "its last words") {
		t.Errorf("await: %v", err)
	}
	if err := b.stopChildren(0); err == nil {
		t.Error("a child that has ended by itself is no error")
	}
	if _, err := b.start("child", "-c", "exec cat"); err != nil {
		t.Fatal(err)
	}
	if err := b.stopChildren(0); err == nil { // cat does not end well on SIGTERM
		t.Error("a child that ends with a signal is no error")
	}
	if err := b.output(t.Context(), "child", new(int), "-c", "echo words >&2; exit 1"); err == nil || !strings.Contains(err.Error(), "words") {
		t.Errorf("output: %v", err)
	}
}
