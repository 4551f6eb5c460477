package client

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/motto123/minigate/codec"
)

// ErrProtocol: the gate sent what the protocol does not allow. Where that is no
// packet or message at all, an error of package codec says why.
var ErrProtocol = errors.New("client: protocol error of the gate")

// read reads packets until the connection ends; rest came with the handshake.
func (n *conn) read(rest []byte) {
	var in incoming
	in.conn = n
	err := in.packets.Feed(rest, in.packet)
	buffer := make([]byte, readBuffer)
	silence := n.welcome.interval() * 5 / 2
	var extended time.Time
	for err == nil {
		// A deadline costs more than a look at the clock, so it is moved seldom,
		// and by so much that the silence allowed is never shorter than promised.
		if now := time.Now(); silence > 0 && now.Sub(extended) > silence/8 {
			extended = now
			if err = n.transport.SetReadDeadline(now.Add(silence + silence/8)); err != nil {
				break
			}
		}
		var size int
		size, err = n.transport.Read(buffer)
		if size > 0 {
			if feed := in.packets.Feed(buffer[:size], in.packet); feed != nil {
				err = feed
			}
		}
	}
	switch {
	case errors.Is(err, codec.ErrPacketType), errors.Is(err, codec.ErrPacketLength):
		err = malformed(err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = ErrSilent
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("client: the gate closed the connection: %w", io.ErrUnexpectedEOF)
	}
	n.end(err)
	if n.ended() != ErrClosed {
		// The writer may be stuck. Otherwise it has something to write yet, and
		// closes by itself.
		_ = n.transport.Close()
	}
}

// malformed is err of package codec, about what the gate sent.
func malformed(err error) error { return fmt.Errorf("%w: %w", ErrProtocol, err) }

// incoming is the state of reading; only the reader has it.
type incoming struct {
	conn      *conn
	packets   codec.Decoder
	fragments codec.Assembler
	message   codec.Message
}

func (in *incoming) packet(p codec.Packet) error {
	switch p.Type {
	case codec.Heartbeat:
		return nil
	case codec.Kick:
		return readKick(p.Body)
	case codec.Data:
	default:
		return fmt.Errorf("%w: a second %s", ErrProtocol, p.Type)
	}
	bytes, whole, err := in.fragments.Add(p, in.conn.welcome.maxMessage())
	if err == nil && whole {
		err = codec.DecodeMessage(bytes, &in.message)
	}
	if err != nil {
		return malformed(err)
	}
	if !whole {
		return nil
	}
	m := &in.message
	switch m.Type {
	case codec.Response, codec.Ack:
		in.conn.answer(m)
		return nil
	case codec.Push:
		return in.conn.pushed(m)
	}
	return fmt.Errorf("%w: a %s", ErrProtocol, m.Type)
}
