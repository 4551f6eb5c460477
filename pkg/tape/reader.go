package tape

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// reader is one Read of a fileSource.
type reader struct {
	source *fileSource
	ctx    context.Context
	start  Start
	follow bool
	each   func(*Entry) error
	cursor *cursor
	again  int64 // place of a record that was not whole and is read once more

	// Where reading ends that does not follow: a place in the last file.
	lastFile, lastByte int64
}

// errEnded: the context has ended between two entries.
var errEnded = errors.New("reading has ended")

func (r *reader) close() {
	if r.cursor != nil {
		_ = r.cursor.Close() // it was only read
	}
}

// files are those there are, the oldest first. What is no folder has one.
func (r *reader) files() ([]segment, error) {
	if r.source.folder {
		return listSegments(r.source.path)
	}
	info, err := os.Stat(r.source.path)
	if err != nil {
		return nil, fmt.Errorf("tape: %w", err)
	}
	return []segment{{size: info.Size()}}, nil
}

// use goes to the beginning of a file.
func (r *reader) use(s segment) error {
	path := r.source.path
	if r.source.folder {
		path = s.path(path)
	}
	c, err := openCursor(path, os.O_RDONLY, s.first)
	if err != nil {
		return err
	}
	if r.cursor != nil {
		c.buffer = r.cursor.buffer
		r.close()
	}
	r.cursor, r.again = c, -1
	return nil
}

// begin finds the record to begin with. It returns false where there is none, and
// there will be none.
func (r *reader) begin() (bool, error) {
	files, err := r.files()
	for err == nil && len(files) == 0 {
		if !r.wait() {
			return false, nil
		}
		files, err = r.files()
	}
	if err != nil {
		return false, err
	}
	last := files[len(files)-1]
	r.lastFile, r.lastByte = last.first, last.size
	position := r.start.Position
	live := r.start.Live && position == nil && r.start.Since.IsZero()
	for i, file := range files {
		if i+1 < len(files) && (live || position != nil && files[i+1].first <= position.Offset) {
			continue
		}
		err := r.use(file)
		if errors.Is(err, os.ErrNotExist) && i+1 < len(files) {
			continue // it was the oldest, and has gone
		}
		if err != nil {
			return false, err
		}
		if found, err := r.seek(live); found || err != nil {
			return found, err
		}
	}
	return true, nil // behind all that there is
}

// seek passes what is before the start, and returns false where that is all.
func (r *reader) seek(live bool) (bool, error) {
	for {
		next, err := r.cursor.peek()
		switch {
		case errors.Is(err, errTorn):
			return false, nil
		case err != nil:
			return false, err
		case !live && !r.before(r.cursor.offset, next.last):
			return true, nil
		}
		r.cursor.pass(next)
	}
}

// before says whether all of a record is before the start.
func (r *reader) before(offset int64, last time.Time) bool {
	if r.start.Position != nil {
		return offset < r.start.Position.Offset
	}
	return last.Before(r.start.Since)
}

// step reads a record, or goes on to the next file, or waits. It returns false at the
// end.
func (r *reader) step() (bool, error) {
	if r.ctx.Err() != nil || r.atEnd() {
		return false, nil
	}
	next, err := r.cursor.next()
	if errors.Is(err, errTorn) {
		return r.more()
	}
	if err != nil {
		return false, err
	}
	offset := r.cursor.offset - 1
	if r.before(offset, next.last) {
		return true, nil
	}
	err = ReadBatch(next.body, offset, r.hand)
	switch {
	case errors.Is(err, errEnded):
		return false, nil
	case errors.Is(err, ErrMalformed):
		return false, fmt.Errorf("%w: %s, record %d", err, r.cursor.Name(), offset)
	}
	return err == nil, err
}

func (r *reader) hand(e *Entry) error {
	if p := r.start.Position; p != nil && e.Position.Offset == p.Offset && e.Position.Index < p.Index {
		return nil
	}
	if r.ctx.Err() != nil {
		return errEnded
	}
	return r.each(e)
}

// atEnd says whether all was read that was there when reading began.
func (r *reader) atEnd() bool {
	c := r.cursor
	return !r.follow && (c.first > r.lastFile || c.first == r.lastFile && c.at >= r.lastByte)
}

// more says how it goes on where the next record is not there, or is not whole. One
// with something behind it is not written to any more, and is read once more, since it
// may have become whole meanwhile.
func (r *reader) more() (bool, error) {
	next, behind, err := r.behind()
	switch {
	case err != nil:
		return false, err
	case !behind:
		return r.wait(), nil
	case r.again != r.cursor.at:
		r.again = r.cursor.at
		return true, nil
	case !r.source.folder:
		return false, fmt.Errorf("%w: %s, byte %d", ErrDamaged, r.cursor.Name(), r.cursor.at)
	}
	if err := r.use(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	return true, nil // where it has gone already, the one behind it is next
}

// behind looks for what is behind a record: the next file, or more of the only one.
func (r *reader) behind() (next segment, found bool, err error) {
	files, err := r.files()
	if err != nil {
		return segment{}, false, err
	}
	if !r.source.folder {
		whole, err := r.cursor.peek()
		return segment{}, err == nil && r.cursor.at+whole.size < files[0].size, nil
	}
	for _, file := range files {
		if file.first > r.cursor.first && (r.follow || file.first <= r.lastFile) {
			return file, true, nil
		}
	}
	return segment{}, false, nil
}

// wait waits a moment for more. It returns false where nobody waits for it.
func (r *reader) wait() bool {
	if !r.follow {
		return false
	}
	timer := time.NewTimer(glance)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}
