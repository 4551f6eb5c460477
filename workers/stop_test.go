package workers

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/redisdb"
	"github.com/motto123/minigate/pkg/snowflakes"
	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/workers/auth"
)

// TestRegistrationsAreFinishedAtTheEnd: a registration publishes a mail before it
// answers, so events must not end before the worker that has taken it.
func TestRegistrationsAreFinishedAtTheEnd(t *testing.T) {
	const n = 20
	p, _ := newProcess(t)
	p.Mails = io.Discard
	b := mem.New(mem.Config{})
	p.Parts.Closing("the bus", b)
	p.Worker.Bus, p.Worker.Log, p.Worker.DrainTimeout = b, p.Log, time.Minute
	e, err := redisdb.OpenEmbedded("")
	if err != nil {
		t.Fatal(err)
	}
	p.Redis = e
	p.Parts.Start("redis", e.Run)
	p.DB = sqldbtest.SQLite(t)
	if p.IDs, err = snowflakes.New(snowflakes.Config{Redis: e, Log: p.Log}); err != nil {
		t.Fatal(err)
	}
	p.Parts.Start("ids", p.IDs.Run)
	codesOf := make(chan uint32, n)
	topology := bus.NewTopology("")
	p.Parts.Start("gate", func(ctx context.Context) error {
		return b.Consume(ctx, bus.Consumer{
			Queue: bus.Queue{
				Name:     topology.GateQueue("g"),
				Bindings: []bus.Binding{{Exchange: topology.ReplyExchange(), Key: topology.GateKey("g")}},
			},
			Handle: func(d bus.Delivery) {
				each := func(r *bus.Reply) error { codesOf <- r.Code; return nil }
				if err := bus.ReadReplies(d.Body, each, func(*bus.Announcement) error { return nil }); err != nil {
					t.Error(err)
				}
				if err := d.Ack(); err != nil {
					t.Error(err)
				}
			},
		})
	})
	p.AuthGRPC, p.Email.From = "127.0.0.1:0", "no-reply@example.org"
	p.Auth.Passwords = auth.PasswordConfig{MemoryKiB: 64, Iterations: 1}
	p.Auth.Limits.RegisterAddress.Burst = -1
	if err := p.Start("auth", "email"); err != nil {
		t.Fatal(err)
	}

	publisher, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	envelope := bus.AppendHeader(nil, bus.Header{Gate: "g", Route: "auth.register"})
	for i := range n {
		name := fmt.Sprintf("user%d", i)
		data, err := proto.Marshal(&authpb.RegisterRequest{Account: name, Password: "a password", Email: name + "@example.org"})
		if err != nil {
			t.Fatal(err)
		}
		envelope = bus.AppendRequest(envelope, &bus.Request{
			Session: uint64(i + 1), Sequence: 1, DataType: 2, Data: data, Address: []byte{127, 0, 0, 1},
			Deadline: time.Now().Add(time.Minute).UnixMilli(),
		})
	}
	for taken := false; !taken; { // the queue is there when the worker consumes
		done := make(chan error, 1)
		publisher.Publish(bus.Message{Exchange: topology.RequestExchange(), Key: "auth.register", Body: envelope}, func(err error) { done <- err })
		taken = <-done == nil
	}
	wait := time.After(30 * time.Second)
	for i := range n {
		select {
		case code := <-codesOf:
			if code != uint32(codes.OK) {
				t.Errorf("a registration that was taken ends with %v", codes.Code(code))
			}
		case <-wait:
			t.Fatalf("%d of %d are answered", i, n)
		}
		if i == 0 {
			stopped := make(chan struct{})
			go func() { p.Parts.Stop(); close(stopped) }()
			defer func() { <-stopped }()
		}
	}
}
