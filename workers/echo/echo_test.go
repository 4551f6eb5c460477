package echo

import (
	"bytes"
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEchoAnswersWithWhatItWasGiven(t *testing.T) {
	b := mem.New(mem.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	replies, ready := make(chan bus.Reply, 3), make(chan struct{}, 1)
	topology := bus.NewTopology("")
	go func() { ended <- New(worker.Config{Bus: b}).Run(ctx) }()
	go func() {
		ended <- b.Consume(ctx, bus.Consumer{
			Queue: bus.Queue{Name: topology.GateQueue("g"), Bindings: []bus.Binding{
				{Exchange: topology.ReplyExchange(), Key: topology.GateKey("g")},
				{Exchange: topology.ReplyExchange(), Key: topology.AllGates()},
			}},
			Handle: func(d bus.Delivery) {
				err := bus.ReadReplies(d.Body, func(r *bus.Reply) error {
					replies <- *r
					return nil
				}, func(*bus.Announcement) error {
					select {
					case ready <- struct{}{}:
					default:
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if err := d.Ack(); err != nil {
					t.Error(err)
				}
			},
		})
	}()
	publisher, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})

	// Whichever of the two came up first: asking makes the worker announce itself.
	publish := func(key string, body []byte) error {
		done := make(chan error, 1)
		publisher.Publish(bus.Message{Exchange: topology.RequestExchange(), Key: key, Body: body}, func(err error) { done <- err })
		return <-done
	}
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for announced := false; !announced; {
		_ = publish(topology.AnnounceKey(), bus.AppendHeader(nil, bus.Header{Gate: "g"})) // no route until it is up
		select {
		case <-ready:
			announced = true
		case <-tick.C:
		case <-deadline:
			t.Fatal("the worker does not come up")
		}
	}

	data := []byte("\x00\xff{\"not\": json 🌍")
	for dataType := range uint8(3) {
		body := bus.AppendHeader(nil, bus.Header{Gate: "g", Route: Route})
		body = bus.AppendRequest(body, &bus.Request{
			Session: 1, Sequence: 5, DataType: dataType, Name: []byte("any.Name"), Data: data,
			Deadline: time.Now().Add(time.Minute).UnixMilli(),
		})
		if err := publish(Route, body); err != nil {
			t.Fatal(err)
		}
		select {
		case r := <-replies:
			if r.Sequence != 5 || r.Code != 0 || r.DataType != dataType || string(r.Name) != "any.Name" || !bytes.Equal(r.Data, data) {
				t.Errorf("got %+v", r)
			}
		case <-deadline:
			t.Fatal("no answer")
		}
	}
}
