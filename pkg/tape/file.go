package tape

import (
	"errors"
	"fmt"
	"os"
)

// File is a tape in a single file, without a bound. Its methods are for one goroutine
// at a time.
type File struct {
	f      *os.File
	batch  []byte
	record []byte
}

// CreateFile makes a file, which must not be there yet.
func CreateFile(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, fileMode)
	if err != nil {
		return nil, fmt.Errorf("tape: %w", err)
	}
	if _, err := f.WriteString(fileMagic); err != nil {
		return nil, errors.Join(fmt.Errorf("tape: %w", err), f.Close())
	}
	return &File{f: f}, nil
}

// Append writes an entry, whose Position becomes a new one.
func (f *File) Append(e *Entry) error {
	f.batch, _ = appendEntry(f.batch[:0], e)
	f.record = appendRecord(f.record[:0], Batch{Body: f.batch, Entries: 1, Last: e.Time})
	if _, err := f.f.Write(f.record); err != nil {
		return fmt.Errorf("tape: %w", err)
	}
	return nil
}

// Close ends the file. An error says that not all of it may be there.
func (f *File) Close() error {
	if err := f.f.Close(); err != nil {
		return fmt.Errorf("tape: %w", err)
	}
	return nil
}
