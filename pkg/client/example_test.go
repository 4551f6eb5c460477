package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/chatpb"
)

// A client dials a gate, takes pushes, calls a route, and notifies another one.
func Example() {
	gate := exampleGate() // yours is ws://127.0.0.1:7080/ws, say
	defer gate.close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	pushed := make(chan string, 1)
	c, err := client.Dial(ctx, gate.address(), client.Options{
		Token: "what auth.login answered",
		// A push is acknowledged when OnPush returns nil.
		OnPush: func(p client.Push) error {
			var m chatpb.Message
			if err := p.Unmarshal(&m); err != nil {
				return err
			}
			pushed <- p.Route + ": " + m.GetText()
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println("user", c.UserID())

	// A Request has one answer, or an error with a gRPC code.
	var sent chatpb.SendResponse
	err = c.Call(ctx, "chat.send", &chatpb.SendRequest{To: 7, ClientId: "1", Text: "hello"}, &sent)
	fmt.Println("sent as number", sent.GetNumber(), err)
	err = c.Call(ctx, "chat.history", &chatpb.HistoryRequest{To: 7}, new(chatpb.HistoryResponse))
	fmt.Println(status.Code(err) == codes.NotFound, err)
	fmt.Println(<-pushed)

	// A Notify has no answer; NotifyAck returns when the broker has it.
	err = c.NotifyAck(ctx, "chat.send", &chatpb.SendRequest{To: 7, ClientId: "2", Text: "bye"})
	fmt.Println("notified", err)

	// Output:
	// user 42
	// sent as number 1 <nil>
	// true NOT_FOUND: there is no conversation
	// chat.message: hello to you
	// notified <nil>
}

// A client that reconnects tells how it is. What was on its way when a connection
// was lost fails with ErrLost, and its caller decides whether it can be repeated.
func ExampleReconnect() {
	gate := exampleGate()
	defer gate.close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	told := make(chan client.State, 16)
	c, err := client.Dial(ctx, gate.address(), client.Options{
		Token: "what auth.login answered",
		Reconnect: &client.Reconnect{
			Addresses: []string{"tcp://127.0.0.1:7001"}, // of further gates, if any
			OnState:   func(_ *client.Client, s client.State) { told <- s },
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println((<-told).Phase)

	// Sent twice it is stored once: its ClientId is the same.
	message := &chatpb.SendRequest{To: 7, ClientId: "1", Text: "hello"}
	var sent chatpb.SendResponse
	for {
		err = c.Call(ctx, "chat.send", message, &sent)
		if !errors.Is(err, client.ErrLost) {
			break
		}
	}
	fmt.Println("sent as number", sent.GetNumber(), err)

	fmt.Println(c.Close())
	end := <-told
	fmt.Println(end.Phase, errors.Is(end.Err, client.ErrClosed))

	// Output:
	// connected
	// sent as number 1 <nil>
	// <nil>
	// ended true
}

// exampleGate answers as the chat service would.
func exampleGate() *gate {
	return listen(false, func(c *conn, m *codec.Message) {
		switch {
		case m.Type == codec.Notify:
			ack := *m
			ack.Type, ack.Name, ack.Body = codec.Ack, nil, nil
			c.message(&ack)
		case m.Type == codec.Request && string(m.Route) == "chat.send":
			c.reply(m, "chat.SendResponse", codec.JSON, []byte(`{"number":"1"}`))
		case m.Type == codec.Request:
			c.reply(m, "common.Error", codec.JSON, []byte(`{"code":5,"message":"there is no conversation"}`))
			c.message(&codec.Message{
				Type: codec.Push, Route: []byte("chat.message"), ID: 1,
				Data: codec.JSON, Name: []byte("chat.Message"), Body: []byte(`{"text":"hello to you"}`),
			})
		}
	})
}
