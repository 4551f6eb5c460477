package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/motto123/minigate/codec"
)

// hello is the body of a Handshake.
type hello struct {
	Sys struct {
		Version     string `json:"version"`
		ClientType  string `json:"client_type"`
		Fragment    bool   `json:"fragment"`
		TraceParent string `json:"traceparent,omitempty"`
	} `json:"sys"`
	User struct {
		Token string `json:"token,omitempty"`
	} `json:"user"`
}

// welcome is the body of a HandshakeAck.
type welcome struct {
	Code       int    `json:"code"`
	Message    string `json:"message"` // for people
	RetryAfter int64  `json:"retry_after_ms"`
	Sys        struct {
		Dictionary codec.ClientDictionary `json:"dict"`
		Heartbeat  float64                `json:"heartbeat"` // seconds
		Session    string                 `json:"session"`
		MaxMessage int                    `json:"max_message"`
	} `json:"sys"`
	User struct {
		ID int64 `json:"id"`
	} `json:"user"`
}

// interval is how often a heartbeat is sent; 0 is never.
func (w *welcome) interval() time.Duration {
	return time.Duration(min(max(w.Sys.Heartbeat, 0), 24*3600) * float64(time.Second))
}

// maxMessage is the largest message that either side may send.
func (w *welcome) maxMessage() int {
	if w.Sys.MaxMessage <= 0 {
		return defaultMessage
	}
	return min(w.Sys.MaxMessage, codec.MaxMessage)
}

// kick is the body of a Kick.
type kick struct {
	Code       string `json:"code"`
	Reason     string `json:"reason"`
	RetryAfter int64  `json:"retry_after_ms"`
	Resume     bool   `json:"resume"`
}

func readKick(body []byte) error {
	var k kick
	if err := json.Unmarshal(body, &k); err != nil {
		return fmt.Errorf("client: read the kick: %w", err)
	}
	return &KickError{
		Code: k.Code, Reason: k.Reason, Resume: k.Resume,
		RetryAfter: time.Duration(k.RetryAfter) * time.Millisecond,
	}
}

// shake writes the Handshake and reads its answer. It returns what was read
// behind that.
func (n *conn) shake(ctx context.Context, token string) (rest []byte, err error) {
	// Whoever waits for the network is woken by a deadline in the past.
	stop := context.AfterFunc(ctx, func() { _ = n.transport.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil || ctx.Err() != nil {
			err = ctx.Err()
		}
	}()

	var h hello
	h.Sys.Version, h.Sys.ClientType, h.Sys.Fragment = version, n.opts.ClientType, !n.opts.NoFragments
	h.Sys.TraceParent, h.User.Token = n.opts.TraceParent, token
	body, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("write: %w", err)
	}
	packet, err := codec.AppendPacket(nil, codec.Handshake, 0, body)
	if err != nil {
		return nil, fmt.Errorf("write: %w", err)
	}
	if err := n.transport.Write(packet, nil); err != nil {
		return nil, fmt.Errorf("write: %w", err)
	}

	buffer := make([]byte, 0, 4096)
	for {
		packet, size, err := codec.DecodePacket(buffer)
		switch {
		case err == nil:
			return buffer[size:], n.welcomed(packet)
		case !errors.Is(err, codec.ErrShort):
			return nil, malformed(err)
		}
		if len(buffer) == cap(buffer) {
			buffer = append(buffer, 0)[:len(buffer)] // at most one packet is held
		}
		read, err := n.transport.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+read]
		if err != nil && read == 0 {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read: %w", err)
		}
	}
}

func (n *conn) welcomed(p codec.Packet) error {
	switch p.Type {
	case codec.Kick:
		return readKick(p.Body)
	case codec.HandshakeAck:
	default:
		return fmt.Errorf("%w: %s instead of the handshake's answer", ErrProtocol, p.Type)
	}
	if err := json.Unmarshal(p.Body, &n.welcome); err != nil {
		return fmt.Errorf("%w: the handshake's answer: %w", ErrProtocol, err)
	}
	if w := &n.welcome; w.Code != 200 {
		return &HandshakeError{
			Code: w.Code, Message: w.Message,
			RetryAfter: time.Duration(w.RetryAfter) * time.Millisecond,
		}
	}
	return nil
}
