package tape

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FolderConfig is what a Folder needs.
type FolderConfig struct {
	Path string
	// MaxBytes bounds what is in the folder, and MaxAge how old it is; where that is 0
	// it may be of any age. Both are looked at with each write.
	MaxBytes int64
	MaxAge   time.Duration
}

// Folder is a tape in a folder: files of records, the oldest of which goes when there
// is too much. Only one process writes into a folder; any number may read it, see
// OpenFile.
type Folder struct {
	cfg      FolderConfig
	lock     *os.File
	current  *cursor   // where the next record is written
	began    time.Time // when its first one was
	segments []segment // the last one is current's
	buffer   []byte
}

var _ Store = (*Folder)(nil)

// segment is one file of a folder. Its name is the offset of its first record.
type segment struct {
	first int64
	size  int64
	last  time.Time // when it was last written to
}

// shares is how many files there are when the folder is full: the oldest of so many
// goes at a time.
const shares = 8

const segmentSuffix = ".segment"

func (s segment) path(folder string) string {
	return filepath.Join(folder, fmt.Sprintf("%019d", s.first)+segmentSuffix)
}

// ErrInUse: another process writes into the folder.
var ErrInUse = errors.New("tape: another process writes into this folder")

// CreateFolder opens a folder for writing, and makes it where it is missing. What the
// end of a process has left of its last record is cut off.
func CreateFolder(cfg FolderConfig) (*Folder, error) {
	if cfg.MaxBytes <= 0 {
		return nil, fmt.Errorf("tape: %s: got a bound of %d bytes, want more than 0", cfg.Path, cfg.MaxBytes)
	}
	f := &Folder{cfg: cfg}
	if err := f.open(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *Folder) open() (err error) {
	if err := os.MkdirAll(f.cfg.Path, 0o700); err != nil {
		return fmt.Errorf("tape: %w", err)
	}
	if f.lock, err = os.Open(f.cfg.Path); err != nil {
		return fmt.Errorf("tape: %w", err)
	}
	if err := unix.Flock(int(f.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return fmt.Errorf("tape: lock %s: %w", f.cfg.Path, err)
	}
	if f.segments, err = listSegments(f.cfg.Path); err != nil {
		return err
	}
	if len(f.segments) == 0 {
		return f.begin(0)
	}
	return f.goOn()
}

// listSegments are the files of a folder, the oldest first.
func listSegments(path string) (all []segment, err error) {
	files, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("tape: %w", err)
	}
	for _, file := range files {
		name, ok := strings.CutSuffix(file.Name(), segmentSuffix)
		if !ok || !file.Type().IsRegular() {
			continue
		}
		first, err := strconv.ParseInt(name, 10, 64)
		if err != nil || first < 0 {
			continue
		}
		info, err := file.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // it is gone since
		}
		if err != nil {
			return nil, fmt.Errorf("tape: %w", err)
		}
		all = append(all, segment{first: first, size: info.Size(), last: info.ModTime()})
	}
	slices.SortFunc(all, func(a, b segment) int { return int(min(max(a.first-b.first, -1), 1)) })
	return all, nil
}

// goOn writes behind the last whole record that there is.
func (f *Folder) goOn() (err error) {
	last := &f.segments[len(f.segments)-1]
	if f.current, err = openCursor(last.path(f.cfg.Path), os.O_RDWR, last.first); err != nil {
		return err
	}
	for {
		r, err := f.current.next()
		if errors.Is(err, errTorn) {
			break
		}
		if err != nil {
			return err
		}
		if f.began.IsZero() {
			f.began = r.last
		}
	}
	if f.current.at == 0 { // not even its beginning
		return f.write([]byte(fileMagic))
	}
	if err := f.current.Truncate(f.current.at); err != nil {
		return fmt.Errorf("tape: cut off a torn record: %w", err)
	}
	last.size = f.current.at
	return nil
}

// begin makes a new file.
func (f *Folder) begin(first int64) (err error) {
	s := segment{first: first, last: time.Now()}
	c, err := openCursor(s.path(f.cfg.Path), os.O_RDWR|os.O_CREATE|os.O_EXCL, first)
	if err != nil {
		return err
	}
	if f.current != nil {
		err = f.current.Close()
	}
	f.current, f.began = c, time.Time{}
	f.segments = append(f.segments, s)
	return errors.Join(err, f.write([]byte(fileMagic)))
}

// write writes at the end of the current file, or leaves it as it was.
func (f *Folder) write(b []byte) error {
	c, s := f.current, &f.segments[len(f.segments)-1]
	if _, err := c.WriteAt(b, c.at); err != nil {
		return errors.Join(fmt.Errorf("tape: %w", err), c.Truncate(c.at))
	}
	c.at += int64(len(b))
	s.size, s.last = c.at, time.Now()
	return nil
}

// Write implements Store.
func (f *Folder) Write(_ context.Context, b Batch, done func(error)) { done(f.append(b)) }

func (f *Folder) append(b Batch) error {
	f.buffer = appendRecord(f.buffer[:0], b)
	size := int64(len(f.buffer))
	if size+int64(len(fileMagic)) > f.cfg.MaxBytes {
		return fmt.Errorf("%w: %d bytes of %d", ErrTooLarge, size, f.cfg.MaxBytes)
	}
	if f.current.at == 0 { // it was begun, and had no room for its beginning
		if err := f.write([]byte(fileMagic)); err != nil {
			return err
		}
	}
	if err := f.makeRoom(size, time.Now()); err != nil {
		return err
	}
	if f.began.IsZero() {
		f.began = time.Now()
	}
	if err := f.write(f.buffer); err != nil {
		return err
	}
	f.current.offset++
	if cap(f.buffer) > keepBytes {
		f.buffer = nil
	}
	return nil
}

// makeRoom begins a new file where the current one has its share, and removes the
// oldest ones where all together would have too much, or are too old.
func (f *Folder) makeRoom(size int64, now time.Time) error {
	c, hasAny := f.current, !f.began.IsZero()
	full := c.at+size > f.cfg.MaxBytes/shares
	old := f.cfg.MaxAge > 0 && now.Sub(f.began) > f.cfg.MaxAge/shares
	if hasAny && (full || old) {
		if err := f.begin(c.offset); err != nil {
			return err
		}
	}
	var total int64
	for _, s := range f.segments {
		total += s.size
	}
	for len(f.segments) > 1 {
		oldest := f.segments[0]
		if total+size <= f.cfg.MaxBytes && (f.cfg.MaxAge == 0 || now.Sub(oldest.last) <= f.cfg.MaxAge) {
			break
		}
		if err := os.Remove(oldest.path(f.cfg.Path)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("tape: %w", err)
		}
		total -= oldest.size
		f.segments = f.segments[1:]
	}
	return nil
}

// Close ends the writing.
func (f *Folder) Close() error {
	var errs []error
	if f.current != nil {
		errs = append(errs, f.current.Close())
	}
	if f.lock != nil {
		errs = append(errs, f.lock.Close())
	}
	return errors.Join(errs...)
}
