package tape

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"
)

// A tape in a file is a line that says so, and then records, one for each batch:
//
//	crc32c of all that follows   4 bytes, little endian, as all numbers here
//	length of the batch          4 bytes
//	its latest time              8 bytes, Unix nanoseconds
//	batch                        a tapepb.Batch
//
// A record is written with one call, so that of a process that was killed only the
// last record can be torn.
const (
	fileMagic    = "minigate tape 1\n"
	recordHeader = 16
	// maxRecord bounds what is read for one record: what says more is no record.
	maxRecord = maxEntry
)

// fileMode is of all files: what people have sent is in them.
const fileMode = 0o600

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn is of a record that is not there, or not all there.
var errTorn = errors.New("the record is not whole")

// ErrNotTape is of a file that is something else.
var ErrNotTape = errors.New("tape: the file is not a tape")

func appendRecord(b []byte, batch Batch) []byte {
	start := len(b)
	b = append(b, make([]byte, recordHeader)...)
	b = append(b, batch.Body...)
	record := b[start:]
	binary.LittleEndian.PutUint32(record[4:], uint32(len(batch.Body)))
	var last int64
	if !batch.Last.IsZero() {
		last = batch.Last.UnixNano()
	}
	binary.LittleEndian.PutUint64(record[8:], uint64(last))
	binary.LittleEndian.PutUint32(record, crc32.Checksum(record[4:], castagnoli))
	return b
}

// record is one that was read.
type record struct {
	last time.Time
	size int64  // in the file
	body []byte // a batch, until the next one is read
}

// cursor is a place in a file.
type cursor struct {
	*os.File
	first  int64 // number of the file's first record
	offset int64 // of the next one
	at     int64 // where that is; 0 until the file begins as a tape does
	buffer []byte
}

// openCursor opens a file, at its first record, which has a number.
func openCursor(path string, flag int, first int64) (*cursor, error) {
	f, err := os.OpenFile(path, flag, fileMode)
	if err != nil {
		return nil, fmt.Errorf("tape: %w", err)
	}
	return &cursor{File: f, first: first, offset: first}, nil
}

// peek is the next record without its batch; errTorn where it is not there yet.
func (c *cursor) peek() (record, error) {
	r, _, err := c.header()
	return r, err
}

func (c *cursor) header() (r record, header [recordHeader]byte, err error) {
	if c.at == 0 {
		if err := c.begin(); err != nil {
			return r, header, err
		}
	}
	if _, err := c.ReadAt(header[:], c.at); err != nil {
		return r, header, torn(err)
	}
	length := binary.LittleEndian.Uint32(header[4:])
	all, err := c.Stat()
	if err != nil {
		return r, header, fmt.Errorf("tape: %w", err)
	}
	r.size = recordHeader + int64(length)
	if length > maxRecord || c.at+r.size > all.Size() {
		return r, header, errTorn
	}
	if last := int64(binary.LittleEndian.Uint64(header[8:])); last != 0 {
		r.last = time.Unix(0, last)
	}
	return r, header, nil
}

// begin looks whether the file is a tape. One that is being made may have less.
func (c *cursor) begin() error {
	var b [len(fileMagic)]byte
	n, err := c.ReadAt(b[:], 0)
	if string(b[:n]) != fileMagic[:n] {
		return fmt.Errorf("%w: %s", ErrNotTape, c.Name())
	}
	if err != nil {
		return torn(err)
	}
	c.at = int64(len(b))
	return nil
}

// pass goes on behind a record.
func (c *cursor) pass(r record) { c.at, c.offset = c.at+r.size, c.offset+1 }

// next reads the next record and goes on behind it; errTorn where it is not all there.
func (c *cursor) next() (record, error) {
	r, header, err := c.header()
	if err != nil {
		return r, err
	}
	length := int(r.size - recordHeader)
	if cap(c.buffer) < length {
		c.buffer = make([]byte, length)
	}
	r.body = c.buffer[:length]
	if _, err := c.ReadAt(r.body, c.at+recordHeader); err != nil {
		return r, torn(err)
	}
	if crc := crc32.Update(crc32.Checksum(header[4:], castagnoli), castagnoli, r.body); crc != binary.LittleEndian.Uint32(header[:]) {
		return r, errTorn
	}
	c.pass(r)
	return r, nil
}

func torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTorn
	}
	return fmt.Errorf("tape: read a record: %w", err)
}
