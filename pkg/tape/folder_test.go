package tape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 20 * time.Second

func createFolder(t *testing.T, cfg FolderConfig) *Folder {
	t.Helper()
	f, err := CreateFolder(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // a test that closes it looks at the error
	return f
}

// write writes the entries from one number to another, two to a batch.
func write(t *testing.T, f *Folder, from, to int) {
	t.Helper()
	for n := from; n < to; n += 2 {
		var b []byte
		for i := n; i < n+2; i++ {
			e := request(i)
			b, _ = appendEntry(b, &e)
		}
		f.Write(t.Context(), Batch{Body: b, Entries: 2, Last: request(n + 1).Time}, func(err error) {
			if err != nil {
				t.Errorf("write %d: %v", n, err)
			}
		})
	}
}

func openFile(t *testing.T, path string) Source {
	t.Helper()
	s, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// readAll is what is there from a start, each with its place.
func readAll(t *testing.T, s Source, start Start) (numbers []int, places []Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Read(ctx, start, false, func(e *Entry) error {
		n, err := strconv.Atoi(string(e.Envelope))
		numbers, places = append(numbers, n), append(places, e.Position)
		return err
	}); err != nil || ctx.Err() != nil {
		t.Fatalf("read: %v, %v", err, ctx.Err())
	}
	return numbers, places
}

func wantRange(t *testing.T, what string, got []int, from, to int) {
	t.Helper()
	if len(got) != to-from {
		t.Errorf("%s: %d entries, want %d from %d on: %v", what, len(got), to-from, from, got)
		return
	}
	for i, n := range got {
		if n != from+i {
			t.Errorf("%s: got %v, want those from %d to %d", what, got, from, to-1)
			return
		}
	}
}

// TestFolderStarts: from the beginning, a place, a time, or now.
func TestFolderStarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "tape")
	f := createFolder(t, FolderConfig{Path: dir, MaxBytes: 32 << 10})
	s := openFile(t, dir)
	if got, _ := readAll(t, s, Start{}); len(got) != 0 {
		t.Errorf("an empty tape has %v", got)
	}
	write(t, f, 0, 400)
	if len(f.segments) < 3 {
		t.Fatalf("%d files, want several", len(f.segments))
	}
	all, places := readAll(t, s, Start{})
	wantRange(t, "all", all, 0, 400)
	for i, p := range places {
		if want := (Position{Offset: int64(i / 2), Index: i % 2}); p != want {
			t.Fatalf("entry %d is at %v, want %v", i, p, want)
		}
	}
	for i := 0; i < 400; i += 7 {
		got, _ := readAll(t, s, Start{Position: &places[i], Since: request(399).Time, Live: true})
		wantRange(t, fmt.Sprint("from ", places[i]), got, i, 400)
		got, _ = readAll(t, s, Start{Since: request(i).Time, Live: true})
		wantRange(t, fmt.Sprint("since ", i), got, i-i%2, 400)
	}
	for what, start := range map[string]Start{
		"behind the end": {Position: &Position{Offset: 200}}, "far behind it": {Position: &Position{Offset: 1 << 40}},
		"later than all": {Since: request(400).Time}, "from now on": {Live: true},
	} {
		if got, _ := readAll(t, s, start); len(got) != 0 {
			t.Errorf("%s: got %v", what, got)
		}
	}
	got, _ := readAll(t, s, Start{Position: &Position{Offset: 5, Index: 9}})
	wantRange(t, "behind a batch", got, 12, 400)
}

// TestFolderIsPrivate: only its owner may read what people have sent.
func TestFolderIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tape")
	f := createFolder(t, FolderConfig{Path: dir, MaxBytes: 4 << 10})
	write(t, f, 0, 200)
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestFolderIsBounded in bytes: the oldest goes, and what is left has no gap.
func TestFolderIsBounded(t *testing.T) {
	const bound = 16 << 10
	dir := t.TempDir()
	f := createFolder(t, FolderConfig{Path: dir, MaxBytes: bound})
	s := openFile(t, dir)
	for n := 0; n < 2000; n += 50 {
		write(t, f, n, n+50)
		var total int64
		files, err := listSegments(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			total += file.size
		}
		if total > bound {
			t.Fatalf("%d bytes after %d entries, want up to %d", total, n+50, bound)
		}
		if n > 1000 && total < bound*3/4 {
			t.Errorf("only %d bytes of %d are used", total, bound)
		}
	}
	got, places := readAll(t, s, Start{})
	wantRange(t, "the rest", got, 2000-len(got), 2000)
	if places[0].Offset != int64(got[0]/2) {
		t.Errorf("entry %d is at %v", got[0], places[0])
	}
	// What has gone is passed over.
	again, _ := readAll(t, s, Start{Position: &Position{Offset: 1, Index: 1}})
	wantRange(t, "from what has gone", again, got[0], 2000)

	f.Write(t.Context(), Batch{Body: make([]byte, bound)}, func(err error) {
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("a batch of the size of all: %v", err)
		}
	})
	write(t, f, 2000, 2002)
	if got, _ := readAll(t, s, Start{Position: &Position{Offset: 1000}}); len(got) != 2 {
		t.Errorf("behind it there is %v", got)
	}
}

