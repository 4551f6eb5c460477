package gate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/gobwas/ws"
)

// webSocket carries a session's packets in binary frames (RFC 6455), as a byte
// stream: a frame may hold several packets or part of one, so no frame is ever
// held; what came of its payload is unmasked where it lies and handed on.
type webSocket struct {
	stream  stream
	session *session

	// partial is what came of the HTTP request or of a frame's header or of a
	// control frame, so far; nil between them.
	partial []byte

	left      int64 // of the current data frame's payload
	position  int   // in the mask
	mask      [4]byte
	upgraded  bool
	continued bool // a fragmented message is open
	saidClose bool // a close frame was sent
}

// stream is what a WebSocket needs of what carries it.
type stream interface {
	conn
	// write2 writes head and b, as write does.
	write2(head, b []byte)
}

const (
	webSocketPath = "/ws"
	maxHTTPHeader = 8 << 10
	maxControl    = 125 // RFC 6455, 5.5
)

func (w *webSocket) owner() *loop { return w.session.loop }

// received takes bytes from the socket, in any cut.
func (w *webSocket) received(b []byte) {
	if w.session.state >= closing {
		return
	}
	if !w.upgraded {
		b = w.upgrade(b)
	}
	for len(b) > 0 && w.session.state < closing {
		if w.left > 0 {
			n := min(int64(len(b)), w.left)
			payload := b[:n:n]
			ws.Cipher(payload, w.mask, w.position)
			w.position = (w.position + int(n)) & 3
			w.left -= n
			b = b[n:]
			w.session.received(payload)
			continue
		}
		b = w.frame(b)
	}
}

// frame reads a frame's header and, of a control frame, the payload too. It
// returns what is behind that.
func (w *webSocket) frame(b []byte) []byte {
	if w.partial != nil {
		b = append(w.partial, b...)
		w.partial = nil
	}
	header, size, err := readHeader(b)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		w.partial = append([]byte(nil), b...) // at most 13 bytes
		return nil
	}
	if err == nil {
		state := ws.StateServerSide
		if w.continued {
			state = state.Set(ws.StateFragmented)
		}
		err = ws.CheckHeader(header, state)
	}
	if err != nil {
		w.fail(ws.StatusProtocolError, err.Error())
		return nil
	}
	if header.OpCode.IsControl() {
		whole := size + int(header.Length)
		if len(b) < whole {
			w.partial = append([]byte(nil), b...) // at most 14 + 125 bytes
			return nil
		}
		payload := b[size:whole:whole]
		ws.Cipher(payload, header.Mask, 0)
		w.control(header.OpCode, payload)
		return b[whole:]
	}
	if header.OpCode == ws.OpText {
		w.fail(ws.StatusUnsupportedData, "JSON text frames are not there yet: send packets in binary frames")
		return nil
	}
	w.continued = !header.Fin
	w.left, w.mask, w.position = header.Length, header.Mask, 0
	return b[size:]
}

// readHeader is ws.ReadHeader on bytes: io.ErrUnexpectedEOF asks for more.
func readHeader(b []byte) (ws.Header, int, error) {
	r := bytes.NewReader(b)
	h, err := ws.ReadHeader(r)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return h, len(b) - r.Len(), err
}

func (w *webSocket) control(op ws.OpCode, payload []byte) {
	s := w.session
	s.lastSeen = s.loop.now
	switch op {
	case ws.OpPing:
		w.writeFrame(ws.OpPong, payload)
		s.begin() // has the write queue looked at: a client may send pings and read nothing
	case ws.OpClose:
		// RFC 6455, 5.5.1: the answer repeats the status.
		code, reason := ws.ParseCloseFrameData(payload)
		if len(payload) == 0 {
			code = ws.StatusNormalClosure
		} else if err := ws.CheckCloseFrameData(code, reason); err != nil || len(payload) == 1 {
			w.fail(ws.StatusProtocolError, "the close frame is malformed")
			return
		}
		w.shut(code, "", "closed")
	}
}

// fail closes because of what the client sent, which is no packet: the reason is
// in the close frame, where any WebSocket client shows it.
func (w *webSocket) fail(code ws.StatusCode, reason string) {
	w.owner().gate.stats.kicked(kickProtocol)
	w.shut(code, reason, kickProtocol)
}

// shut ends the session with a close frame, behind what this turn has written so
// far.
func (w *webSocket) shut(code ws.StatusCode, reason, why string) {
	s := w.session
	s.flush()
	w.sayClose(code, reason)
	s.end(why)
	if s.state == closing { // and not closed, if a write failed
		w.stream.finish()
	}
}

// sayClose sends the close frame, once.
func (w *webSocket) sayClose(code ws.StatusCode, reason string) {
	if w.saidClose || !w.upgraded || w.session.state == closed {
		return
	}
	body := ws.NewCloseFrameBody(code, reason)
	w.writeFrame(ws.OpClose, body[:min(len(body), maxControl)])
	w.saidClose = true
}

