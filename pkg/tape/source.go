package tape

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// glance is how often a reader that follows looks whether there is more.
const glance = 50 * time.Millisecond

// ErrDamaged is of a file with a record in the middle that can not be read.
var ErrDamaged = errors.New("tape: the file is damaged")

// OpenFile opens a file that CreateFile made, or a folder that CreateFolder made, for
// reading; another process may write into it meanwhile. In a folder, a record that can
// not be read ends its file, and reading goes on with the next one; in a file, only the
// last one may be torn.
func OpenFile(path string) (Source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("tape: %w", err)
	}
	if !info.IsDir() && !info.Mode().IsRegular() { // to open a pipe would wait for its writer
		return nil, fmt.Errorf("tape: %s: want a file or a folder", path)
	}
	closing, end := context.WithCancel(context.Background())
	s := &fileSource{path: path, folder: info.IsDir(), closing: closing, end: end}
	if s.folder {
		return s, nil
	}
	c, err := openCursor(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := c.peek(); err != nil && !errors.Is(err, errTorn) {
		return nil, err
	}
	return s, nil
}

// fileSource reads records of a file, or of the files of a folder.
type fileSource struct {
	path    string
	folder  bool
	closing context.Context
	end     context.CancelFunc
	reading sync.WaitGroup
}

// Close ends all that read, and waits for them.
func (s *fileSource) Close() error {
	s.end()
	s.reading.Wait()
	return nil
}

// Read implements Source.
func (s *fileSource) Read(ctx context.Context, start Start, follow bool, each func(*Entry) error) error {
	s.reading.Add(1)
	defer s.reading.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	r := &reader{source: s, ctx: ctx, start: start, follow: follow, each: each, again: -1}
	defer r.close()
	ok, err := r.begin()
	for ok && err == nil {
		ok, err = r.step()
	}
	return err
}
