package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/tape"
)

// TestStarts: from the beginning, a place, a time, or now.
func TestStarts(t *testing.T) {
	url := broker(t)
	topology := own(t, url)
	w, s := newWriter(t, url, topology, 1<<20), open(t, url, topology)
	w.write(1, 10)
	one, _ := readAll(t, s, tape.Start{})
	wantRange(t, "one message", one, 0, 2)
	w.write(149, 10)
	between := time.Now().Add(2 * time.Second).Truncate(time.Second)
	all, places := readAll(t, s, tape.Start{})
	wantRange(t, "all", all, 0, 300)
	for i, p := range places { // the broker has offsets of its own between
		if p.Index != i%2 || i >= 2 && p.Offset <= places[i-2].Offset {
			t.Fatalf("entry %d is at %v, behind %v", i, p, places[max(i-2, 0)])
		}
	}
	for _, i := range []int{0, 1, 2, 63, 64, 65, 150, 297, 298, 299} {
		got, _ := readAll(t, s, tape.Start{Position: &places[i], Since: between, Live: true})
		wantRange(t, fmt.Sprint("from ", places[i]), got, i, 300)
	}
	for what, start := range map[string]tape.Start{
		"behind the end": {Position: &tape.Position{Offset: places[299].Offset + 1}}, "far behind it": {Position: &tape.Position{Offset: 1 << 40}},
		"later than all": {Since: time.Now().Add(time.Hour)}, "from now on": {Live: true},
	} {
		if got, _ := readAll(t, s, start); len(got) != 0 {
			t.Errorf("%s: got %v", what, got)
		}
	}
	got, _ := readAll(t, s, tape.Start{Position: &tape.Position{Offset: places[10].Offset, Index: 9}})
	wantRange(t, "behind a batch", got, 12, 300)
	got, _ = readAll(t, s, tape.Start{Since: time.Now().Add(-time.Hour)})
	wantRange(t, "since an hour ago", got, 0, 300)

	eventually(t, "it is later", func() bool { return time.Now().After(between) })
	w.write(50, 10)
	got, _ = readAll(t, s, tape.Start{Since: between})
	wantRange(t, "since then", got, 300, 400)
}

// TestEmpty: nothing comes from a stream that has nothing, and that is known at once;
// and there is an error where there is no stream.
func TestEmpty(t *testing.T) {
	url := broker(t)
	topology := own(t, url)
	s := open(t, url, topology)
	for _, following := range []bool{false, true} {
		if err := s.Read(t.Context(), tape.Start{}, following, func(*tape.Entry) error { return nil }); !errors.Is(err, ErrNoTape) {
			t.Errorf("without a stream: %v, want ErrNoTape", err)
		}
	}
	w := newWriter(t, url, topology, 1<<20)
	eventually(t, "there is a stream", func() bool {
		err := s.Read(t.Context(), tape.Start{}, false, func(*tape.Entry) error { return nil })
		if err != nil && !errors.Is(err, ErrNoTape) {
			t.Fatal(err)
		}
		return err == nil
	})
	for _, start := range []tape.Start{{}, {Live: true}, {Since: time.Now()}, {Position: &tape.Position{Offset: 3}}} {
		if got, _ := readAll(t, s, start); len(got) != 0 {
			t.Errorf("from %+v: got %v", start, got)
		}
	}
	first := follow(t, s, tape.Start{})
	w.write(10, 10)
	first.want(t, 0, 20)
}

// What has just been confirmed is read, however often one asks.
func TestReadSeesWhatIsConfirmed(t *testing.T) {
	url := broker(t)
	topology := own(t, url)
	w, s := newWriter(t, url, topology, 1<<20), open(t, url, topology)
	for range 30 {
		w.write(1, 10)
		got, _ := readAll(t, s, tape.Start{})
		wantRange(t, "all", got, 0, w.next)
	}
}

