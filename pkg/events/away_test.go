package events

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/proto/emailpb"
)

// A broker that is away for long is told of in one line, and not each time that it is
// looked for.
func TestAnOutageIsOneWarning(t *testing.T) {
	c := config(t, rabbitURL(t))
	c.URL = "amqp://guest:guest@127.0.0.1:1/"
	logger, log := newLog(t)
	logger.SetLevel(logrus.DebugLevel)
	e, err := New(c, logger)
	if err != nil {
		t.Fatal(err)
	}
	run(t, e)
	said := ""
	for range 4 {
		said += log.Await(t, "no connection to the broker")
	}
	if n := strings.Count(said, "level=warning"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, said)
	}
}

func TestPublishWithoutBroker(t *testing.T) {
	wire, throughWire := newCable(t)
	c := config(t, throughWire)
	e, _ := newEvents(t, c)
	e.Reserve("one", "email.verification")
	run(t, e)
	publish(t, e, mail("1"))
	wire.cut()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	err := e.Publish(ctx, "email.verification", mail("2"))
	if !errors.Is(err, bus.ErrUnavailable) && !errors.Is(err, bus.ErrUnconfirmed) {
		t.Errorf("got %v, want that the broker is not available", err)
	}
	if d := time.Since(begun); d > 2*time.Second {
		t.Errorf("it took %v", d)
	}
	wire.mend()
	publish(t, e, mail("3")) // comes back by itself
}

// The broker is not there yet when the process starts.
func TestStartBeforeTheBroker(t *testing.T) {
	wire, throughWire := newCable(t)
	wire.cut()
	e, log := newEvents(t, config(t, throughWire))
	got := make(chan string, 1)
	Subscribe(e, "one", "email.verification", func(_ context.Context, in *emailpb.Verification) error { got <- in.Code; return nil })
	run(t, e)
	eventually(t, "a warning", func() bool { return strings.Contains(log.String(), "no connection") })
	wire.mend()
	publish(t, e, mail("1"))
	if code := receive(t, got); code != "1" {
		t.Error(code)
	}
}

// And it is gone when the process ends: nothing may be left behind, which
// goleak holds.
func TestStopWithoutBroker(t *testing.T) {
	wire, throughWire := newCable(t)
	e, _ := newEvents(t, config(t, throughWire))
	got := make(chan string, 1)
	Subscribe(e, "one", "email.verification", func(_ context.Context, in *emailpb.Verification) error { got <- in.Code; return nil })
	stop := run(t, e)
	publish(t, e, mail("1"))
	receive(t, got)
	wire.cut()
	if err := stop(); err != nil {
		t.Error(err)
	}
}
