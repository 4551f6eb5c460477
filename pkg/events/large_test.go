package events

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/motto123/minigate/pkg/bus"
)

// publishing are events that run, and of which one was published.
func publishing(t *testing.T) (*Events, Config) {
	t.Helper()
	c := config(t, rabbitURL(t))
	e, _ := newEvents(t, c)
	e.Reserve("one", "email.verification")
	run(t, e)
	publish(t, e, mail("first"))
	return e, c
}

// An event that is larger than the broker takes is refused, and nothing else ends
// with it.
func TestAnEventThatIsTooLarge(t *testing.T) {
	e, _ := publishing(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := e.Publish(ctx, "email.verification", mail(strings.Repeat("x", 16<<20)))
	if !errors.Is(err, bus.ErrRefused) {
		t.Errorf("got %v, want that it is refused", err)
	}
	publish(t, e, mail("second"))
}

// What the broker refuses on the channel of publishing is one message's fault: it is
// opened again, and Run goes on.
func TestARefusalOnTheChannelOfPublishing(t *testing.T) {
	e, c := publishing(t)
	r, ok := e.broker.(*rabbit)
	if !ok {
		t.Fatalf("the broker is a %T", e.broker)
	}
	channel, err := r.publisher.usable(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// PRECONDITION_FAILED, as for a message that is larger than the broker takes.
	if _, err := channel.QueueDeclare(c.Topology.EventQueue("one", "email.verification"), false, false, false, false, nil); err == nil {
		t.Fatal("the broker takes it")
	}
	publish(t, e, mail("second"))
}
