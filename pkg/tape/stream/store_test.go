package stream

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/motto123/minigate/pkg/metrics/metricstest"
	"github.com/motto123/minigate/pkg/tape"
)

// TestBounds: the stream keeps its bound, and what has gone is passed over.
func TestBounds(t *testing.T) {
	const bound = 1 << 20
	url := broker(t)
	topology := own(t, url)
	w, s := newWriter(t, url, topology, bound), open(t, url, topology)
	w.write(100, 10_000)
	w.write(500, 10_000) // five times as much as there may be
	var got []int
	var places []tape.Position
	eventually(t, "what is too much is gone", func() bool {
		w.write(1, 10_000)
		got, places = readAll(t, s, tape.Start{})
		return len(got)/2*10_000 <= bound+bound/shares
	})
	if len(got)/2*10_000 < bound/2 {
		t.Errorf("only %d entries are left", len(got))
	}
	wantRange(t, "the rest", got, w.next-len(got), w.next)
	if places[0].Offset < int64(got[0]/2) {
		t.Errorf("entry %d is at %v", got[0], places[0])
	}
	again, _ := readAll(t, s, tape.Start{Position: &tape.Position{Offset: 1, Index: 1}})
	wantRange(t, "from what has gone", again, got[0], w.next)
}

// A stream that is there with other bounds is used as it is, and the log says so once.
func TestOtherBounds(t *testing.T) {
	url := broker(t)
	topology := own(t, url)
	w := newWriter(t, url, topology, 1<<20)
	w.write(1, 10)
	w.stop()
	other := newWriter(t, url, topology, 2<<20)
	other.next = w.next
	other.write(1, 10)
	got, _ := readAll(t, open(t, url, topology), tape.Start{})
	wantRange(t, "of both", got, 0, 4)
	var said int
	for _, e := range other.log.AllEntries() {
		if strings.Contains(e.Message, topology.TapeStream()) {
			said++
		}
	}
	if said != 1 || len(w.log.AllEntries()) != 0 {
		t.Errorf("the log says it %d times, want once; the first one says %d things", said, len(w.log.AllEntries()))
	}
}

// writtenAnew writes until a stream that was deleted is there again, with something on
// it.
func writtenAnew(t *testing.T, w *writer, s *Source) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	outcome := make(chan error, 1)
	eventually(t, "it is written again", func() bool {
		w.Write(ctx, batch(t, 1000, 10), func(err error) { outcome <- err })
		<-outcome
		n := 0
		err := s.Read(ctx, tape.Start{}, false, func(*tape.Entry) error { n++; return nil })
		return err == nil && n > 0
	})
}

// TestDeletedStream: it is made anew, and who follows reads that one from its beginning.
func TestDeletedStream(t *testing.T) {
	url := broker(t)
	topology := own(t, url)
	w, s := newWriter(t, url, topology, 1<<20), open(t, url, topology)
	w.write(20, 10)
	f := follow(t, s, tape.Start{})
	f.want(t, 0, 40)
	remove(t, url, topology)
	writtenAnew(t, w, s)
	deadline := time.After(patience)
	select {
	case n := <-f.got:
		if n != 1000 {
			t.Errorf("got %d, want what is on the new one", n)
		}
	case <-deadline:
		t.Error("who follows gets nothing of the new one")
	}
}

// TestDeletedStreamOfWhichNothingWasRead: who waits for what is written from now on gets
// it, also where the stream is made anew before there is any.
func TestDeletedStreamOfWhichNothingWasRead(t *testing.T) {
	url := broker(t)
	topology := own(t, url)
	w := newWriter(t, url, topology, 1<<20)
	s, err := Open(url, topology)
	if err != nil {
		t.Fatal(err)
	}
	lost := make(chan error, 1000)
	s.Report = func(err error) { lost <- err }
	w.write(20, 10)
	f := follow(t, s, tape.Start{Live: true})
	time.Sleep(time.Second) // nothing says that it reads: the broker counts no consumers of streams
	remove(t, url, topology)
	<-lost
	writtenAnew(t, w, s)
	f.want(t, 1000, 1001)
}

// TestRestart: what the broker has confirmed is there after its restarts, once, and who
// follows misses nothing.
func TestRestart(t *testing.T) {
	n := newNode(t)
	url := n.do("start")
	topology := unused()
	w, s := newWriter(t, url, topology, 1<<20), open(t, url, topology)
	w.write(20, 100)
	f := follow(t, s, tape.Start{})
	f.want(t, 0, 40)
	for _, how := range []string{"restart", "kill"} {
		n.do(how)
		if how == "kill" {
			n.do("start")
		}
		w.write(20, 100)
		f.want(t, w.next-40, w.next)
	}
	got, _ := readAll(t, s, tape.Start{})
	wantRange(t, "afterwards", got, 0, w.next)
}

