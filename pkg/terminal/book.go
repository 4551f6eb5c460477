package terminal

import (
	"slices"
	"strconv"
	"time"

	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

// How much is remembered; what is older can be asked for again.
const (
	maxPeers = 500
	maxLines = 2000
)

// book is what is known of conversations: peers and what was said. It belongs
// to one goroutine.
type book struct {
	me    *authpb.User // nil before login
	peers []*peer      // the last that said something first
	open  *peer        // nil where none is
}

// peer is somebody to talk with.
type peer struct {
	id     int64
	name   string // what to show; the id until the name is known
	known  bool   // the name is
	unread int
	lines  []line // by number, and then what has none yet
	older  bool   // there may be messages before the first line
	asked  bool   // a history was asked for and has not come
	loaded bool   // a history has come
}

// line is one message.
type line struct {
	number int64 // 0 until it is stored
	id     string
	mine   bool
	text   string
	at     time.Time
	failed string // why it was not sent
}

// peer finds somebody, or adds them.
func (b *book) peer(id int64) *peer {
	for _, p := range b.peers {
		if p.id == id {
			return p
		}
	}
	p := &peer{id: id, name: "user " + strconv.FormatInt(id, 10)}
	b.peers = append([]*peer{p}, b.peers...)
	if len(b.peers) > maxPeers {
		for i := len(b.peers) - 1; i > 0; i-- {
			if b.peers[i] != b.open {
				b.peers = slices.Delete(b.peers, i, i+1)
				break
			}
		}
	}
	return p
}

// named notes who somebody is.
func (b *book) named(u *authpb.User) *peer {
	p := b.peer(u.GetId())
	p.known = true
	if p.name = name(u); b.me != nil && u.GetId() == b.me.GetId() {
		p.name += " (you)"
	}
	return p
}

// show opens a peer, which makes what they said read.
func (b *book) show(p *peer) {
	b.open = p
	p.unread = 0
}

// step opens the peer that many places further down the list.
func (b *book) step(n int) {
	if len(b.peers) == 0 {
		return
	}
	i := slices.Index(b.peers, b.open)
	if i < 0 && n < 0 {
		i = 0
	}
	b.show(b.peers[(i+n+len(b.peers))%len(b.peers)])
}

// came notes a message that was pushed, and returns the peer it belongs to. gap
// says that messages before it are missing.
func (b *book) came(m *chatpb.Message) (p *peer, gap bool) {
	p = b.peer(m.GetSender())
	fresh := b.put(p, m)
	if fresh && p != b.open && !b.mine(m) {
		p.unread++
	}
	if fresh {
		b.raise(p)
	}
	return p, p.loaded && p.gap() > 0
}

// history notes messages that were asked for.
func (b *book) history(p *peer, in *chatpb.HistoryRequest, out *chatpb.HistoryResponse) {
	last := p.last()
	for _, m := range out.GetMessages() {
		// What came while the connection was lost has not been seen.
		if b.put(p, m) && in.GetAfter() > 0 && m.GetNumber() > last && p != b.open && !b.mine(m) {
			p.unread++
		}
	}
	p.asked, p.loaded = false, true
	if in.GetAfter() == 0 {
		p.older = out.GetMore()
	}
}

func (b *book) mine(m *chatpb.Message) bool { return b.me != nil && m.GetSender() == b.me.GetId() }

// put files a message under its number; false says that it is there already.
func (b *book) put(p *peer, m *chatpb.Message) bool {
	l := line{number: m.GetNumber(), id: m.GetClientId(), mine: b.mine(m), text: m.GetText(), at: time.UnixMilli(m.GetSentAt())}
	if l.mine { // it may be one that waits for its number
		p.drop(l.id)
	}
	i, found := slices.BinarySearchFunc(p.lines, l.number, func(l line, number int64) int {
		switch {
		case l.number == 0 || l.number > number:
			return 1
		case l.number < number:
			return -1
		}
		return 0
	})
	if found {
		return false
	}
	p.lines = slices.Insert(p.lines, i, l)
	if extra := len(p.lines) - maxLines; extra > 0 {
		p.lines = slices.Delete(p.lines, 0, extra)
		p.older = true
	}
	return true
}

// drop forgets a line that has no number.
func (p *peer) drop(id string) {
	p.lines = slices.DeleteFunc(p.lines, func(l line) bool { return l.number == 0 && l.id == id })
}

// last is the highest number that is known.
func (p *peer) last() int64 {
	for _, l := range slices.Backward(p.lines) {
		if l.number != 0 {
			return l.number
		}
	}
	return 0
}

// first is the lowest number that is known; 0 where none is.
func (p *peer) first() int64 {
	if len(p.lines) == 0 {
		return 0
	}
	return p.lines[0].number
}

// writes notes what is on its way to p.
func (b *book) writes(p *peer, id, text string) {
	p.lines = append(p.lines, line{id: id, mine: true, text: text, at: time.Now()})
	b.raise(p)
}

// sent gives a line its number, or says why it has none.
func (b *book) sent(to int64, id, text string, out *chatpb.SendResponse, err error) {
	p := b.peer(to)
	if err == nil {
		b.put(p, &chatpb.Message{Number: out.GetNumber(), Sender: b.me.GetId(), ClientId: id, Text: text, SentAt: out.GetSentAt()})
		return
	}
	for i := range p.lines {
		if l := &p.lines[i]; l.number == 0 && l.id == id {
			l.failed = explain(err)
		}
	}
}

// raise puts a peer at the head of the list.
func (b *book) raise(p *peer) {
	if i := slices.Index(b.peers, p); i > 0 {
		b.peers = slices.Insert(slices.Delete(b.peers, i, i+1), 0, p)
	}
}