// TestFolderForgets what is too old, also where there is little of it.
func TestFolderForgets(t *testing.T) {
	dir := t.TempDir()
	f := createFolder(t, FolderConfig{Path: dir, MaxBytes: 1 << 20, MaxAge: time.Hour})
	write(t, f, 0, 10)
	f.began = time.Now().Add(-30 * time.Minute) // it is a file of half an hour ago
	write(t, f, 10, 20)
	if len(f.segments) != 2 {
		t.Fatalf("%d files, want another one for what comes half an hour later", len(f.segments))
	}
	f.segments[0].last = time.Now().Add(-59 * time.Minute)
	write(t, f, 20, 22)
	got, _ := readAll(t, openFile(t, dir), Start{})
	wantRange(t, "younger than an hour", got, 0, 22)
	f.segments[0].last = time.Now().Add(-61 * time.Minute)
	write(t, f, 22, 24)
	got, _ = readAll(t, openFile(t, dir), Start{})
	wantRange(t, "without what is older", got, 10, 24)

	// Of a former process, too.
	old := time.Now().Add(-2 * time.Hour)
	if err := errors.Join(f.Close(), os.Chtimes(f.segments[0].path(dir), old, old)); err != nil {
		t.Fatal(err)
	}
	f = createFolder(t, FolderConfig{Path: dir, MaxBytes: 1 << 20, MaxAge: time.Hour})
	f.began = old
	write(t, f, 24, 26)
	f.segments[0].last = old
	write(t, f, 26, 28)
	got, _ = readAll(t, openFile(t, dir), Start{})
	wantRange(t, "without what is of another process", got, 24, 28)
}

// TestTornTail: whatever the end of a process has left of its last record, all before
// it is read, and writing goes on there.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	f := createFolder(t, FolderConfig{Path: dir, MaxBytes: 1 << 20})
	write(t, f, 0, 6)
	whole := f.current.at
	write(t, f, 6, 8)
	end, path := f.current.at, f.current.Name()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	original, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, torn := range map[string][]byte{
		"of the header": original[:whole+5], "of nothing but zeros": append(bytes.Clone(original[:whole]), make([]byte, 100)...),
		"of the batch": original[:end-1], "of other bytes": append(bytes.Clone(original[:end-3]), 1, 2, 3),
		"with a length that is none": append(bytes.Clone(original[:whole+4]), bytes.Repeat([]byte{0xff}, 40)...),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			s := openFile(t, dir)
			got, _ := readAll(t, s, Start{})
			wantRange(t, "before", got, 0, 6)

			following := follow(t, s, Start{})
			following.want(t, 0, 6)
			f := createFolder(t, FolderConfig{Path: dir, MaxBytes: 1 << 20})
			if info, err := f.current.Stat(); err != nil || info.Size() != whole {
				t.Errorf("%d bytes are left, want %d; %v", info.Size(), whole, err)
			}
			write(t, f, 6, 20)
			following.want(t, 6, 20)
			got, places := readAll(t, s, Start{})
			wantRange(t, "afterwards", got, 0, 20)
			if places[6].Offset != 3 {
				t.Errorf("what is written behind it is at %v", places[6])
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("of the first line", func(t *testing.T) {
		for n := range len(fileMagic) {
			if err := os.WriteFile(path, original[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			s := openFile(t, dir)
			if got, _ := readAll(t, s, Start{}); len(got) != 0 {
				t.Errorf("%d bytes of it: got %v", n, got)
			}
			f := createFolder(t, FolderConfig{Path: dir, MaxBytes: 1 << 20})
			write(t, f, 0, 2)
			got, _ := readAll(t, s, Start{})
			wantRange(t, "afterwards", got, 0, 2)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A record that can not be read, in a file that is not the last, ends that file.
func TestDamagedFileInFolder(t *testing.T) {
	dir := t.TempDir()
	f := createFolder(t, FolderConfig{Path: dir, MaxBytes: 8 << 10})
	write(t, f, 0, 100)
	path := f.segments[0].path(dir)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2]++
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	second := int(f.segments[1].first) * 2
	s := openFile(t, dir)
	got, _ := readAll(t, s, Start{})
	read := len(got) - (100 - second)
	if read <= 0 || read >= second {
		t.Fatalf("%d of %d are read of the damaged file", read, second)
	}
	wantRange(t, "before the damage", got[:read], 0, read)
	wantRange(t, "the next file", got[read:], second, 100)
	following := follow(t, s, Start{})
	following.want(t, 0, read)
	following.want(t, second, 100)
}

func TestCreateFolderRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := CreateFolder(FolderConfig{Path: dir}); err == nil {
		t.Error("a folder without a bound is taken")
	}
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateFolder(FolderConfig{Path: path, MaxBytes: 1}); err == nil {
		t.Error("a file is taken for a folder")
	}
	if err := os.WriteFile(filepath.Join(dir, "0000000000000000003.segment"), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateFolder(FolderConfig{Path: dir, MaxBytes: 1 << 20}); !errors.Is(err, ErrNotTape) {
		t.Errorf("a file that is no tape: %v", err)
	}
}

// A disk that was full when a new file was begun: what comes later can be read.
func TestFolderAfterAFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tape")
	f := createFolder(t, FolderConfig{Path: dir, MaxBytes: 4 << 10})
	write(t, f, 0, 2)
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	failed := f.append(Batch{Body: make([]byte, 512), Entries: 1})
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(failed, unix.EFBIG) {
		t.Fatalf("a file that can not be begun: %v", failed)
	}
	write(t, f, 2, 6)
	got, _ := readAll(t, openFile(t, dir), Start{})
	wantRange(t, "later", got, 0, 6)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	write(t, createFolder(t, f.cfg), 6, 8)
	got, _ = readAll(t, openFile(t, dir), Start{})
	wantRange(t, "by the next process", got, 0, 8)
}
