package tlsloop

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"sync"
	"unsafe"
)

// crypto/tls reads records into a buffer of the connection, and keeps the largest
// that it ever had: 4 KiB after a handshake, 16 KiB and more after one large record,
// for as long as the connection lives. It has no way to take it away, so this does,
// where it is empty: then nothing points into it. While a connection is fed, it has
// a buffer of the pool instead, and leaves it when all records in it were read.
//
// The fields are found by name and type. In a version of crypto/tls that has others
// connections keep their buffers, nothing else changes, and a test fails that says so.

// field is where a bytes.Buffer is in a tls.Conn.
type field struct {
	offset uintptr
	found  bool
}

var (
	records  = bufferIn("rawInput") // ciphertext that begins with a record
	messages = bufferIn("hand")     // handshake messages that are not whole yet
)

func bufferIn(name string) field {
	f, ok := reflect.TypeFor[tls.Conn]().FieldByName(name)
	return field{f.Offset, ok && f.Type == reflect.TypeFor[bytes.Buffer]()}
}

// of returns the buffer, or nil.
func (f field) of(c *tls.Conn) *bytes.Buffer {
	if !f.found {
		return nil
	}
	return (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(c), f.offset))
}

// record is room for the largest record, its header, and what crypto/tls wants to
// have free beyond it.
const record = 5 + 16<<10 + 256 + bytes.MinRead

var pool = sync.Pool{New: func() any { return new([record]byte) }}

// borrowed is a buffer of the pool that a connection has; the zero value is none.
type borrowed struct {
	of   *tls.Conn
	room *[record]byte
}

// borrow gives a connection a buffer, with what it holds of a record: crypto/tls
// would make room for the whole record with the first byte behind its header.
func borrow(c *tls.Conn) borrowed {
	b := records.of(c)
	if b == nil {
		return borrowed{of: c}
	}
	room := pool.Get().(*[record]byte)
	*b = *bytes.NewBuffer(append(room[:0], b.Bytes()...))
	return borrowed{c, room}
}

// giveBack takes the buffer again. A record that has only begun gets one of its own.
func (r borrowed) giveBack() {
	if r.room != nil {
		b := records.of(r.of)
		*b = *bytes.NewBuffer(bytes.Clone(b.Bytes()))
		pool.Put(r.room)
	}
	release(r.of)
}

// release takes away what is empty.
func release(c *tls.Conn) {
	for _, f := range [...]field{records, messages} {
		if b := f.of(c); b != nil && b.Len() == 0 {
			*b = bytes.Buffer{}
		}
	}
}
