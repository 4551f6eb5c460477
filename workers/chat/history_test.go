package chat_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/proto/chatpb"
)

func TestHistory(t *testing.T) {
	everywhere(t, func(t *testing.T, open func() *sqldb.DB) {
		w := &world{}
		s := w.replica(t, open())
		var conversation int64
		for i := 1; i <= 120; i++ {
			conversation = send(t, s, alice, bob, fmt.Sprint(i), fmt.Sprint("text ", i)).GetConversation()
		}
		for name, test := range map[string]struct {
			in       *chatpb.HistoryRequest
			from, to int64 // numbers; 0 for none
			more     bool
		}{
			"newest":            {&chatpb.HistoryRequest{}, 71, 120, true},
			"newest, some":      {&chatpb.HistoryRequest{Limit: 3}, 118, 120, true},
			"newest, all":       {&chatpb.HistoryRequest{Limit: 120}, 1, 120, false},
			"newest, all but 1": {&chatpb.HistoryRequest{Limit: 119}, 2, 120, true},
			"after":             {&chatpb.HistoryRequest{After: 10, Limit: 5}, 11, 15, true},
			"after, the rest":   {&chatpb.HistoryRequest{After: 115, Limit: 5}, 116, 120, false},
			"after, 50":         {&chatpb.HistoryRequest{After: 1}, 2, 51, true},
			"after the last":    {&chatpb.HistoryRequest{After: 120}, 0, 0, false},
			"before":            {&chatpb.HistoryRequest{Before: 11, Limit: 5}, 6, 10, true},
			"before, the rest":  {&chatpb.HistoryRequest{Before: 11, Limit: 10}, 1, 10, false},
			"before the first":  {&chatpb.HistoryRequest{Before: 1}, 0, 0, false},
			"before the future": {&chatpb.HistoryRequest{Before: 1000, Limit: 1}, 120, 120, true},
		} {
			for _, user := range []int64{alice, bob} {
				test.in.Conversation, test.in.To = 0, alice+bob-user
				check(t, fmt.Sprint(name, " of ", user), test.from, test.to, test.more)(s.History(t.Context(), user, test.in))
			}
			test.in.Conversation, test.in.To = conversation, 0
			check(t, name, test.from, test.to, test.more)(s.History(t.Context(), bob, test.in))
		}
	})
}

func check(t *testing.T, name string, from, to int64, more bool) func(*chatpb.HistoryResponse, error) {
	t.Helper()
	return func(out *chatpb.HistoryResponse, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		var numbers []int64
		for _, m := range out.GetMessages() {
			numbers = append(numbers, m.GetNumber())
			if m.GetText() != fmt.Sprint("text ", m.GetNumber()) || m.GetSender() != alice || m.GetConversation() == 0 || m.GetSentAt() == 0 {
				t.Errorf("%s: got %v", name, m)
			}
		}
		var want []int64
		for i := from; i <= to && i > 0; i++ {
			want = append(want, i)
		}
		if fmt.Sprint(numbers) != fmt.Sprint(want) || out.GetMore() != more {
			t.Errorf("%s: numbers %v, more %t, want %v, %t", name, numbers, out.GetMore(), want, more)
		}
	}
}

// TestHistoryOfOthers: who takes no part can not tell a conversation from one
// that does not exist.
func TestHistoryOfOthers(t *testing.T) {
	everywhere(t, func(t *testing.T, open func() *sqldb.DB) {
		w := &world{}
		s := w.replica(t, open())
		conversation := send(t, s, alice, bob, "a", "secret").GetConversation()
		_, absent := s.History(t.Context(), carol, &chatpb.HistoryRequest{Conversation: 424242})
		wantCode(t, "absent", absent, codes.NotFound)
		for _, in := range []*chatpb.HistoryRequest{{Conversation: conversation}, {To: alice}, {To: carol}, {To: 99}} {
			_, err := s.History(t.Context(), carol, in)
			wantCode(t, fmt.Sprint(in), err, codes.NotFound)
			if err.Error() != absent.Error() {
				t.Errorf("%v says %q, an absent one %q", in, err, absent)
			}
		}
		_, err := s.History(t.Context(), alice, &chatpb.HistoryRequest{Conversation: conversation, To: bob})
		wantCode(t, "conversation and to", err, codes.InvalidArgument)
	})
}

// TestHistoryBytes: a page that would be too large for a client ends early.
func TestHistoryBytes(t *testing.T) {
	everywhere(t, func(t *testing.T, open func() *sqldb.DB) {
		w := &world{}
		s := w.replica(t, open())
		for i := range 8 {
			send(t, s, alice, bob, fmt.Sprint("plain", i), strings.Repeat("x", 16000))
		}
		send(t, s, alice, bob, "control", strings.Repeat("\x01", 16384)) // 98,304 bytes in JSON
		for name, test := range map[string]struct {
			in       *chatpb.HistoryRequest
			from, to int64
		}{
			"after":  {&chatpb.HistoryRequest{To: bob, After: 1}, 2, 7},
			"before": {&chatpb.HistoryRequest{To: bob, Before: 9}, 3, 8},
			"newest": {&chatpb.HistoryRequest{To: bob}, 9, 9},
		} {
			out, err := s.History(t.Context(), alice, test.in)
			if err != nil {
				t.Fatal(err)
			}
			m := out.GetMessages()
			if len(m) == 0 || m[0].GetNumber() != test.from || m[len(m)-1].GetNumber() != test.to || !out.GetMore() {
				t.Errorf("%s: %d messages, more %t", name, len(m), out.GetMore())
			}
		}
	})
}

func TestDatabaseGone(t *testing.T) {
	db, err := sqldb.Open(t.Context(), sqldb.Config{Address: "root@tcp(127.0.0.1:1)/minigate"})
	if err != nil {
		t.Fatal(err)
	}
	s := (&world{}).replica(t, db)
	_, err = s.Send(t.Context(), alice, &chatpb.SendRequest{To: bob, ClientId: "a", Text: "t"})
	wantCode(t, "send", err, codes.Unavailable)
	_, err = s.History(t.Context(), alice, &chatpb.HistoryRequest{To: bob})
	wantCode(t, "history", err, codes.Unavailable)
	if strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("the client learns %v", err)
	}
}
