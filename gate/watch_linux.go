package gate

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watcher waits for what happens to the sockets of one loop, with epoll. It tells
// when it has told all that has happened at once, so that what a loop publishes and
// writes goes out together: gnet's poller only knows single events. While there is
// nothing it waits in the runtime's own poller, as any other goroutine does, rather
// than hold a thread in a system call.
type watcher struct {
	epoll *os.File
	ready syscall.RawConn // of epoll
	fd    int             // of epoll

	rung    atomic.Bool // by wake and stop, and not heard yet
	stopped atomic.Bool
}

// eventsOfOneTurn bounds what is served before what that left is sent.
const eventsOfOneTurn = 256

func openWatcher() (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open an epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or os.NewFile does not poll it
		return nil, errors.Join(fmt.Errorf("open an epoll: %w", err), unix.Close(fd))
	}
	w := &watcher{epoll: os.NewFile(uintptr(fd), "epoll"), fd: fd}
	if w.ready, err = w.epoll.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("open an epoll: %w", err), w.epoll.Close())
	}
	return w, nil
}

// add tells run's caller what happens to a socket from now on, each time once.
func (w *watcher) add(fd int) error {
	return unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, fd,
		&unix.EpollEvent{Fd: int32(fd), Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET})
}

// wake has run call woken, soon. It may be called by anybody, until close.
//
// It rings by a deadline that has passed: the runtime then makes the goroutine that
// waits runnable itself, without the system calls and the detour through the kernel
// that an eventfd takes.
func (w *watcher) wake() error {
	if w.rung.Swap(true) {
		return nil
	}
	if err := w.epoll.SetReadDeadline(passed); err != nil {
		return fmt.Errorf("wake a loop: %w", err)
	}
	return nil
}

// passed is a time that is over.
var passed = time.Unix(1, 0)

// stop ends run.
func (w *watcher) stop() error {
	w.stopped.Store(true)
	return w.wake()
}

// hear has the next wake ring again. What was asked for before is seen by who looks
// after it.
func (w *watcher) hear() error {
	err := w.epoll.SetReadDeadline(time.Time{})
	w.rung.Store(false)
	return err
}

// run calls serve with what happens to each socket, woken after wake, and turned
// when all of that was served that has happened at once, until stop.
func (w *watcher) run(serve func(fd int, what happening), woken, turned func()) error {
	events := make([]unix.EpollEvent, eventsOfOneTurn)
	var n int
	var failed error
	look := func(uintptr) bool {
		n, failed = w.happened(events)
		return n > 0 || failed != nil // or wait
	}
	for {
		err := w.ready.Read(look)
		rung := errors.Is(err, os.ErrDeadlineExceeded)
		if rung {
			err = w.hear()
			look(0)
		}
		if err = errors.Join(err, failed); err != nil {
			return fmt.Errorf("wait for connections: %w", err)
		}
		for i := range events[:n] {
			e := &events[i]
			serve(int(e.Fd), happening{
				readable: e.Events&(unix.EPOLLIN|unix.EPOLLPRI) != 0,
				hungUp:   e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0,
				broken:   e.Events&(unix.EPOLLHUP|unix.EPOLLERR) != 0,
			})
		}
		if rung {
			if w.stopped.Load() {
				return nil
			}
			woken()
		}
		turned()
		if n == len(events) { // and there may be more: others have their turn before
			runtime.Gosched()
		}
	}
}

// happened takes what has happened, without waiting: as a raw system call, since one
// that can not block need not tell the scheduler.
func (w *watcher) happened(events []unix.EpollEvent) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.fd),
			uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

func (w *watcher) close() error { return w.epoll.Close() }