// TestLostConfirms: a batch of which nobody knows whether the broker has it is not
// written twice.
func TestLostConfirms(t *testing.T) {
	url := broker(t)
	topology := own(t, url)
	p := newProxy(t, url)
	w, s := newWriter(t, p.url, topology, 64<<20), open(t, url, topology)
	w.write(10, 10)
	p.mute()
	outcomes := make(chan error, window+1)
	for range window + 1 { // the last one waits for a place
		go w.Write(t.Context(), batch(t, w.next, 10), func(err error) { outcomes <- err })
		w.next += 2
		eventually(t, "the broker has it, or there is no place", func() bool {
			got, _ := readAll(t, s, tape.Start{})
			return len(got) == min(w.next, 20+2*window)
		})
	}
	if len(outcomes) > 0 {
		t.Errorf("without a confirm it says %v", <-outcomes)
	}
	p.cut()
	for range window {
		if err := <-outcomes; !errors.Is(err, errLost) {
			t.Errorf("got %v, want errLost", err)
		}
	}
	if err := <-outcomes; err != nil {
		t.Errorf("what had not been written yet: %v", err)
	}
	w.write(5, 10)
	got, _ := readAll(t, s, tape.Start{})
	wantRange(t, "all", got, 0, w.next)
}

func TestBadConfig(t *testing.T) {
	log, _ := test.NewNullLogger()
	good := Config{URL: "amqp://guest:secret@127.0.0.1:1/", MaxBytes: 1, MaxAge: time.Second, Log: log}
	if _, err := NewStore(good); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for name, change := range map[string]func(*Config){
		"no URL": func(c *Config) { c.URL = " " }, "bad port": func(c *Config) { c.URL = "amqp://guest:secret@host:port/" },
		"http": func(c *Config) { c.URL = "http://guest:secret@host/" }, "no bytes": func(c *Config) { c.MaxBytes = 0 },
		"no age": func(c *Config) { c.MaxAge = time.Millisecond },
	} {
		bad := good
		change(&bad)
		if _, err := NewStore(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
		if bad.URL != good.URL {
			if _, err := Open(bad.URL, bad.Topology); err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// A broker that is not there is an error at once, also for who follows.
	for _, following := range []bool{false, true} {
		if err := open(t, good.URL, good.Topology).Read(t.Context(), tape.Start{}, following, func(*tape.Entry) error { return nil }); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("no broker: %v", err)
		}
	}
}

// Write ends with its context where there is no broker, and when Run has ended.
func TestNoBroker(t *testing.T) {
	w := newWriter(t, "amqp://guest:guest@127.0.0.1:1/", unused(), 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	outcome := make(chan error, 1)
	go w.Write(ctx, batch(t, 0, 10), func(err error) { outcome <- err })
	eventually(t, "the log says it", func() bool { return len(w.log.AllEntries()) > 0 })
	select {
	case err := <-outcome:
		t.Fatalf("it does not wait: %v", err)
	default:
	}
	cancel()
	if err := <-outcome; !errors.Is(err, context.Canceled) {
		t.Errorf("at the end of its context: %v", err)
	}
	go w.Write(t.Context(), batch(t, 0, 10), func(err error) { outcome <- err })
	w.stop()
	if err := <-outcome; !errors.Is(err, ErrClosed) {
		t.Errorf("when Run has ended: %v, want ErrClosed", err)
	}
}

// TestNewStream: who reads one while it is made gets what is in it, or that there is
// none.
func TestNewStream(t *testing.T) {
	url := broker(t)
	for range 10 {
		topology := own(t, url)
		s := open(t, url, topology)
		w := newWriter(t, url, topology, 1<<20)
		eventually(t, "there is a stream", func() bool {
			err := s.Read(t.Context(), tape.Start{}, false, func(*tape.Entry) error { return nil })
			if err != nil && !errors.Is(err, ErrNoTape) {
				t.Fatal(err)
			}
			return err == nil
		})
		w.stop()
	}
}

// TestRecorder: what is recorded is in the stream when Run has ended, also where nobody
// had been connected yet; and Run ends where there is no broker.
func TestRecorder(t *testing.T) {
	url := broker(t)
	topology := own(t, url)
	log, _ := test.NewNullLogger()
	for i, to := range []string{url, "amqp://guest:guest@127.0.0.1:1/"} {
		r, err := NewRecorder(Config{URL: to, Topology: topology, MaxBytes: 1 << 20, MaxAge: time.Hour, Log: log}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		for n := range 10 {
			r.Record(tape.Entry{Kind: tape.Requests, Time: time.Now(), Worker: strconv.Itoa(n)})
		}
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("Run does not end")
		}
		kept, lost := "10", "0"
		if i == 1 {
			kept, lost = "0", "10"
		}
		metricstest.Expect(t, r, "minigate_tape_entries_total "+kept, `minigate_tape_dropped_total{reason="lost"} `+lost)
		got, _ := readAll(t, open(t, url, topology), tape.Start{})
		wantRange(t, "all", got, 0, 10)
	}
	if _, err := NewRecorder(Config{}, nil); err == nil {
		t.Error("no URL is taken")
	}
}
