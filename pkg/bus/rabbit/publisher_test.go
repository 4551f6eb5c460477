package rabbit

import (
	"testing"

	"github.com/motto123/minigate/pkg/bus"
)

// A publisher whose first channel comes late, on a connection that has been followed by
// another one, keeps the channel that it got on that.
func TestALateChannelIsNotTaken(t *testing.T) {
	url, topology := broker(t), own()
	sweep(t, url, topology)
	b := openBus(t, url, topology)
	watch(t, b)(bus.Up)
	made, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	p, ok := made.(*publisher)
	if !ok {
		t.Fatalf("the publisher is a %T", made)
	}
	before, err := b.publishing.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer before.cut()
	if err := p.open(before, true); err != nil {
		t.Fatal(err)
	}
	before.cut()
	if err := publish(t, p, topology, "nobody"); err != bus.ErrNoRoute {
		t.Errorf("publishing on the connection that is there: %v, want %v", err, bus.ErrNoRoute)
	}
}
