package client

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/motto123/minigate/codec"
)

// ErrProtocol: the gate sent what the protocol does not allow. Bytes that are no
// packet or message at all end the connection with an error of package codec.
var ErrProtocol = errors.New("client: protocol error of the gate")

// read reads packets until the connection ends; rest came with the handshake.
func (c *Client) read(rest []byte) {
	var in incoming
	in.client = c
	err := in.packets.Feed(rest, in.packet)
	buffer := make([]byte, readBuffer)
	silence := c.welcome.interval() * 5 / 2
	var extended time.Time
	for err == nil {
		// A deadline costs more than a look at the clock, so it is moved seldom,
		// and by so much that the silence allowed is never shorter than promised.
		if now := time.Now(); silence > 0 && now.Sub(extended) > silence/8 {
			extended = now
			if err = c.transport.SetReadDeadline(now.Add(silence + silence/8)); err != nil {
				break
			}
		}
		var n int
		n, err = c.transport.Read(buffer)
		if n > 0 {
			if feed := in.packets.Feed(buffer[:n], in.packet); feed != nil {
				err = feed
			}
		}
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = ErrSilent
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("client: the gate closed the connection: %w", io.ErrUnexpectedEOF)
	}
	c.end(err)
	if c.Err() != ErrClosed {
		// The writer may be stuck. Otherwise it has something to write yet, and
		// closes by itself.
		_ = c.transport.Close()
	}
}

// incoming is the state of reading; only the reader has it.
type incoming struct {
	client    *Client
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
	bytes, whole, err := in.fragments.Add(p, in.client.welcome.maxMessage())
	if err != nil || !whole {
		return err
	}
	m := &in.message
	if err := codec.DecodeMessage(bytes, m); err != nil {
		return err
	}
	switch m.Type {
	case codec.Response, codec.Ack:
		in.client.answer(m)
		return nil
	case codec.Push:
		return in.client.pushed(m)
	}
	return fmt.Errorf("%w: a %s", ErrProtocol, m.Type)
}
