package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"

	"github.com/gobwas/ws"
)

// Errors of a server's side of WebSocket.
var (
	errUpgrade = errors.New("load: the gate does not speak WebSocket")
	errFrame   = errors.New("load: malformed WebSocket frame")
)

// The key of every upgrade: example and answer of RFC 6455, 1.3. It proves
// that the other side speaks WebSocket, and need not be secret.
const (
	upgradeKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	upgradeAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	maxUpgrade    = 8 << 10
)

// appendUpgrade appends the HTTP request that begins a WebSocket.
func appendUpgrade(b []byte, t *target) []byte {
	return fmt.Appendf(b, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", t.path, t.host, upgradeKey)
}

// readUpgrade returns what is behind the answer to an upgrade, and false while
// the answer is not whole.
func readUpgrade(b []byte) (rest []byte, whole bool, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > maxUpgrade {
			return nil, false, errUpgrade
		}
		return nil, false, nil
	}
	head, rest := b[:end], b[end+4:]
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		line, _, _ := bytes.Cut(head, []byte("\r\n"))
		return nil, false, fmt.Errorf("%w: %.100q", errUpgrade, line)
	}
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte(http.CanonicalHeaderKey("Sec-WebSocket-Accept"))) &&
			string(bytes.TrimSpace(value)) == upgradeAccept {
			return rest, true, nil
		}
	}
	return nil, false, fmt.Errorf("%w: no Sec-WebSocket-Accept", errUpgrade)
}

const (
	frameFinal  = 0x80
	frameMasked = 0x80
	// The largest header that a client sends, and that a server does.
	maxClientHeader = 14
	maxServerHeader = 10
	maxControl      = 125 // RFC 6455, 5.5
)

// appendFrame appends a client's frame. A client masks what it sends; with a mask
// of zeros that costs nothing, and the server, which can not know, does its part
// of the work all the same. The mask protects proxies, of which there are none here.
func appendFrame(b []byte, op ws.OpCode, payload []byte) []byte {
	b = append(b, frameFinal|byte(op))
	switch n := len(payload); {
	case n < 126:
		b = append(b, frameMasked|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, frameMasked|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, frameMasked|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// frames takes a server's frames apart: what is in data frames is a stream of
// bytes, whatever the cut. The zero value is ready to use.
type frames struct {
	left    int64 // of the current data frame's payload
	partial []byte
}

// empty reports whether the stream is between two frames.
func (f *frames) empty() bool { return f.left == 0 && f.partial == nil }

// feed calls data with the bytes of data frames, and control with each control
// frame.
func (f *frames) feed(b []byte, data func([]byte) error, control func(ws.OpCode, []byte) error) error {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(int64(len(b)), f.left)
			f.left -= n
			if err := data(b[:n]); err != nil {
				return err
			}
			b = b[n:]
			continue
		}
		if f.partial != nil { // a header in two reads: rare
			b = append(f.partial, b...)
			f.partial = nil
		}
		op, length, size, err := readFrameHeader(b)
		if err != nil {
			return err
		}
		whole := size
		if op.IsControl() {
			whole += int(length)
		}
		if size == 0 || len(b) < whole {
			f.partial = append([]byte(nil), b...) // at most a header and a control frame
			return nil
		}
		if op.IsControl() {
			if err := control(op, b[size:whole]); err != nil {
				return err
			}
		} else {
			f.left = length
		}
		b = b[whole:]
	}
	return nil
}

// readFrameHeader reads a server's frame header; size is 0 while it is not whole.
func readFrameHeader(b []byte) (op ws.OpCode, length int64, size int, err error) {
	if len(b) < 2 {
		return 0, 0, 0, nil
	}
	op = ws.OpCode(b[0] & 0x0f)
	if b[0]&0x70 != 0 || b[1]&frameMasked != 0 || op == ws.OpText || op > ws.OpBinary && !op.IsControl() || op > ws.OpPong {
		return 0, 0, 0, fmt.Errorf("%w: 0x%02x 0x%02x", errFrame, b[0], b[1])
	}
	length, size = int64(b[1]), 2
	switch length {
	case 126:
		if size = 4; len(b) >= size {
			length = int64(binary.BigEndian.Uint16(b[2:]))
		}
	case 127:
		if size = 10; len(b) >= size {
			length = int64(binary.BigEndian.Uint64(b[2:]))
		}
	}
	if op.IsControl() && b[1] > maxControl || length < 0 {
		return 0, 0, 0, fmt.Errorf("%w: %v of %d bytes", errFrame, op, length)
	}
	if len(b) < size {
		return 0, 0, 0, nil
	}
	return op, length, size, nil
}
