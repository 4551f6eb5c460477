package gate

import (
	"context"
	"errors"
	"fmt"

	errorx "github.com/panjf2000/gnet/v2/pkg/errors"
	"github.com/panjf2000/gnet/v2/pkg/netpoll"
	"github.com/panjf2000/gnet/v2/pkg/queue"
)

// poller waits on the sockets of one loop, with epoll or kqueue through gnet's
// poller. gnet's own connections were measured: they hold 450 bytes more of each
// idle client, copy what they write, accept on one thread only, and can not stop
// reading, which is how a gate holds back what the broker does not take.
//
// Sockets are registered once, edge-triggered, for reading and for writing: to
// stop reading from one is to leave it alone, and costs no system call.
type poller struct {
	loop    *loop
	poll    *netpoll.Poller
	sockets []*socket // by descriptor, which are small numbers, given out again
	open    int
	in      []byte // what one read brings, of whichever socket

	// Used again and again, with TLS.
	plain, joined, cipher []byte
}

// readBytes is the most that one read takes, and readsOfOneTurn how many reads of
// one socket follow each other before the others have their turn.
const (
	readBytes      = 64 << 10
	readsOfOneTurn = 4
)

// openLoops makes the loops. They hold what is posted until run.
func (g *Gate) openLoops() error {
	for range g.cfg.Loops {
		poll, err := netpoll.OpenPoller()
		if err != nil {
			err = fmt.Errorf("open a poller: %w", err)
			for _, l := range g.loops {
				err = errors.Join(err, l.poller.poll.Close())
			}
			return err
		}
		p := &poller{poll: poll, in: make([]byte, readBytes)}
		p.loop = g.newLoop(p.execute)
		p.loop.poller = p
	}
	return nil
}

// execute runs f on the loop's thread.
func (p *poller) execute(f func()) error {
	return p.poll.Trigger(queue.HighPriority, func(any) error { f(); return nil }, nil)
}

// run serves until ctx ends, and closes what is open then.
func (p *poller) run(ctx context.Context) error {
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		stopped <- p.poll.Trigger(queue.HighPriority, func(any) error { return errorx.ErrEngineShutdown }, nil)
	})
	err := p.poll.Polling(p.event)
	if errors.Is(err, errorx.ErrEngineShutdown) {
		err = nil
	}
	if !stop() {
		err = errors.Join(err, <-stopped)
	}
	p.loop.closeInbox() // nobody may wake a poller that is closed: its descriptors may be another's
	p.loop.turn()       // somebody may wait for what was posted last
	for _, s := range p.sockets {
		if s != nil {
			s.close()
		}
	}
	return errors.Join(err, p.poll.Close())
}

// event is called with what has happened to a descriptor.
func (p *poller) event(fd int, event netpoll.IOEvent, flags netpoll.IOFlags) error {
	if fd >= len(p.sockets) || p.sockets[fd] == nil {
		return nil // closed in this same turn
	}
	s := p.sockets[fd]
	p.loop.setNow()
	p.serve(s, event, flags)
	p.loop.flush()
	return nil
}

// serve does what there is to do with a socket. A panic ends that session, not
// the gate.
func (p *poller) serve(s *socket, event netpoll.IOEvent, flags netpoll.IOFlags) {
	defer func() {
		if v := recover(); v != nil {
			p.loop.gate.panicked(v)
			s.close()
		}
	}()
	if len(s.unsent) > 0 {
		s.sendRest()
	}
	if hungUp(event, flags) {
		s.hungUp = true
	}
	if s.hungUp || netpoll.IsReadEvent(event) {
		s.readable = true
		s.read()
	}
	if broken(event, flags) && s.readable { // not read any more, and nobody is there
		s.close()
	}
}

// keep makes s known to event.
func (p *poller) keep(s *socket) error {
	fd := int(s.fd)
	if fd >= len(p.sockets) {
		// In steps: doubling would hold as much again for nobody.
		p.sockets = append(p.sockets, make([]*socket, fd+1024-len(p.sockets))...)
	}
	p.sockets[fd] = s
	if err := p.poll.AddReadWrite(&netpoll.PollAttachment{FD: fd}, true); err != nil {
		p.sockets[fd] = nil
		return fmt.Errorf("watch a connection: %w", err)
	}
	p.open++
	return nil
}
