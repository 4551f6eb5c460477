package gate

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/proto/gatepb"
)

// TestHurriedEndOfCalls: a gate that hurries cuts off a call of a worker that waits
// for a Redis which does not answer, and says so; and does not wait for whoever has
// connected to its port and says nothing.
func TestHurriedEndOfCalls(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	client := redis.NewClient(&redis.Options{Addr: silent.Addr().String(), MaxRetries: -1})
	defer client.Close()
	ending, stuck := parts.NewEnding(), storeOn(t, client)
	r := start(t, func(c *Config) { c.Ending, c.Presence = ending, stuck })
	stranger, err := net.Dial("tcp", r.gate.GRPCAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	calls := r.calls()
	called := make(chan error, 1)
	go func() {
		_, err := calls.Bind(t.Context(), &gatepb.BindRequest{Session: 1, User: 1})
		called <- err
	}()
	eventually(t, "the call is there", func() bool { return r.gate.users.count() == 1 })
	begun := time.Now()
	ending.Hurry()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if cut := ending.Cut(); !slices.Contains(cut, "gate gRPC: 1 calls") {
		t.Errorf("cut off: %q", cut)
	}
	// The presence of that user is taken out of Redis, for which there are some seconds.
	if took, most := time.Since(begun), stopTime+presenceTimeout; took > most {
		t.Errorf("the end took %v, want less than %v", took, most)
	}
	if err := <-called; err == nil {
		t.Error("the call was answered")
	}
}

// TestASilentConnectionDoesNotKeepTheGate: nor where there is no hurry.
func TestASilentConnectionDoesNotKeepTheGate(t *testing.T) {
	r := start(t)
	stranger, err := net.Dial("tcp", r.gate.GRPCAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	_, _ = r.calls().Sessions(t.Context(), &gatepb.SessionsRequest{User: 1}) // so the stranger was accepted
	begun := time.Now()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > stopTime {
		t.Errorf("the end took %v", took)
	}
}

// away is a broker of events that is not there any more: it refuses, or says nothing.
type away struct {
	silent bool
	asked  chan struct{}
}

func (a away) Publish(ctx context.Context, name string, _ proto.Message) error {
	if name == "session.bound" {
		return nil
	}
	a.asked <- struct{}{}
	if a.silent {
		<-ctx.Done()
		return ctx.Err()
	}
	return errors.New("away")
}

// TestEventsThatAreLostAtTheEnd: a gate says how many events of sessions it did not
// get rid of, and does not wait for each of them in turn.
func TestEventsThatAreLostAtTheEnd(t *testing.T) {
	for _, c := range []struct {
		name          string
		silent, hurry bool
		most          time.Duration
	}{
		{"refused", false, false, time.Second},
		{"silent", true, false, eventTimeout + time.Second},
		{"silent in a hurry", true, true, hurriedEvents + time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ending, broker := parts.NewEnding(), away{c.silent, make(chan struct{}, 10)}
			r := start(t, withUsers(t), func(cfg *Config) { cfg.Ending, cfg.Events = ending, broker })
			clients := []*wire{r.login(t, overTCP, "user 5"), r.login(t, overTCP, "user 6"), r.login(t, overTCP, "user 7")}
			if c.hurry {
				ending.Hurry()
			}
			begun := time.Now()
			ended := make(chan error, 1)
			go func() { ended <- r.stop() }()
			for _, c := range clients {
				c.ends()
				c.close()
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took > c.most {
				t.Errorf("the end took %v, want less than %v", took, c.most)
			}
			if cut := ending.Cut(); !slices.Equal(cut, []string{"gate: 3 events of sessions"}) {
				t.Errorf("cut off: %q", cut)
			}
			if n := r.gate.stats.EventsDropped.Load(); n != 3 {
				t.Errorf("%d events are counted, want 3", n)
			}
		})
	}
}
