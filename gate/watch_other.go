//go:build !linux

package gate

import (
	"errors"
	"fmt"

	errorx "github.com/panjf2000/gnet/v2/pkg/errors"
	"github.com/panjf2000/gnet/v2/pkg/netpoll"
	"github.com/panjf2000/gnet/v2/pkg/queue"
	"golang.org/x/sys/unix"
)

// watcher waits for what happens to the sockets of one loop, with kqueue through
// gnet's poller. That one knows single events only, so that each is a turn.
type watcher struct {
	poll  *netpoll.Poller
	woken func() // run's
}

func openWatcher() (*watcher, error) {
	poll, err := netpoll.OpenPoller()
	if err != nil {
		return nil, fmt.Errorf("open a poller: %w", err)
	}
	return &watcher{poll: poll}, nil
}

// add tells run's caller what happens to a socket from now on, each time once.
func (w *watcher) add(fd int) error {
	return w.poll.AddReadWrite(&netpoll.PollAttachment{FD: fd}, true)
}

// wake has run call woken, soon. It may be called by anybody, until close.
func (w *watcher) wake() error {
	return w.poll.Trigger(queue.HighPriority, func(any) error { w.woken(); return nil }, nil)
}

// stop ends run.
func (w *watcher) stop() error {
	return w.poll.Trigger(queue.HighPriority, func(any) error { return errorx.ErrEngineShutdown }, nil)
}

// run calls serve with what happens to each socket, and turned after that, and
// woken after wake, until stop.
func (w *watcher) run(serve func(fd int, what happening), woken, turned func()) error {
	w.woken = woken
	err := w.poll.Polling(func(fd int, event netpoll.IOEvent, flags netpoll.IOFlags) error {
		serve(fd, happening{
			readable: netpoll.IsReadEvent(event),
			hungUp:   flags&(unix.EV_EOF|unix.EV_ERROR) != 0,
			broken:   flags&unix.EV_ERROR != 0,
		})
		turned()
		return nil
	})
	if errors.Is(err, errorx.ErrEngineShutdown) {
		return nil
	}
	return err
}

func (w *watcher) close() error { return w.poll.Close() }
