package events

import (
	"context"
	"errors"
	"strconv"
	"testing"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

func TestRequests(t *testing.T) {
	url, topology := rabbitURL(t), config(t, rabbitURL(t)).Topology
	c := RequestConfig(url, topology, "audit")
	t.Cleanup(func() { remove(t, topology, c.Queue.GenerateName("chat.#")) })
	logger, _ := newLog(t)
	subscriber, err := wamqp.NewSubscriber(c, NewLogger(logger))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = subscriber.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	messages, err := subscriber.Subscribe(ctx, "chat.#")
	if err != nil {
		t.Fatal(err)
	}

	envelope := bus.AppendHeader(nil, bus.Header{Gate: "g1", GateAddress: "127.0.0.1:7101", Route: "chat.send"})
	for i := range 3 {
		envelope = bus.AppendRequest(envelope, &bus.Request{Session: uint64(i + 1), Data: []byte("早上好 😀 " + strconv.Itoa(i))})
	}
	withChannel(t, func(channel *amqp.Channel) {
		for _, body := range [][]byte{envelope, envelope[:len(envelope)-1]} {
			p := amqp.Publishing{Body: body, Headers: amqp.Table{"partition": int32(3)}}
			if err := channel.PublishWithContext(ctx, topology.RequestExchange(), "chat.send", true, false, p); err != nil {
				t.Fatal(err)
			}
		}
	})

	m := receive(t, messages)
	if h := RequestHeader(m); h.Route != "chat.send" || h.Gate != "g1" || h.GateAddress != "127.0.0.1:7101" {
		t.Errorf("header %+v", h)
	}
	n := 0
	for r, err := range Requests(m) {
		if err != nil {
			t.Fatal(err)
		}
		if want := "早上好 😀 " + strconv.Itoa(n); string(r.Data) != want || r.Session != uint64(n+1) {
			t.Errorf("request %d is %d %q", n, r.Session, r.Data)
		}
		n++
	}
	if n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
	for range Requests(m) {
		break // must not be called again, or the loop panics
	}
	m.Ack()

	m = receive(t, messages)
	n, err = 0, nil
	for _, e := range Requests(m) {
		if e != nil {
			err = e
			break
		}
		n++
	}
	if n != 2 || !errors.Is(err, bus.ErrEnvelope) || !IsPermanent(err) {
		t.Errorf("of a cut envelope: %d requests and %v", n, err)
	}
	m.Ack()
	if _, err := (RequestMarshaler{}).Marshal(message.NewMessage("1", nil)); err == nil {
		t.Error("it published a request")
	}
}

func TestMarshalerTakesNothingForAMessage(t *testing.T) {
	// This is what a consumer gets from amqp091 when its channel closes.
	if m, err := (Marshaler{}).Unmarshal(amqp.Delivery{}); err == nil {
		t.Errorf("the zero delivery became %v", m)
	}
	if m, err := (RequestMarshaler{}).Unmarshal(amqp.Delivery{}); err == nil {
		t.Errorf("the zero delivery became %v", m)
	}
}
