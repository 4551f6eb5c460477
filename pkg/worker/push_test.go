package worker

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pkg/errors"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/presence"
	"github.com/motto123/minigate/pkg/stack"
	"github.com/motto123/minigate/proto/chatpb"
)

func TestPushReachesItsTarget(t *testing.T) {
	b := newMem(t)
	store := newPresence(t)
	w := New("chat", Config{Bus: b, Log: quiet(), Presence: store})
	message := &chatpb.Message{Conversation: 1 << 60, Number: 2, Text: "hello 🌍"}
	if err := w.Push(t.Context(), ToEveryone(), "chat.message", message); !errors.Is(err, ErrNotRunning) {
		t.Errorf("before Run: got %v", err)
	}
	stop := run(t, w)
	topology := bus.NewTopology("")
	g1, g2 := newGate(t, b, topology, "g1"), newGate(t, b, topology, "g2")
	for _, id := range []string{"g1", "g2", "gone"} {
		if err := store.Add(t.Context(), 7, presence.Gate{ID: id, Address: "a:1"}); err != nil {
			t.Fatal(err)
		}
	}

	for _, c := range []struct {
		name  string
		to    Target
		gates []*gate
		want  bus.Reply
	}{
		{"session", ToSession(Session{Gate: "g2", ID: 5}), []*gate{g2}, bus.Reply{Session: 5}},
		{"user", ToUser(7), []*gate{g1, g2}, bus.Reply{User: 7}},
		{"group", ToGroup("room"), []*gate{g1, g2}, bus.Reply{Group: "room"}},
		{"everyone", ToEveryone(), []*gate{g1, g2}, bus.Reply{Everyone: true}},
	} {
		if err := w.Push(t.Context(), c.to, "chat.message", message, PushID(99)); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, g := range c.gates {
			r := g.reply()
			if r.Session != c.want.Session || r.User != c.want.User || r.Group != c.want.Group || r.Everyone != c.want.Everyone {
				t.Errorf("%s: got target %+v", c.name, r)
			}
			if r.Sequence != 0 || r.Route != "chat.message" || r.ID != 99 || DataType(r.DataType) != Protobuf || string(r.Name) != "chat.Message" {
				t.Errorf("%s: got %+v", c.name, r)
			}
			var fromProto, fromJSON chatpb.Message
			if err := proto.Unmarshal(r.Data, &fromProto); err != nil || !proto.Equal(&fromProto, message) {
				t.Errorf("%s: data is %v, %v", c.name, &fromProto, err)
			}
			if err := protojson.Unmarshal(r.JSON, &fromJSON); err != nil || !proto.Equal(&fromJSON, message) {
				t.Errorf("%s: JSON is %s, %v", c.name, r.JSON, err)
			}
		}
		if len(g1.replies)+len(g2.replies) != 0 {
			t.Errorf("%s: pushed more than once", c.name)
		}
	}

	// The gate that the broker does not know was taken off the user.
	gates, err := store.Gates(t.Context(), 7)
	if err != nil || len(gates) != 2 || gates[0].ID != "g1" || gates[1].ID != "g2" {
		t.Errorf("the user is on %v, %v, want g1 and g2", gates, err)
	}
	if s := w.Stats(); s.GoneGates != 1 || s.Pushes != 5 {
		t.Errorf("counted %d gone gates and %d pushes, want 1 and 5", s.GoneGates, s.Pushes)
	}
	for name, to := range map[string]Target{"session": ToSession(Session{Gate: "gone"}), "user": ToUser(8)} {
		if err := w.Push(t.Context(), to, "chat.message", message); !errors.Is(err, ErrNobody) {
			t.Errorf("%s of nobody: got %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"no target": w.Push(t.Context(), Target{}, "chat.message", message),
		"no route":  w.Push(t.Context(), ToEveryone(), "chat", message),
		"too large": w.Push(t.Context(), ToEveryone(), "chat.message", &chatpb.Message{Text: strings.Repeat("x", 9<<20)}),
	} {
		if err == nil || errors.Is(err, ErrNobody) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.Push(t.Context(), ToEveryone(), "chat.message", message); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after Run: got %v", err)
	}
}

// What a replayed request has pushed to a user who is nowhere goes to the replay: its
// answer is not that of a user who is away, as nobody is there on a desk.
func TestPushOfAReplayToAUserWhoIsAway(t *testing.T) {
	b := newMem(t)
	w := New("chat", Config{Bus: b, Log: quiet(), Presence: newPresence(t)})
	run(t, w)
	from := func(gate string) context.Context {
		return context.WithValue(t.Context(), callKey{}, &call{caller: Caller{Session: Session{Gate: gate, ID: 5}}})
	}
	replay := newGate(t, b, bus.NewTopology(""), bus.ReplayGate+"1")
	newGate(t, b, bus.NewTopology(""), "g1")
	if err := w.Push(from(bus.ReplayGate+"1"), ToUser(7), "chat.message", &chatpb.Message{}); err != nil {
		t.Error(err)
	}
	if r := replay.reply(); r.User != 7 || r.Session != 0 {
		t.Errorf("the replay got %+v", r)
	}
	err := w.Push(from("g1"), ToUser(7), "chat.message", &chatpb.Message{})
	if !errors.Is(err, ErrNobody) || !strings.Contains(stack.Of(err), "TestPushOfAReplay") {
		t.Errorf("of a client's request: got %v from\n%s", err, stack.Of(err))
	}
}

func TestPushEndsWithItsContextAndWithTheBroker(t *testing.T) {
	b := &faultyBus{Bus: newMem(t)}
	w := New("chat", Config{Bus: b, Log: quiet()})
	run(t, w)
	b.fail(bus.ErrUnavailable)
	if err := w.Push(t.Context(), ToEveryone(), "chat.message", &chatpb.Message{}); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("without a broker: got %v", err)
	}
	release := b.hold()
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := w.Push(ctx, ToEveryone(), "chat.message", &chatpb.Message{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a broker that does not confirm: got %v", err)
	}
}
