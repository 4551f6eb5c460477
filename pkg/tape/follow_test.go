package tape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// TestFollowFolder: from another handle, over the beginning of new files and the end of
// old ones.
func TestFollowFolder(t *testing.T) {
	dir := t.TempDir()
	s := openFile(t, dir)
	first := follow(t, s, Start{}) // nothing is there yet
	f := createFolder(t, FolderConfig{Path: dir, MaxBytes: 16 << 10})
	write(t, f, 0, 100)
	first.want(t, 0, 100)
	later := follow(t, s, Start{Position: &Position{Offset: 75, Index: 1}})
	since := follow(t, s, Start{Since: request(160).Time})
	for n := 100; n < 1000; n += 100 { // each as large as the bound's half
		write(t, f, n, n+100)
		first.want(t, n, n+100)
		if n == 100 {
			later.want(t, 151, 200)
			since.want(t, 160, 200)
		} else {
			later.want(t, n, n+100)
			since.want(t, n, n+100)
		}
	}
}

// TestFollowLive: what was there before does not come, all that is written from some
// moment on does.
func TestFollowLive(t *testing.T) {
	dir := t.TempDir()
	f := createFolder(t, FolderConfig{Path: dir, MaxBytes: 8 << 10})
	write(t, f, 0, 100)
	live := follow(t, openFile(t, dir), Start{Live: true})
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	n, first := 100, 0
	for first == 0 { // until it reads
		write(t, f, n, n+2)
		n += 2
		select {
		case first = <-live.got:
		case <-tick.C:
		}
		if n > 20_000 {
			t.Fatal("nothing comes")
		}
	}
	if first < 100 {
		t.Errorf("the first one is %d, want 100 or later", first)
	}
	live.want(t, first+1, n)
}

// A place that is not there yet is waited for, and what comes before it is passed over.
func TestFollowFromBehindTheEnd(t *testing.T) {
	dir := t.TempDir()
	f := createFolder(t, FolderConfig{Path: dir, MaxBytes: 1 << 20})
	write(t, f, 0, 100)
	for what, start := range map[string]Start{"place": {Position: &Position{Offset: 200, Index: 1}}, "time": {Since: request(401).Time}} {
		later := follow(t, openFile(t, dir), start)
		tick := time.NewTicker(2 * time.Millisecond)
		n, first := int(f.current.offset)*2, -1
		if n < 400 {
			for ; n < 500; n += 2 {
				write(t, f, n, n+2)
				<-tick.C
			}
		}
		tick.Stop()
		select {
		case first = <-later.got:
		case <-time.After(patience):
		}
		if want := map[string]int{"place": 401, "time": 400}[what]; first != want {
			t.Errorf("from a %s: the first one is %d, want %d", what, first, want)
		}
	}
}

// What was not whole when it was read, and is when there is another file, is not passed
// over.
func TestRecordThatBecomesWhole(t *testing.T) {
	dir := t.TempDir()
	f := createFolder(t, FolderConfig{Path: dir, MaxBytes: 8 << 10})
	for len(f.segments) < 2 {
		n := int(f.current.offset) * 2
		write(t, f, n, n+2)
	}
	first := f.segments[0]
	path := first.path(dir)
	whole, err := os.ReadFile(path)
	if err == nil {
		err = os.Truncate(path, first.size-1)
	}
	if err != nil {
		t.Fatal(err)
	}
	source, ok := openFile(t, dir).(*fileSource)
	if !ok {
		t.Fatal("it is another source")
	}
	var got []int
	r := &reader{source: source, ctx: t.Context(), again: -1, each: func(e *Entry) error {
		n, err := strconv.Atoi(string(e.Envelope))
		got = append(got, n)
		return err
	}}
	defer r.close()
	more, err := r.begin()
	for more && err == nil {
		if r.again >= 0 && len(got) < int(f.segments[1].first)*2 { // it was read once
			err = os.WriteFile(path, whole, 0o600)
		}
		if err == nil {
			more, err = r.step()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	wantRange(t, "all", got, 0, int(f.current.offset)*2)
}

// TestFollowKilledWriter: another process writes until it is killed, and a further one
// goes on.
func TestFollowKilledWriter(t *testing.T) {
	dir := t.TempDir()
	s := openFile(t, dir)
	next := make(chan int, 1<<16)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Read(ctx, Start{}, true, func(e *Entry) error {
			n, err := strconv.Atoi(e.Worker)
			if err == nil && len(e.Envelope) != n%5000 {
				err = fmt.Errorf("entry %d has %d bytes", n, len(e.Envelope))
			}
			next <- n
			return err
		})
	}()
	expected := 0
	for range 3 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), writerFolder+"="+dir)
		var said bytes.Buffer
		child.Stderr = &said
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		deadline := time.After(patience)
		for began := expected; expected < began+300; expected++ {
			select {
			case n := <-next:
				if n != expected {
					t.Fatalf("got %d, want %d", n, expected)
				}
			case <-deadline:
				t.Fatalf("got %d entries in %v; the writer says %s", expected, patience, said.String())
			}
			if expected == 10 {
				if _, err := CreateFolder(FolderConfig{Path: dir, MaxBytes: 1 << 20}); !errors.Is(err, ErrInUse) {
					t.Errorf("a second writer gets %v, want ErrInUse", err)
				}
			}
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // it was killed
		expected = drain(t, dir, next, expected)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// drain takes all that the killed writer has written, and returns what comes next.
func drain(t *testing.T, dir string, next <-chan int, expected int) int {
	t.Helper()
	end := -1
	if err := openFile(t, dir).Read(t.Context(), Start{}, false, func(e *Entry) (err error) {
		end, err = strconv.Atoi(e.Worker)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(patience)
	for ; expected <= end; expected++ {
		select {
		case n := <-next:
			if n != expected {
				t.Fatalf("got %d, want %d", n, expected)
			}
		case <-deadline:
			t.Fatalf("%d does not come", expected)
		}
	}
	return expected
}

// following is a Read that follows.
type following struct{ got chan int }

func follow(t *testing.T, s Source, start Start) *following {
	t.Helper()
	f := &following{got: make(chan int, 1<<16)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Read(ctx, start, true, func(e *Entry) error {
			n, err := strconv.Atoi(string(e.Envelope))
			f.got <- n
			return err
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("follow: %v", err)
		}
	})
	return f
}

// want waits for the entries from one number to another.
func (f *following) want(t *testing.T, from, to int) {
	t.Helper()
	deadline := time.After(patience)
	for n := from; n < to; n++ {
		select {
		case got := <-f.got:
			if got != n {
				t.Fatalf("got %d, want %d", got, n)
			}
		case <-deadline:
			t.Fatalf("%d does not come within %v", n, patience)
		}
	}
}
