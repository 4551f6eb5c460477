//go:build containers

package containers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

const (
	people      = 50
	pace        = 2 // requests a second of each
	requestTime = 20 * time.Second
	password    = "correct-horse"
)

// person is somebody who is connected, talks to one other, and comes back.
type person struct {
	n       int
	account string
	id      int64
	peer    *person
	token   string
	client  *client.Client
	ledger  *ledger

	mu      sync.Mutex
	lost    time.Time     // when the connection was; zero while there is one
	why     error         // it was lost
	told    time.Duration // how long to stay away, from that moment on
	sent    []string      // client ids of messages that were confirmed
	got     map[string]bool
	arrival chan struct{} // holds one token: got has grown
}

func (p *person) address() string {
	if p.n%2 == 0 {
		return fmt.Sprintf("ws://127.0.0.1:%d/ws", websocketPort)
	}
	return fmt.Sprintf("tcp://127.0.0.1:%d", tcpPort)
}

// crowd is everybody.
type crowd struct {
	all    []*person
	ledger *ledger
}

// newCrowd registers everybody, and has them log in.
func newCrowd(t *testing.T, l *ledger) *crowd {
	t.Helper()
	c := &crowd{ledger: l}
	for n := range people {
		c.all = append(c.all, &person{n: n, account: fmt.Sprintf("person%d", n), ledger: l, got: make(map[string]bool), arrival: make(chan struct{}, 1)})
	}
	for n, p := range c.all {
		p.peer = c.all[n^1]
	}
	c.each(t, "register and log in", func(ctx context.Context, p *person) error {
		if err := p.connect(ctx); err != nil {
			return err
		}
		in := &authpb.RegisterRequest{Account: p.account, Password: password, Nickname: "Ünï " + p.account, Email: p.account + "@example.org"}
		if err := p.client.Call(ctx, "auth.register", in, nil); err != nil {
			return fmt.Errorf("register: %w", err)
		}
		return p.login(ctx)
	})
	return c
}

func (p *person) login(ctx context.Context) error {
	var out authpb.LoginResponse
	if err := p.client.Call(ctx, "auth.login", &authpb.LoginRequest{Account: p.account, Password: password, Device: "test"}, &out); err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	p.token, p.id = out.GetToken(), out.GetUser().GetId()
	return nil
}

// connect connects with the token, if there is one.
func (p *person) connect(ctx context.Context) (err error) {
	p.client, err = client.Dial(ctx, p.address(), client.Options{
		Token: p.token, OnPush: p.pushed, Reconnect: &client.Reconnect{OnState: p.state},
	})
	return err
}

// each does something as everybody, a few at a time.
func (c *crowd) each(t *testing.T, what string, f func(context.Context, *person) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	var group sync.WaitGroup
	var failed atomic.Bool
	places := make(chan struct{}, 8)
	for _, p := range c.all {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			if err := f(ctx, p); err != nil {
				failed.Store(true)
				t.Errorf("%s: %s: %v", p.account, what, err)
			}
		})
	}
	group.Wait()
	if failed.Load() {
		t.FailNow()
	}
}

// close closes all connections.
func (c *crowd) close() {
	for _, p := range c.all {
		if p.client != nil {
			_ = p.client.Close()
		}
	}
}

// state takes note of a connection that was lost, and of the next one.
func (p *person) state(_ *client.Client, s client.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case s.Phase == client.Reconnecting && p.lost.IsZero():
		p.lost, p.why, p.told = time.Now(), s.Err, 0
		if kick := new(client.KickError); errors.As(s.Err, &kick) {
			p.told = kick.RetryAfter
		}
	case s.Phase == client.Connected && !p.lost.IsZero():
		p.ledger.cameBack(p.why, p.told, time.Since(p.lost))
		p.lost = time.Time{}
	case s.Phase == client.Ended && !errors.Is(s.Err, client.ErrClosed):
		p.ledger.ended(p.account, s.Err)
	}
}

func (p *person) connected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost.IsZero()
}

// pushed takes a message of the other one.
func (p *person) pushed(push client.Push) error {
	var m chatpb.Message
	if err := push.Unmarshal(&m); err != nil {
		return err
	}
	p.mu.Lock()
	p.got[m.GetClientId()] = true
	p.mu.Unlock()
	select {
	case p.arrival <- struct{}{}:
	default:
	}
	return nil
}

