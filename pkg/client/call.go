package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/failure"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Reply is a successful answer as it came.
type Reply struct {
	Data codec.DataType
	Name string // protobuf full name of what Body holds; may be empty
	Body []byte
}

// Call sends a Request in protobuf and reads its answer into out, which may be
// nil. An error is an *Error. When ctx ends Call returns, and an answer that
// comes later is dropped; the service may still do what was asked. The same is
// true of ErrLost, which is never followed by a second attempt: but for a call that
// a gate which ends has not taken, which goes to the next one where there will be
// one, as a call does that is made while there is no connection.
//
// Hot path: BenchmarkCall.
func (c *Client) Call(ctx context.Context, route string, in, out proto.Message) error {
	call := c.newCall()
	defer c.free(call)
	name := nameOf(in)
	m := codec.Message{Type: codec.Request, Data: codec.Protobuf, Name: name}
	if err := c.do(ctx, call, route, &m, in); err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	return read(call.data, call.name, call.body, out)
}

// CallRaw sends a Request whose body is what the caller says it is, of a name
// that may be empty.
func (c *Client) CallRaw(ctx context.Context, route string, data codec.DataType, name string, body []byte) (Reply, error) {
	call := c.newCall()
	defer c.free(call)
	m := codec.Message{Type: codec.Request, Data: data, Name: []byte(name), Body: body}
	if err := c.do(ctx, call, route, &m, nil); err != nil {
		return Reply{}, err
	}
	return Reply{Data: call.data, Name: string(call.name), Body: append([]byte(nil), call.body...)}, nil
}

// Notify sends a Notify in protobuf, which nobody answers. That it returns nil
// says only that the message is queued to be written.
func (c *Client) Notify(ctx context.Context, route string, in proto.Message) error {
	m := codec.Message{Type: codec.Notify, Data: codec.Protobuf, Name: nameOf(in)}
	_, err := c.send(ctx, nil, route, &m, in)
	return err
}

// NotifyAck sends a Notify in protobuf and waits until the gate says that the
// broker has it.
func (c *Client) NotifyAck(ctx context.Context, route string, in proto.Message) error {
	call := c.newCall()
	defer c.free(call)
	call.ack = true
	m := codec.Message{Type: codec.Notify, Data: codec.Protobuf, Name: nameOf(in)}
	return c.do(ctx, call, route, &m, in)
}

// call is what waits for one answer. The reader fills it, while it is in
// Client.calls or just taken from there, and then finishes it.
type call struct {
	ack      bool // an Ack is the answer
	token    tokenUse
	finished chan error

	data codec.DataType
	name []byte
	body []byte
}

func (c *Client) newCall() *call {
	if call, ok := c.idle.Get().(*call); ok {
		return call
	}
	return &call{finished: make(chan error, 1)}
}

// free gives a call back that is in nobody's hands any more.
func (c *Client) free(call *call) {
	if cap(call.body) > keepReplyBuffer {
		call.body = nil
	}
	call.ack, call.token, call.data, call.name, call.body = false, 0, 0, call.name[:0], call.body[:0]
	c.idle.Put(call)
}

func (c *call) finish(err error) { c.finished <- err }

// do sends m and waits for its answer.
func (c *Client) do(ctx context.Context, call *call, route string, m *codec.Message, in proto.Message) error {
	if c.opts.Reconnect != nil {
		call.token = tokenUseOf(route)
	}
	for {
		n, err := c.send(ctx, call, route, m, in)
		if err != nil {
			return err
		}
		select {
		case err := <-call.finished:
			if c.opts.Reconnect != nil && untaken(err) {
				continue // with the next gate
			}
			return err
		case <-ctx.Done():
		}
		n.mu.Lock()
		_, waiting := n.calls[m.ID]
		delete(n.calls, m.ID)
		n.mu.Unlock()
		if !waiting { // the reader has taken it and is about to finish it
			return <-call.finished
		}
		return ended(ctx, route)
	}
}

// untaken reports whether a call was lost that its gate had not taken: one that ends
// answers all that it took before it says so.
func untaken(err error) bool {
	var kick *KickError
	return errors.Is(err, ErrLost) && errors.As(err, &kick) && kick.Code == "draining"
}

// send sends m over the newest connection, or over the next one where that has
// ended.
func (c *Client) send(ctx context.Context, call *call, route string, m *codec.Message, in proto.Message) (*conn, error) {
	for {
		n := c.current.Load()
		err := n.send(ctx, call, route, m, in)
		if err != errNotSent {
			return n, err
		}
		if err := c.next(ctx, n, route); err != nil {
			return nil, err
		}
	}
}

// answer finishes the call that m answers; without one m is late, and dropped.
func (n *conn) answer(m *codec.Message) {
	n.mu.Lock()
	call := n.calls[m.ID]
	if call == nil || m.Type == codec.Ack && !call.ack {
		n.mu.Unlock()
		return
	}
	delete(n.calls, m.ID)
	n.mu.Unlock()

	if string(m.Name) == failure.Name && m.Type == codec.Response {
		call.finish(readError(m.Data, m.Body))
		return
	}
	if call.token != tokenUnused {
		n.client.useToken(call.token, m) // before the connection can be seen to end
	}
	call.data = m.Data
	call.name = append(call.name, m.Name...)
	call.body = append(call.body, m.Body...)
	call.finish(nil)
}

// read reads what an answer or a push holds, protobuf or JSON.
func read(data codec.DataType, name, body []byte, out proto.Message) error {
	want := proto.MessageName(out)
	if len(name) > 0 && string(name) != string(want) {
		return &Error{code: codes.Internal, Message: fmt.Sprintf("%s came where %s was expected", name, want)}
	}
	var err error
	switch data {
	case codec.Protobuf:
		err = proto.Unmarshal(body, out)
	case codec.JSON:
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(body, out)
	default:
		err = errors.New("it is text")
	}
	if err != nil {
		return &Error{code: codes.Internal, Message: "what came can not be read as " + string(want), cause: err}
	}
	return nil
}

func nameOf(in proto.Message) []byte {
	if in == nil {
		return nil
	}
	return []byte(proto.MessageName(in))
}

// ended is what a call returns whose context has ended.
func ended(ctx context.Context, route string) *Error {
	e := &Error{code: codes.Canceled, Message: route + " was given up", cause: context.Cause(ctx)}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		e.code, e.Message = codes.DeadlineExceeded, route+" was not answered in time"
	}
	return e
}

// failure is what a call returns that comes after the end of the client.
func (c *Client) failure() *Error {
	err := c.Err()
	return &Error{code: codes.Unavailable, Message: "the connection has ended: " + err.Error(), cause: err}
}

// lost is what a call returns that was on its way when its connection ended.
func lost(err error) *Error {
	return &Error{
		code: codes.Unavailable, Message: "the connection has ended before the answer came: " + err.Error(),
		cause: errors.Join(ErrLost, err),
	}
}
