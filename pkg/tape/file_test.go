package tape

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFile: what is appended is read again, with new places.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "saved")
	f, err := CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateFile(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file that is there: %v, want fs.ErrExist", err)
	}
	s := openFile(t, path)
	following := follow(t, s, Start{})
	for n := range 10 {
		e := request(n)
		e.Position, e.Sent, e.Gate, e.Redelivered, e.Masked = Position{Offset: 99, Index: 9}, time.Unix(2, 0), "g", true, true
		if err := f.Append(&e); err != nil {
			t.Fatal(err)
		}
		following.want(t, n, n+1)
	}
	got, places := readAll(t, s, Start{})
	wantRange(t, "all", got, 0, 10)
	if (places[7] != Position{Offset: 7}) {
		t.Errorf("the eighth is at %v", places[7])
	}
	got, _ = readAll(t, s, Start{Since: request(4).Time})
	wantRange(t, "since the fifth", got, 4, 10)
	got, _ = readAll(t, s, Start{Position: &Position{Offset: 4}})
	wantRange(t, "from the fifth", got, 4, 10)
	if err := s.Read(t.Context(), Start{}, false, func(e *Entry) error {
		if e.Kind != Requests || e.Worker != "echo" || e.Gate != "g" || !e.Sent.Equal(time.Unix(2, 0)) || !e.Redelivered || !e.Masked || e.Time.Before(time.Unix(1, 0)) {
			t.Errorf("got %+v", e)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// saved is a file of ten entries, and where each of them ends.
func saved(t *testing.T) (path string, b []byte, ends []int) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "saved")
	f, err := CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		e := request(n)
		if err := f.Append(&e); err != nil {
			t.Fatal(err)
		}
		info, err := f.f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, int(info.Size()))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return path, b, ends
}

// A file may be torn at its end, and nowhere else: who replays it must not miss a part
// of it without a word.
func TestTornAndDamagedFile(t *testing.T) {
	path, b, ends := saved(t)
	for n := ends[8]; n < ends[9]; n++ {
		if err := os.WriteFile(path, b[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		got, _ := readAll(t, openFile(t, path), Start{})
		wantRange(t, "without a part of the last", got, 0, 9)
	}
	for i := range 9 {
		damaged := bytes.Clone(b)
		damaged[ends[i]-1]++
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		n := 0
		err := openFile(t, path).Read(t.Context(), Start{}, i%2 == 0, func(*Entry) error { n++; return nil })
		if !errors.Is(err, ErrDamaged) || n != i {
			t.Errorf("damaged in entry %d: %v after %d", i, err, n)
		}
	}
}

func TestOpenFileRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenFile(filepath.Join(dir, "nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	path := filepath.Join(dir, "text")
	if err := os.WriteFile(path, []byte("minigate"+" tapf 1\n and more"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path); !errors.Is(err, ErrNotTape) {
		t.Errorf("a file that is no tape: %v", err)
	}
	// What is whole and no batch: of a version that is not ours.
	if err := os.WriteFile(path, appendRecord([]byte(fileMagic), Batch{Body: []byte{tagEntry, 200}}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openFile(t, path).Read(t.Context(), Start{}, false, func(*Entry) error { return nil }); !errors.Is(err, ErrMalformed) {
		t.Errorf("a record that is no batch: %v", err)
	}
}

// TestReadEnds with what its caller says, without an error at the end of its context,
// and when the source is closed.
func TestReadEnds(t *testing.T) {
	path, _, _ := saved(t)
	s := openFile(t, path)
	stop, n := errors.New("stop"), 0
	for _, following := range []bool{false, true} {
		if err := s.Read(t.Context(), Start{}, following, func(*Entry) error {
			if n++; n%3 == 0 {
				return stop
			}
			return nil
		}); !errors.Is(err, stop) || n%3 != 0 {
			t.Errorf("got %v after %d entries", err, n)
		}
	}
	// Also where that is the error of a context.
	if err := s.Read(t.Context(), Start{}, true, func(*Entry) error { return context.Canceled }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n = 0
	if err := s.Read(ctx, Start{}, true, func(*Entry) error {
		if n++; n == 4 {
			cancel()
		}
		return nil
	}); err != nil || n != 4 {
		t.Errorf("at the end of its context: %v, and %d entries", err, n)
	}
	// Between two entries that were written together, too.
	f := createFolder(t, FolderConfig{Path: t.TempDir(), MaxBytes: 1 << 20})
	write(t, f, 0, 10)
	for _, following := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		n = 0
		if err := openFile(t, f.cfg.Path).Read(ctx, Start{}, following, func(*Entry) error {
			if n++; n == 3 {
				cancel()
			}
			return nil
		}); err != nil || n != 3 {
			t.Errorf("at the end of its context, within a batch: %v, and %d entries", err, n)
		}
		cancel()
	}
	ended, reading := make(chan error, 1), make(chan struct{}, 10)
	other, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		ended <- other.Read(context.Background(), Start{}, true, func(*Entry) error { reading <- struct{}{}; return nil })
	}()
	for range 10 {
		<-reading
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("closed: %v", err)
	}
}

// TestAPipeIsRefused: it would wait for somebody who writes.
func TestAPipeIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path); err == nil || !strings.Contains(err.Error(), "want a file or a folder") {
		t.Errorf("got %v", err)
	}
}
