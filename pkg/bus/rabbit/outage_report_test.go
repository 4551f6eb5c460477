package rabbit

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// TestOutagesAreReportedOnce: two connections that try again and again are one
// line at the beginning, and one at the end.
func TestOutagesAreReportedOnce(t *testing.T) {
	topology, address := own(), broker(t)
	sweep(t, address, topology)
	px := newProxy(t, address)
	px.hide()
	failed, back := make(chan error, 1000), make(chan time.Duration, 1000)
	b, err := Open(Config{
		URL: px.url, Topology: topology,
		Report: func(err error) { failed <- err }, Back: func(lasted time.Duration) { back <- lasted },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	for _, what := range []string{"no connection", "connection lost"} {
		if err := wait(t, failed, "a report: "+what); !strings.Contains(err.Error(), what) {
			t.Errorf("reported %q, want %q in it", err, what)
		}
		px.deny(t, 6) // attempts of both connections
		px.show()
		if lasted := wait(t, back, "the report that it is back"); lasted <= 0 || lasted > patience {
			t.Errorf("it lasted %v", lasted)
		}
		if len(failed) > 0 {
			t.Errorf("%d more reports, the first is %v", len(failed), <-failed)
		}
		if what == "no connection" {
			px.hide()
			px.cut()
		}
	}
	if len(back) > 0 {
		t.Errorf("%d more reports that it is back", len(back))
	}
}

func TestAnOutageThatLastsIsReportedAgain(t *testing.T) {
	reports, ends := 0, 0
	o := &outages{
		report: func(error) { reports++ }, back: func(time.Duration) { ends++ }, down: make(map[*link]bool),
	}
	one, other := new(link), new(link)
	o.had(one)
	for range 10 {
		o.lost(one, errors.New("refused"))
		o.lost(other, errors.New("refused"))
	}
	if reports != 1 {
		t.Errorf("%d reports at first, want 1", reports)
	}
	o.said = o.said.Add(-remind)
	o.lost(one, errors.New("refused"))
	o.lost(one, errors.New("refused"))
	if reports != 2 {
		t.Errorf("%d reports after a minute, want 2", reports)
	}
	o.had(one)
	if ends != 0 {
		t.Error("it is back for one of two connections")
	}
	o.had(other)
	o.had(one)
	if ends != 1 {
		t.Errorf("back %d times, want once", ends)
	}
	o.lost(other, errors.New("again"))
	if reports != 3 {
		t.Errorf("the next outage: %d reports in all, want 3", reports)
	}
}

func TestAnEmptyURLIsSaidToBeEmpty(t *testing.T) {
	for _, url := range []string{"", "  "} {
		if b, err := Open(Config{URL: url}); err == nil {
			b.Close()
			t.Errorf("%q was taken", url)
		} else if !strings.Contains(err.Error(), "is empty") {
			t.Errorf("%q: %v, want that it is empty", url, err)
		}
	}
}
