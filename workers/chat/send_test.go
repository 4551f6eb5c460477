package chat_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/chatpb"
	"github.com/motto123/minigate/workers/chat"
)

func TestSend(t *testing.T) {
	everywhere(t, func(t *testing.T, open func() *sqldb.DB) {
		w := &world{}
		s := w.replica(t, open())
		first := send(t, s, alice, bob, "a", "Hello")
		second := send(t, s, bob, alice, "a", "Hello yourself") // another sender's client_id
		other := send(t, s, alice, carol, "b", "Hello")
		if first.GetNumber() != 1 || second.GetNumber() != 2 || second.GetConversation() != first.GetConversation() {
			t.Errorf("first %v, second %v", first, second)
		}
		if other.GetNumber() != 1 || other.GetConversation() == first.GetConversation() {
			t.Errorf("with another user: %v", other)
		}
		if first.GetSentAt() < 1e12 || second.GetSentAt() < first.GetSentAt() {
			t.Errorf("sent at %d, then at %d", first.GetSentAt(), second.GetSentAt())
		}
		pushes := w.pushed()
		if len(pushes) != 3 || pushes[0].user != bob || pushes[1].user != alice || pushes[2].user != carol {
			t.Fatalf("pushed %v", pushes)
		}
		if pushes[0].id == 0 || pushes[0].id == pushes[1].id {
			t.Errorf("ids of pushes %d and %d", pushes[0].id, pushes[1].id)
		}
		want := &chatpb.Message{Conversation: first.GetConversation(), Number: 1, Sender: alice,
			Text: "Hello", SentAt: first.GetSentAt(), ClientId: "a"}
		if !proto.Equal(pushes[0].message, want) {
			t.Errorf("pushed %v, want %v", pushes[0].message, want)
		}
		self := send(t, s, alice, alice, "note", "buy milk")
		if self.GetNumber() != 1 || w.pushed()[3].user != alice {
			t.Errorf("to oneself: %v, %v", self, w.pushed()[3])
		}
	})
}

func TestSendRefused(t *testing.T) {
	everywhere(t, func(t *testing.T, open func() *sqldb.DB) {
		w := &world{}
		s := w.replica(t, open())
		send(t, s, alice, bob, "used", "Hello")
		for name, test := range map[string]struct {
			in   *chatpb.SendRequest
			want codes.Code
		}{
			"room":                       {&chatpb.SendRequest{Room: "r", ClientId: "x", Text: "t"}, codes.Unimplemented},
			"no such user":               {&chatpb.SendRequest{To: 99, ClientId: "x", Text: "t"}, codes.NotFound},
			"not UTF-8":                  {&chatpb.SendRequest{To: bob, ClientId: "x", Text: "\xff"}, codes.InvalidArgument},
			"client_id with other text":  {&chatpb.SendRequest{To: bob, ClientId: "used", Text: "hello"}, codes.AlreadyExists},
			"client_id with other space": {&chatpb.SendRequest{To: bob, ClientId: "used", Text: "Hello "}, codes.AlreadyExists},
			"client_id to somebody else": {&chatpb.SendRequest{To: carol, ClientId: "used", Text: "Hello"}, codes.AlreadyExists},
		} {
			_, err := s.Send(t.Context(), alice, test.in)
			wantCode(t, name, err, test.want)
		}
		if n := len(w.pushed()); n != 1 {
			t.Errorf("%d pushes, want that of the one message", n)
		}
		if next := send(t, s, alice, bob, "next", "t"); next.GetNumber() != 2 {
			t.Errorf("what was refused took a number: %v", next)
		}

		w.userErr = status.Error(codes.Unavailable, "dial tcp 10.0.0.7: refused")
		_, err := s.Send(t.Context(), alice, &chatpb.SendRequest{To: carol, ClientId: "y", Text: "t"})
		wantCode(t, "without the auth service", err, codes.Unavailable)
		if strings.Contains(err.Error(), "10.0.0.7") {
			t.Errorf("the client learns %v", err)
		}
		w.userErr = status.Error(codes.NotFound, "a bug over there")
		_, err = s.Send(t.Context(), alice, &chatpb.SendRequest{To: carol, ClientId: "y", Text: "t"})
		if _, ok := status.FromError(err); err == nil || ok {
			t.Errorf("a failure of the auth service: %v, want no status", err)
		}
		asked := w.asked.Load()
		send(t, s, bob, alice, "z", "the conversation proves that we exist")
		if w.asked.Load() != asked {
			t.Error("the auth service was asked about a pair that has a conversation")
		}
	})
}

