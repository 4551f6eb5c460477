package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/proto/chatpb"
)

// crowd is some people with many connections between them.
type crowd struct {
	people  []*person
	clients []*person // connections; one person may have several
}

// gather registers people, and connects each of them to each address as often as
// it takes to have so many connections.
func gather(t *testing.T, people, connections int, addresses ...string) *crowd {
	t.Helper()
	c := &crowd{}
	for i := range people {
		p := connect(t, addresses[i%len(addresses)], fmt.Sprintf("person%d", i))
		p.register()
		p.login()
		c.people = append(c.people, p)
	}
	for i := range connections {
		c.clients = append(c.clients, c.people[i%people].again(t, addresses[i/people%len(addresses)]))
	}
	return c
}

// sent is a message that was answered.
type sent struct {
	from, to     int64
	text         string
	number       int64
	conversation int64
}

// load is a crowd that sends messages. A client has one request in flight, and
// sends the same message again when it fails, as often as it takes.
type load struct {
	t        *testing.T
	crowd    *crowd
	clients  sync.WaitGroup
	stop     chan struct{}
	answered atomic.Int64

	mu     sync.Mutex
	sent   map[string]sent // by sender and client_id
	failed map[codes.Code]int
}

// send starts the load: each client sends so many messages, or until the load is
// stopped where that is 0.
func send(t *testing.T, c *crowd, messages int) *load {
	l := &load{t: t, crowd: c, stop: make(chan struct{}), sent: make(map[string]sent), failed: make(map[codes.Code]int)}
	for i, p := range c.clients {
		l.clients.Go(func() {
			for n := 0; messages == 0 || n < messages; n++ {
				select {
				case <-l.stop:
					return
				default:
				}
				to := c.people[(i+n+1)%len(c.people)].id
				if !l.one(p, to, fmt.Sprintf("%d-%d", i, n)) {
					return
				}
			}
		})
	}
	return l
}

// one sends one message until it is answered.
func (l *load) one(p *person, to int64, id string) bool {
	text := "text " + id
	limit := time.Now().Add(2 * patience)
	for {
		ctx, cancel := context.WithTimeout(l.t.Context(), patience)
		out := &chatpb.SendResponse{}
		err := p.Call(ctx, "chat.send", &chatpb.SendRequest{To: to, ClientId: id, Text: text}, out)
		cancel()
		if err == nil {
			l.mu.Lock()
			l.sent[fmt.Sprint(p.id, " ", id)] = sent{p.id, to, text, out.GetNumber(), out.GetConversation()}
			l.mu.Unlock()
			l.answered.Add(1)
			return true
		}
		code := status.Code(err)
		l.mu.Lock()
		l.failed[code]++
		l.mu.Unlock()
		if code != codes.Unavailable && code != codes.DeadlineExceeded || p.Err() != nil || time.Now().After(limit) {
			l.t.Errorf("%s sends %s: %v (connection: %v)", p.account, id, err, p.Err())
			return false
		}
		// As a client would, and so that the gate's refusals do not fill the log.
		wait := time.NewTimer(50 * time.Millisecond)
		select {
		case <-wait.C:
		case <-l.t.Context().Done():
			return false
		}
	}
}

// reaches waits until so many more messages are answered.
func (l *load) reaches(more int64) {
	l.t.Helper()
	target := l.answered.Load() + more
	eventually(l.t, fmt.Sprint(more, " more answers"), func() bool { return l.answered.Load() >= target || l.t.Failed() })
}

// fails waits until some more requests fail, with the code UNAVAILABLE.
func (l *load) fails(more int) {
	l.t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.failed[codes.Unavailable]
	}
	target := count() + more
	eventually(l.t, fmt.Sprint(more, " more refusals"), func() bool { return count() >= target || l.t.Failed() })
}

// end stops the load and waits for its clients.
func (l *load) end() {
	close(l.stop)
	l.clients.Wait()
}

// failures are for people.
func (l *load) failures() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprint(l.failed)
}

// check holds all histories against what was answered: each message is there
// exactly once, under the number that the answer had, and no number is missing.
func (l *load) check(t *testing.T) {
	t.Helper()
	if len(l.sent) != int(l.answered.Load()) {
		t.Errorf("%d messages were answered, %d of them different", l.answered.Load(), len(l.sent))
	}
	found := make(map[string]sent)
	for i, p := range l.crowd.people {
		for _, other := range l.crowd.people[i:] {
			for _, m := range p.history(other.id) { // which checks the numbers
				key := fmt.Sprint(m.GetSender(), " ", m.GetClientId())
				if _, twice := found[key]; twice {
					t.Errorf("%s is stored twice", key)
				}
				to := p.id + other.id - m.GetSender()
				found[key] = sent{m.GetSender(), to, m.GetText(), m.GetNumber(), m.GetConversation()}
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(l.sent)) {
		if found[key] != l.sent[key] {
			t.Errorf("%s was answered as %+v, stored is %+v", key, l.sent[key], found[key])
		}
		delete(found, key)
	}
	if len(found) > 0 {
		t.Errorf("stored, and not answered though everything was tried until it was: %v", found)
	}
}
