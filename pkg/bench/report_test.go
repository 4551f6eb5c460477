package bench

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func someReport() *Report {
	r := &Report{
		Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Seconds: 61, Duration: 6,
		Machine: Machine{Processor: "a processor", Cores: 2, Memory: 24 << 30, System: "Linux 6", Go: "go1.26", RabbitMQ: "3.10.8", Load: "0.1, 0.2, 0.3"},
	}
	r.add(Row{Group: groupBroker, Name: tripName, Value: 27_000, Unit: perSecond, P50: 9.5, P99: 12})
	r.add(Row{Group: groupBroker, Name: aloneName, Value: 4500, Unit: perSecond, P50: 0.22, P99: 0.4})
	return r
}

func TestRatiosAndTargets(t *testing.T) {
	for _, c := range []struct {
		name  string
		row   Row
		of    string
		value func(Row) float64
		t     *target
		ratio float64
		met   bool
	}{
		{"at least, met", Row{Value: 67_500}, tripName, value, atLeast(2.3), 2.5, true},
		{"at least, missed", Row{Value: 54_000}, tripName, value, atLeast(2.3), 2, false},
		{"at most, met", Row{Value: 3000, P50: 0.33}, aloneName, median, atMost(1.5), 1.5, true},
		{"at most, missed", Row{Value: 3000, P50: 0.44}, aloneName, median, atMost(1.5), 2, false},
		{"no target", Row{Value: 13_500}, tripName, value, nil, 0.5, false},
		{"nothing to compare with", Row{Value: 1}, "another", value, atLeast(1), 0, false},
	} {
		c.row.compare(someReport(), c.of, c.value(c.row), c.t)
		if d := c.row.Ratio - c.ratio; d > 1e-9 || d < -1e-9 || c.row.Met != c.met {
			t.Errorf("%s: %+v", c.name, c.row)
		}
	}
}

func value(r Row) float64  { return r.Value }
func median(r Row) float64 { return r.P50 }

func TestTheReportForPeople(t *testing.T) {
	r := someReport()
	var progress bytes.Buffer
	r.progress = &progress
	row := Row{Group: groupPath, Name: "over TCP, 256 × 1", Value: 67_500, Unit: perSecond, P50: 3.7, P99: 8, Note: "a note"}
	row.compare(r, tripName, row.Value, atLeast(2.3))
	r.add(row)
	for text, wants := range map[string][]string{
		progress.String(): {groupPath, "67,500 req/s", "p50 3.7 ms, p99 8 ms", "2.50 × (target ≥ 2.3 ×: met)", "(a note)"},
		r.Markdown(): {
			"2026-01-02", "| a processor, 2 cores |", "24 GiB", "3.10.8", "**" + groupPath + "**",
			"| over TCP, 256 × 1 | 67,500 req/s | 3.7 ms, 8 ms | 2.50 × (target ≥ 2.3 ×: met) | " + tripName + " | a note |",
		},
	} {
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in:\n%s", want, text)
			}
		}
	}
}

func TestTheReportInADocument(t *testing.T) {
	begin, end := someReport().marks()
	file := filepath.Join(t.TempDir(), "performance.md")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("before\n" + begin + "\nold\n" + end + "\nafter\n")
	for range 2 { // it can be written again
		if err := someReport().Into(file); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := "before\n" + begin + "\n\n" + someReport().Markdown() + "\n" + end + "\nafter\n"
	if string(got) != want {
		t.Errorf("got:\n%s", got)
	}
	for _, bad := range []string{"", begin, end, end + begin} {
		write(bad)
		if err := someReport().Into(file); !errors.Is(err, ErrMarkers) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1_234_567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A push of the bare server is as large as a gate's.
func TestPushPacket(t *testing.T) {
	if n := len(pushPacket()); n < payload+len(pushRoute) || n > payload+len(pushRoute)+20 {
		t.Errorf("%d bytes", n)
	}
}