func TestRepeat(t *testing.T) {
	everywhere(t, func(t *testing.T, open func() *sqldb.DB) {
		w := &world{}
		s, other := w.replica(t, open()), w.replica(t, open())
		first := send(t, s, alice, bob, "a", "Hello")
		send(t, s, bob, alice, "b", "Hi")
		if again := send(t, other, alice, bob, "a", "Hello"); !proto.Equal(again, first) {
			t.Errorf("answered %v, at first %v", again, first)
		}
		if next := send(t, s, alice, bob, "c", "on"); next.GetNumber() != 3 {
			t.Errorf("after a repeat: %v", next)
		}
		// It is pushed again: whoever stored the first may not have got that far.
		if p := w.pushed(); len(p) != 4 || !proto.Equal(p[2].message, p[0].message) {
			t.Errorf("pushed %v", p)
		}
	})
}

// TestRepeatsAtOnce: replicas that get the same message at once store it once,
// answer alike, and take one number.
func TestRepeatsAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, open func() *sqldb.DB) {
		w := &world{}
		replicas := []*chat.Service{w.replica(t, open()), w.replica(t, open()), w.replica(t, open())}
		const rounds = 10
		for round := range rounds {
			in := &chatpb.SendRequest{To: bob, ClientId: fmt.Sprint("message", round), Text: "once"}
			var mu sync.Mutex
			var answers []*chatpb.SendResponse
			var group sync.WaitGroup
			for i := range 9 {
				group.Go(func() {
					out, err := replicas[i%3].Send(soon(t), alice, in)
					if err != nil {
						t.Errorf("round %d: %v", round, err)
					}
					mu.Lock()
					answers = append(answers, out)
					mu.Unlock()
				})
			}
			group.Wait()
			for _, out := range answers {
				if out.GetNumber() != int64(round+1) || !proto.Equal(out, answers[0]) {
					t.Fatalf("round %d: answers %v", round, answers)
				}
			}
		}
	})
}

// TestBothWaysAtOnce: whoever writes first and however many at once, there is
// one conversation, without a gap.
func TestBothWaysAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, open func() *sqldb.DB) {
		w := &world{}
		replicas := []*chat.Service{w.replica(t, open()), w.replica(t, open())}
		const senders, each = 16, 25
		var mu sync.Mutex
		answered := map[int64]string{}
		var group sync.WaitGroup
		for i := range senders {
			group.Go(func() {
				from, to := int64(alice), int64(bob)
				if i%2 == 1 {
					from, to = to, from
				}
				last := int64(0)
				for j := range each {
					id := fmt.Sprintf("%d/%d", i, j)
					out, err := replicas[i/2%2].Send(soon(t), from, &chatpb.SendRequest{To: to, ClientId: id, Text: id})
					if err != nil {
						t.Errorf("%s: %v", id, err)
						return
					}
					if out.GetNumber() <= last {
						t.Errorf("%s: number %d after %d", id, out.GetNumber(), last)
					}
					last = out.GetNumber()
					mu.Lock()
					answered[last] = id
					mu.Unlock()
				}
			})
		}
		group.Wait()

		stored := map[int64]string{}
		for after := int64(0); ; {
			in := &chatpb.HistoryRequest{To: bob, After: after, Limit: 150}
			if after == 0 {
				in = &chatpb.HistoryRequest{To: bob, Before: 151, Limit: 150}
			}
			page, err := replicas[0].History(t.Context(), alice, in)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range page.GetMessages() {
				after++
				if m.GetNumber() != after || m.GetText() != m.GetClientId() {
					t.Fatalf("got %v as number %d", m, after)
				}
				stored[after] = m.GetClientId()
			}
			if after > 150 && !page.GetMore() {
				break
			}
		}
		if len(stored) != senders*each || !maps.Equal(stored, answered) {
			t.Errorf("%d stored, %d answered, %d sent", len(stored), len(answered), senders*each)
		}
		if ids := slices.Compact(slices.Sorted(maps.Values(stored))); len(ids) != senders*each {
			t.Errorf("%d different client_ids of %d", len(ids), senders*each)
		}
	})
}