// TestFollow: live, from a place, from a time, and a large tape from its beginning.
func TestFollow(t *testing.T) {
	url := broker(t)
	topology := own(t, url)
	w, s := newWriter(t, url, topology, 64<<20), open(t, url, topology)
	w.write(100, 100_000)
	first := follow(t, s, tape.Start{})
	first.want(t, 0, 200)
	since := follow(t, s, tape.Start{Since: time.Now().Add(-time.Hour)})
	since.want(t, 0, 200)
	_, places := readAll(t, s, tape.Start{})
	from := places[199].Offset + 10
	later := make(chan tape.Position, 1<<16)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Read(ctx, tape.Start{Position: &tape.Position{Offset: from}}, true, func(e *tape.Entry) error { later <- e.Position; return nil })
	}()
	live := follow(t, s, tape.Start{Live: true})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	began := -1
	for began < 0 { // until it reads
		w.write(1, 10)
		select {
		case began = <-live.got:
		case <-tick.C:
		}
	}
	if began < 200 {
		t.Errorf("what is live begins with %d, want 200 or later", began)
	}
	w.write(100, 10)
	first.want(t, 200, w.next)
	since.want(t, 200, w.next)
	select {
	case p := <-later:
		if p.Offset < from {
			t.Errorf("from %d on: got %v", from, p)
		}
	case <-time.After(patience):
		t.Errorf("from %d on: nothing comes", from)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	live.want(t, began+1, w.next)
}

// TestReadEnds while others write, with what its caller says, at the end of its
// context, and when the source is closed.
func TestReadEnds(t *testing.T) {
	url := broker(t)
	topology := own(t, url)
	w, s := newWriter(t, url, topology, 64<<20), open(t, url, topology)
	w.write(200, 1000)
	n := 0
	if err := s.Read(t.Context(), tape.Start{}, false, func(e *tape.Entry) error {
		if n++; n%20 == 0 {
			w.write(5, 1000) // more than was read
		}
		return nil
	}); err != nil || n != 400 {
		t.Errorf("while more is written: %v after %d entries, want the 400 that were there", err, n)
	}
	stop := errors.New("stop")
	for _, following := range []bool{false, true} {
		n = 0
		if err := s.Read(t.Context(), tape.Start{}, following, func(*tape.Entry) error {
			if n++; n == 3 {
				return stop
			}
			return nil
		}); err != stop || n != 3 {
			t.Errorf("its own error: got %v after %d entries", err, n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		n = 0
		if err := s.Read(ctx, tape.Start{}, following, func(*tape.Entry) error {
			if n++; n == 4 {
				cancel()
			}
			return nil
		}); err != nil || n != 4 {
			t.Errorf("at the end of its context: %v after %d entries", err, n)
		}
		cancel()
	}
	other, err := Open(url, topology)
	if err != nil {
		t.Fatal(err)
	}
	f := &following{got: make(chan int, 1<<16)}
	ended := make(chan error, 1)
	go func() {
		ended <- other.Read(context.Background(), tape.Start{}, true, func(e *tape.Entry) error { f.got <- number(e); return nil })
	}()
	f.want(t, 0, w.next)
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("closed: %v", err)
	}
}

// What is no batch is said, with its place.
func TestOtherMessages(t *testing.T) {
	url := broker(t)
	topology := own(t, url)
	w := newWriter(t, url, topology, 1<<20)
	w.write(1, 10)
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		t.Fatal(err)
	}
	confirm, err := ch.PublishWithDeferredConfirm("", topology.TapeStream(), true, false, amqp.Publishing{Body: []byte("something else")})
	if err != nil || !confirm.Wait() {
		t.Fatalf("publish: %v", err)
	}
	for _, following := range []bool{false, true} {
		n := 0
		err := open(t, url, topology).Read(t.Context(), tape.Start{}, following, func(*tape.Entry) error { n++; return nil })
		if !errors.Is(err, tape.ErrMalformed) || !strings.Contains(err.Error(), " of "+topology.TapeStream()) || n != 2 {
			t.Errorf("got %v after %d entries", err, n)
		}
	}
}
