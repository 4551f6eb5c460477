package terminal

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/proto/chatpb"
)

const (
	maxText   = 16384 // bytes, the limit of chat.send
	pageLimit = 50
)

// talk is a chat without a face: what is known, and what follows from what
// happens and from what is typed. It belongs to one goroutine.
type talk struct {
	book
	link *link

	state   event     // the last of connecting, needLogin, online and offline
	retry   time.Time // of an offline
	lost    error     // why there is no connection, until there is one
	wanted  string    // account of the conversation to open, until it is found
	patient bool      // what is wanted may come later
	pending int       // messages that are not answered
	notice  string    // for the status line
	bad     bool      // the notice is about something that failed
	helping bool      // the help is to be shown
	version int       // counts changes of what is shown
}

func newTalk(l *link, to string) *talk {
	return &talk{link: l, state: connecting{}, wanted: to}
}

func (t *talk) say(format string, args ...any)  { t.notice, t.bad = fmt.Sprintf(format, args...), false }
func (t *talk) fail(format string, args ...any) { t.notice, t.bad = fmt.Sprintf(format, args...), true }

// handle takes note of an event.
func (t *talk) handle(ev event) {
	t.version++
	switch ev := ev.(type) {
	case connecting:
		t.state = ev
	case needLogin:
		t.state, t.lost = ev, nil
	case offline:
		t.state, t.lost = ev, ev.err
		t.retry = time.Now().Add(ev.wait)
	case online:
		lost, before := t.lost, t.me
		t.state, t.lost = ev, nil
		t.entered(ev)
		switch {
		case lost != nil && before != nil:
			t.say("back")
		case lost != nil:
			t.say("connected")
		}
	case came:
		p, gap := t.came(ev.message)
		if !p.known {
			t.link.name(p.id)
		}
		if gap {
			t.refresh(p)
		}
	case sent:
		t.pending--
		t.sent(ev.to, ev.id, ev.text, ev.out, ev.err)
		if ev.err != nil {
			t.fail("not sent: %s", explain(ev.err))
		}
		if p := t.peer(ev.to); p.loaded && p.gap() > 0 {
			t.refresh(p) // what the other side wrote before it has not come
		}
	case found:
		t.identified(ev)
	case history:
		t.read(ev)
	case verified:
		if ev.err != nil {
			t.fail("the code was not taken: %s", explain(ev.err))
		} else {
			t.say("your e-mail address is verified")
		}
	}
}

// entered asks for what was missed, and for who people are.
func (t *talk) entered(ev online) {
	t.me = ev.user
	t.notice, t.bad = "", false
	for _, p := range t.peers {
		p.asked = false
		if !p.known {
			t.link.name(p.id)
		}
		t.refresh(p)
	}
	if t.wanted != "" {
		t.link.find(t.wanted)
	}
}

func (t *talk) identified(ev found) {
	if ev.err != nil {
		switch {
		case ev.account == "":
		case status.Code(ev.err) == codes.Unavailable && ev.account == t.wanted:
			// It is asked again as soon as there is a connection.
		case status.Code(ev.err) == codes.NotFound && t.patient && ev.account == t.wanted:
			t.say("%s is not here yet", ev.account)
		case status.Code(ev.err) == codes.NotFound:
			t.wanted = ""
			t.fail("there is no user %q", ev.account)
		default:
			t.wanted = ""
			t.fail("could not look for %q: %s", ev.account, explain(ev.err))
		}
		return
	}
	p := t.named(ev.user)
	if ev.account != "" && ev.account == t.wanted {
		t.wanted, t.notice = "", ""
		t.enter(p)
	}
}

// enter shows a peer and asks for what they said.
func (t *talk) enter(p *peer) {
	t.version++
	t.show(p)
	if !p.loaded {
		t.refresh(p)
	}
}

// turn shows the peer that many places further down.
func (t *talk) turn(n int) {
	t.step(n)
	if t.open != nil {
		t.enter(t.open)
	}
}

// refresh asks for what was said since the last message, or lately.
func (t *talk) refresh(p *peer) {
	in := &chatpb.HistoryRequest{To: p.id, Limit: pageLimit}
	if p.loaded {
		in.After = p.last()
		if gap := p.gap(); gap > 0 {
			in.After = gap
		}
	}
	t.ask(p, in)
}

// gap is the number after which the first one is missing; 0 where none is.
func (p *peer) gap() int64 {
	for i := 1; i < len(p.lines) && p.lines[i].number != 0; i++ {
		if p.lines[i].number > p.lines[i-1].number+1 {
			return p.lines[i-1].number
		}
	}
	return 0
}

// earlier asks for what was said before the first message.
func (t *talk) earlier(p *peer) {
	if p.older && p.first() > 0 {
		t.ask(p, &chatpb.HistoryRequest{To: p.id, Before: p.first(), Limit: pageLimit})
	}
}

func (t *talk) ask(p *peer, in *chatpb.HistoryRequest) {
	if !p.asked {
		p.asked = true
		t.link.history(in)
	}
}

func (t *talk) read(ev history) {
	p := t.peer(ev.peer)
	if ev.err != nil {
		p.asked = false
		if status.Code(ev.err) != codes.Unavailable { // which the state says already
			t.fail("no history: %s", explain(ev.err))
		}
		return
	}
	t.book.history(p, ev.in, ev.out)
	if ev.in.GetAfter() > 0 && ev.out.GetMore() || p.gap() > 0 && len(ev.out.GetMessages()) > 0 {
		t.refresh(p)
	}
}

// help says what can be typed, one a row.
func help() []string {
	return []string{
		"/to NAME      writes to somebody; NAME is an account",
		"/verify CODE  proves your e-mail address",
		"/help         shows this",
		"/quit         ends the chat",
		"//TEXT        says /TEXT",
	}
}

// typed takes a line; quit says that it was the last.
func (t *talk) typed(text string) (quit bool) {
	t.version++
	t.notice, t.bad, t.helping = "", false, false
	if strings.HasPrefix(text, "//") {
		t.write(text[1:])
		return false
	}
	if !strings.HasPrefix(text, "/") {
		t.write(text)
		return false
	}
	command, argument, _ := strings.Cut(strings.TrimSpace(text), " ")
	argument = strings.TrimSpace(argument)
	switch {
	case command == "/quit" || command == "/q":
		return true
	case command == "/help":
		t.helping = true
	case argument == "" && command == "/to":
		t.fail("/to: want a name, as in /to bob")
	case argument == "" && command == "/verify":
		t.fail("/verify: want the code from the e-mail")
	case command == "/to":
		t.wanted, t.patient = strings.TrimPrefix(argument, "@"), false
		t.link.find(t.wanted)
	case command == "/verify":
		t.link.verify(argument)
	default:
		t.fail("%s: there is no such command; see /help", command)
	}
	return false
}

func (t *talk) write(text string) {
	switch {
	case strings.TrimSpace(text) == "":
		return
	case t.open == nil:
		t.fail("nobody is here to read that: /to NAME first")
		return
	case len(text) > maxText:
		t.fail("not sent: a message has at most %d bytes, this one has %d", maxText, len(text))
		return
	}
	id, err := t.link.send(t.open.id, text)
	if err != nil {
		t.fail("not sent: %s", explain(err))
		return
	}
	t.pending++
	t.writes(t.open, id, text)
}
