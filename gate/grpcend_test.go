package gate

import (
	"net"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

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
