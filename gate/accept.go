package gate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The pauses after accept failed, for want of a file descriptor or of memory.
const (
	firstAcceptPause = 5 * time.Millisecond
	lastAcceptPause  = time.Second
)

// accept hands the connections of a listener to the loops, one after the other,
// until ctx ends.
func (g *Gate) accept(ctx context.Context, l clientListener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // reading then ends
	defer stop()
	raw, err := l.SyscallConn()
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	pause, next := firstAcceptPause, 0
	for {
		var failed error
		taken := 0
		err := raw.Read(func(fd uintptr) bool {
			var n int
			n, failed = g.acceptAll(int(fd), l.transport, next)
			taken, next = taken+n, next+n
			return failed != nil // or wait for the next
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		case errors.Is(failed, unix.ECONNABORTED): // one that has left the queue again
			continue
		}
		if taken > 0 {
			pause = firstAcceptPause
		}
		// Clients wait in the kernel's queue meanwhile.
		g.stats.AcceptsFailed.Add(1)
		if pause == firstAcceptPause {
			g.log.WithError(failed).Warn("take connections")
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, lastAcceptPause)
	}
}

// acceptAll takes all connections that wait, and gives them to the loops in turn.
// The error is nil when there are no more.
func (g *Gate) acceptAll(listener int, t transport, next int) (taken int, err error) {
	for {
		fd, address, err := acceptSocket(listener)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return taken, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return taken, err
		}
		taken++
		of := address
		if g.cfg.ProxyFrom.Contains(address) {
			of = netip.Addr{} // whose it is, its PROXY header will say
		}
		admitted, counted := g.admit(of)
		if !admitted {
			_ = unix.Close(fd)
			continue
		}
		l := g.loops[(next+taken)%len(g.loops)]
		if !l.post(func() { l.poller.take(fd, t, address, counted) }) {
			_ = unix.Close(fd) // the gate has ended
			g.forget(of, counted, counted && of.IsValid())
		}
	}
}

func addressOf(a unix.Sockaddr) netip.Addr {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr).Unmap()
	}
	return netip.Addr{}
}

// noDelay has every connection of a listener send at once (TCP_NODELAY): the gate
// joins what it writes by itself.
func noDelay(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	})
	if err = errors.Join(err, set); err != nil {
		return fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	return nil
}
