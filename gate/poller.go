package gate

import (
	"context"
	"errors"
	"fmt"
)

// poller serves the sockets of one loop. gnet's own connections were measured: they
// held 450 bytes more of each idle client, copy what they write, accept on one
// thread only, and can not stop reading, which is how a gate holds back what the
// broker does not take.
//
// Sockets are registered once, edge-triggered, for reading and for writing: to
// stop reading from one is to leave it alone, and costs no system call.
type poller struct {
	loop    *loop
	watch   *watcher
	sockets []*socket // by descriptor, which are small numbers, given out again
	open    int
	turning bool   // now is set for this turn
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
		watch, err := openWatcher()
		if err != nil {
			for _, l := range g.loops {
				err = errors.Join(err, l.poller.watch.close())
			}
			return err
		}
		p := &poller{watch: watch, in: make([]byte, readBytes)}
		p.loop = g.newLoop(watch.wake)
		p.loop.poller = p
	}
	return nil
}

// run serves until ctx ends, and closes what is open then.
func (p *poller) run(ctx context.Context) error {
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { stopped <- p.watch.stop() })
	err := p.watch.run(p.event, p.loop.turn, p.turned)
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
	return errors.Join(err, p.watch.close())
}

// happening is what has happened to a socket.
type happening struct {
	readable bool
	hungUp   bool // the client has closed its side: there is an end behind what can still be read
	broken   bool // both sides are closed: nobody is there to answer
}

// event is called with what has happened to a descriptor.
func (p *poller) event(fd int, what happening) {
	if fd >= len(p.sockets) || p.sockets[fd] == nil {
		return // closed in this same turn
	}
	if !p.turning {
		p.turning = true
		p.loop.setNow()
	}
	p.serve(p.sockets[fd], what)
}

// turned is called when all that has happened at once was served.
func (p *poller) turned() {
	p.turning = false
	p.loop.flush()
}

// serve does what there is to do with a socket. A panic ends that session, not
// the gate.
func (p *poller) serve(s *socket, what happening) {
	defer func() {
		if v := recover(); v != nil {
			p.loop.gate.panicked(v, &s.session)
			s.close()
		}
	}()
	if len(s.unsent) > 0 {
		s.sendRest()
	}
	s.hungUp = s.hungUp || what.hungUp
	if s.hungUp || what.readable {
		s.readable = true
		s.read()
	}
	if what.broken && s.readable { // not read any more, and nobody is there
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
	if err := p.watch.add(fd); err != nil {
		p.sockets[fd] = nil
		return fmt.Errorf("watch a connection: %w", err)
	}
	p.open++
	return nil
}