// writeFrame writes one frame: without a mask, as a server does (RFC 6455, 5.1).
func (w *webSocket) writeFrame(op ws.OpCode, payload []byte) {
	if w.saidClose || w.session.state == closed {
		return
	}
	l := w.owner()
	w.stream.write2(appendFrameHeader(l.frame[:0], op, len(payload)), payload)
}

// maxFrameHeader is the largest header of a frame without a mask.
const maxFrameHeader = 10

// appendFrameHeader appends the header of a final frame without a mask:
// RFC 6455, 5.2.
func appendFrameHeader(b []byte, op ws.OpCode, n int) []byte {
	const final = 0x80
	b = append(b, final|byte(op))
	switch {
	case n < 126:
		return append(b, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
}

func (w *webSocket) write(b []byte) {
	if w.upgraded {
		w.writeFrame(ws.OpBinary, b)
		return
	}
	// A kick, and the client does not speak WebSocket yet.
	status, reason := http.StatusRequestTimeout, "no request came in time"
	if w.owner().gate.draining.Load() {
		status, reason = http.StatusServiceUnavailable, "the gate is shutting down"
	}
	w.answer(status, reason)
}

func (w *webSocket) buffered() int { return w.stream.buffered() }
func (w *webSocket) resume()       { w.stream.resume() }
func (w *webSocket) close()        { w.stream.close() }

func (w *webSocket) finish() {
	w.partial = nil
	w.sayClose(ws.StatusNormalClosure, "")
	if w.session.state != closed {
		w.stream.finish()
	}
}

// endOfHeader is behind the lines of an HTTP request that has no body.
const endOfHeader = "\r\n\r\n"

// upgrade reads the HTTP request and answers it. It returns what is behind it. Of a
// request that comes in pieces each byte is copied and looked at once.
func (w *webSocket) upgrade(b []byte) []byte {
	had := len(w.partial)
	request := b[:min(len(b), maxHTTPHeader-had)]
	if had > 0 {
		w.partial = append(w.partial, request...)
		request = w.partial
	}
	seen := max(had-len(endOfHeader)+1, 0)
	end := bytes.Index(request[seen:], []byte(endOfHeader))
	if end < 0 {
		if len(request) == maxHTTPHeader {
			w.reject(http.StatusRequestHeaderFieldsTooLarge, "the request's header is over 8 KiB")
			return nil
		}
		if had == 0 {
			w.partial = bytes.Clone(request)
		}
		if !w.session.holdsHalf(len(w.partial)) {
			w.reject(http.StatusServiceUnavailable, errUnfinished.Error())
		}
		return nil
	}
	end += seen + len(endOfHeader)
	request, b = request[:end], b[end-had:]
	w.partial = nil
	w.session.holdsHalf(0)
	if status, reason := refusedRequest(request); status != 0 {
		w.reject(status, reason)
		return nil
	}
	answer := new(bytes.Buffer)
	_, err := w.upgrader().Upgrade(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(request), answer})
	if answer.Len() == 0 { // a version that is none of HTTP's
		w.reject(http.StatusBadRequest, "this is not HTTP/1.1")
		return nil
	}
	w.stream.write(answer.Bytes())
	if err != nil { // the answer says what was wrong
		w.drop()
		return nil
	}
	w.upgraded = true
	return b
}

// refusedRequest answers what is not for a WebSocket; status 0 is an upgrade.
func refusedRequest(request []byte) (status int, reason string) {
	line, _, _ := strings.Cut(string(request), "\r\n")
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return http.StatusBadRequest, "this is not HTTP"
	}
	path, _, _ := strings.Cut(fields[1], "?")
	switch {
	case strings.HasPrefix(path, "/v1/"):
		return http.StatusNotImplemented, "requests over HTTP are not there yet: use a WebSocket at " + webSocketPath
	case path != webSocketPath:
		return http.StatusNotFound, "there is nothing here but a WebSocket at " + webSocketPath
	}
	return 0, ""
}

// reject answers an HTTP request with an error, and closes.
func (w *webSocket) reject(status int, reason string) {
	w.answer(status, reason)
	w.drop()
}

func (w *webSocket) answer(status int, reason string) {
	body, err := json.Marshal(map[string]any{"code": status, "message": reason})
	if err != nil {
		body = []byte("{}")
	}
	w.stream.write(fmt.Appendf(nil,
		"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(body), body))
}

func (w *webSocket) drop() {
	s := w.session
	s.loop.gate.stats.HandshakesRefused.Add(1)
	w.partial = nil
	s.end("refused")
	if s.state == closing { // and not closed, if the write failed
		w.stream.finish()
	}
}