// talk has everybody send requests until ctx ends, and waits for the last answers.
func (c *crowd) talk(ctx context.Context) {
	var group sync.WaitGroup
	for _, p := range c.all {
		group.Go(func() {
			offset := time.NewTimer(time.Duration(p.n) * time.Second / (people * pace))
			defer offset.Stop()
			select {
			case <-offset.C:
			case <-ctx.Done():
				return
			}
			tick := time.NewTicker(time.Second / pace)
			defer tick.Stop()
			for n := 0; ; n++ {
				p.request(n)
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	group.Wait()
}

// request sends one of three kinds, and enters what became of it.
func (p *person) request(n int) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	begun := time.Now()
	var route string
	var err error
	switch n % 4 {
	case 0:
		route = "chat.send"
		err = p.send(ctx, fmt.Sprintf("%d-%d", p.n, time.Now().UnixNano()))
	case 1:
		route = "auth.find"
		var out authpb.FindResponse
		err = p.client.Call(ctx, route, &authpb.FindRequest{Account: p.peer.account}, &out)
		if got := out.GetUser().GetId(); err == nil && got != p.peer.id {
			err = fmt.Errorf("found user %d, want %d", got, p.peer.id)
		}
	default:
		route = "echo.echo"
		text := fmt.Sprintf("%d of %s", n, p.account)
		out := new(wrapperspb.StringValue)
		err = p.client.Call(ctx, route, wrapperspb.String(text), out)
		if err == nil && out.GetValue() != text {
			err = fmt.Errorf("echoed %q, want %q", out.GetValue(), text)
		}
	}
	p.ledger.request(route, err, time.Since(begun))
}

// send sends a message to the other one.
func (p *person) send(ctx context.Context, id string) error {
	err := p.client.Call(ctx, "chat.send", &chatpb.SendRequest{To: p.peer.id, ClientId: id, Text: "text of " + id}, nil)
	if err == nil {
		p.mu.Lock()
		p.sent = append(p.sent, id)
		p.mu.Unlock()
	}
	return err
}

// reach has everybody get a message from the other one, by push.
func (c *crowd) reach(t *testing.T) {
	t.Helper()
	c.each(t, "be reached", func(ctx context.Context, p *person) error {
		id := fmt.Sprintf("reach-%d-%d", p.n, time.Now().UnixNano())
		if err := p.peer.send(ctx, id); err != nil {
			return fmt.Errorf("the other one's message: %w", err)
		}
		for {
			p.mu.Lock()
			got := p.got[id]
			p.mu.Unlock()
			if got {
				return nil
			}
			select {
			case <-p.arrival:
			case <-time.After(10 * time.Second):
				return errors.New("the message was not pushed within 10 s")
			}
		}
	})
}

// remember holds the histories against what was confirmed: all of it, each once,
// in numbers without a gap.
func (c *crowd) remember(t *testing.T) (messages int) {
	t.Helper()
	var mu sync.Mutex
	c.each(t, "read the history", func(ctx context.Context, p *person) error {
		seen := make(map[string]bool)
		for before, more := int64(0), true; more; {
			var out chatpb.HistoryResponse
			if err := p.client.Call(ctx, "chat.history", &chatpb.HistoryRequest{To: p.peer.id, Before: before, Limit: 200}, &out); err != nil {
				return err
			}
			page := out.GetMessages()
			for i, m := range page {
				if i > 0 && m.GetNumber() != page[i-1].GetNumber()+1 || i == len(page)-1 && before > 0 && m.GetNumber() != before-1 {
					return fmt.Errorf("there is a gap beside message %d", m.GetNumber())
				}
				key := fmt.Sprint(m.GetSender(), m.GetClientId())
				if seen[key] {
					return fmt.Errorf("message %s is there twice", key)
				}
				seen[key] = true
			}
			if more = out.GetMore(); len(page) > 0 {
				before = page[0].GetNumber()
			}
			if !more && before != 1 {
				return fmt.Errorf("the history begins with message %d", before)
			}
		}
		for _, q := range []*person{p, p.peer} {
			q.mu.Lock()
			sent := q.sent
			q.mu.Unlock()
			for _, id := range sent {
				if !seen[fmt.Sprint(q.id, id)] {
					return fmt.Errorf("the message %s of %s was confirmed and is not there", id, q.account)
				}
			}
		}
		mu.Lock()
		messages += len(seen)
		mu.Unlock()
		return nil
	})
	return messages / 2 // of each pair, both have looked
}
