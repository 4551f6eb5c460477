package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/pkg/tape/stream"
)

// watcher is a client of production that keeps all that it is sent, answers that it does
// not wait for included.
type watcher struct {
	t *testing.T
	c *rawClient

	mu  sync.Mutex
	got []string
}

func (d *desk) watch() *watcher {
	d.t.Helper()
	c, err := dialRaw(d.gate.tcp)
	if err != nil {
		d.t.Fatal(err)
	}
	w := &watcher{t: d.t, c: c}
	over := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		_ = c.packets(0, w.take) // until it is closed
	})
	all.Go(func() {
		alive := time.NewTicker(2 * time.Second)
		defer alive.Stop()
		for {
			select {
			case <-alive.C:
			case <-over:
				return
			}
			b, err := codec.AppendPacket(nil, codec.Heartbeat, 0, nil)
			if err = errors.Join(err, c.write(b)); err != nil {
				return
			}
		}
	})
	d.t.Cleanup(func() {
		close(over)
		_ = c.conn.Close()
		all.Wait()
	})
	return w
}

func (w *watcher) take(p codec.Packet) error {
	if p.Type != codec.Data {
		return nil
	}
	var m codec.Message
	err := codec.DecodeMessage(p.Body, &m)
	what := string(m.Route)
	if m.Type == codec.Response {
		what = "answer"
	}
	var n wrapperspb.Int64Value
	if err = errors.Join(err, proto.Unmarshal(m.Body, &n)); err != nil {
		what = err.Error()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = append(w.got, fmt.Sprint(what, " ", n.GetValue()))
	return nil
}

// ask asks for the double of a number.
func (w *watcher) ask(n int64) {
	w.t.Helper()
	body, err := proto.Marshal(wrapperspb.Int64(n))
	m := codec.Message{Type: codec.Request, Data: codec.Protobuf, ID: uint64(n), Route: []byte("sum.double"), Name: []byte("google.protobuf.Int64Value"), Body: body}
	b, failed := codec.AppendMessage(nil, &m)
	if err = errors.Join(err, failed); err == nil {
		b, err = codec.AppendPacket(nil, codec.Data, 0, b)
	}
	if err = errors.Join(err, w.c.write(b)); err != nil {
		w.t.Fatal(err)
	}
}

// want waits until it was sent as much, which has to be this, in any order.
func (w *watcher) want(want ...string) {
	w.t.Helper()
	all := func() []string {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Sorted(slices.Values(w.got))
	}
	eventually(w.t, "the client is sent "+strings.Join(want, ", "), func() bool { return len(all()) >= len(want) })
	if got := all(); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		w.t.Errorf("a client of production is sent %d messages, want %q: %.300q", len(got), want, got)
	}
}

// placeOf is where each number stands on the tape.
func (d *desk) placeOf() map[int64]tape.Place {
	d.t.Helper()
	all := make(map[int64]tape.Place)
	for line := range strings.Lines(d.run(0, "tail", "--no-follow", "--json", "--full")) {
		var one struct {
			Position string
			Request  struct{ Data string }
		}
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			d.t.Fatalf("%s: %v", line, err)
		}
		place, err := tape.ParsePlace(one.Position)
		if err != nil {
			d.t.Fatal(err)
		}
		all[number(d.t, one.Request.Data)] = place
	}
	return all
}

// recordedFor is the time from the first to the last request on the tape.
func (d *desk) recordedFor() time.Duration {
	d.t.Helper()
	source, err := stream.Open(d.rabbitmq, d.topology)
	if err != nil {
		d.t.Fatal(err)
	}
	var first, last time.Time
	err = source.Read(d.t.Context(), tape.Start{}, false, func(e *tape.Entry) error {
		if last = e.Time; first.IsZero() {
			first = e.Time
		}
		return nil
	})
	if err = errors.Join(err, source.Close()); err != nil {
		d.t.Fatal(err)
	}
	return last.Sub(first)
}