// TestFirstMessagesAtOnce: many pairs begin to talk at once, each from both
// sides.
func TestFirstMessagesAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, open func() *sqldb.DB) {
		w := &world{}
		s := w.replica(t, open())
		users := []int64{alice, bob, carol}
		var mu sync.Mutex
		conversations := map[[2]int64]map[int64]bool{}
		var group sync.WaitGroup
		for _, from := range users {
			for _, to := range users {
				for i := range 3 {
					group.Go(func() {
						out, err := s.Send(soon(t), from, &chatpb.SendRequest{To: to, ClientId: fmt.Sprint(to, i), Text: "first"})
						if err != nil {
							t.Errorf("%d to %d: %v", from, to, err)
							return
						}
						pair := [2]int64{min(from, to), max(from, to)}
						mu.Lock()
						defer mu.Unlock()
						if conversations[pair] == nil {
							conversations[pair] = map[int64]bool{}
						}
						conversations[pair][out.GetConversation()] = true
					})
				}
			}
		}
		group.Wait()
		for pair, ids := range conversations {
			if len(ids) != 1 {
				t.Errorf("%v have conversations %v", pair, ids)
			}
		}
	})
}

// TestText: what was sent comes back byte for byte.
func TestText(t *testing.T) {
	everywhere(t, func(t *testing.T, open func() *sqldb.DB) {
		w := &world{}
		s := w.replica(t, open())
		texts := []string{
			"ends in spaces   ", " begins so", "tab\tand\r\nlines\n", "a NUL \x00 inside", "\x00", " ",
			"é and e\u0301", "中文，日本語、한국어", "👩‍👩‍👧‍👦 🇩🇪 🐙 𝔘", "\U0010ffff \ufffd \ufeff", "'; DROP TABLE messages; -- ? \\ %s",
			"123", "1e3", strings.Repeat("🐙", 4096), strings.Repeat("x", 16384),
		}
		ids := []string{"id", "ID", "id ", "id\x00", "íd", "i\u0301d", "🐙", "1", "1.0", "01", "1e0", strings.Repeat("🐙", 64), "n", "o", "p"}
		for i, text := range texts {
			if out := send(t, s, alice, bob, ids[i], text); out.GetNumber() != int64(i+1) {
				t.Errorf("client_id %q was taken for another: %v", ids[i], out)
			}
			if out := send(t, s, alice, bob, ids[i], text); out.GetNumber() != int64(i+1) {
				t.Errorf("client_id %q was not known again: %v", ids[i], out)
			}
		}
		page, err := s.History(t.Context(), bob, &chatpb.HistoryRequest{To: alice})
		if err != nil || len(page.GetMessages()) != len(texts) {
			t.Fatalf("%d messages of %d, %v", len(page.GetMessages()), len(texts), err)
		}
		for i, m := range page.GetMessages() {
			if m.GetText() != texts[i] || m.GetClientId() != ids[i] {
				t.Errorf("sent %q as %q, got %q as %q", texts[i], ids[i], m.GetText(), m.GetClientId())
			}
		}
	})
}

func TestPushFails(t *testing.T) {
	everywhere(t, func(t *testing.T, open func() *sqldb.DB) {
		w := &world{pushErr: errTest}
		s := w.replica(t, open())
		if out := send(t, s, alice, bob, "a", "t"); out.GetNumber() != 1 {
			t.Errorf("got %v", out)
		}
	})
}

func TestRegister(t *testing.T) {
	db, err := sqldb.Open(t.Context(), sqldb.Config{Address: "root@tcp(127.0.0.1:1)/minigate"})
	if err != nil {
		t.Fatal(err)
	}
	b := worker.New("chat", worker.Config{})
	(&world{}).replica(t, db).Register(b)
	if got := fmt.Sprint(b.Routes()); got != "[chat.history chat.send]" {
		t.Errorf("routes %s", got)
	}
	if _, err := chat.New(chat.Config{}); err == nil {
		t.Error("made a service of nothing")
	}
}
