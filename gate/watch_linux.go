package gate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
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
	bell  int             // an eventfd, rung by wake and stop

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
	if w.bell, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("open an eventfd: %w", err), w.epoll.Close())
	}
	err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, w.bell, &unix.EpollEvent{Fd: int32(w.bell), Events: unix.EPOLLIN})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch an eventfd: %w", err), w.close())
	}
	return w, nil
}

// add tells run's caller what happens to a socket from now on, each time once.
func (w *watcher) add(fd int) error {
	return unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, fd,
		&unix.EpollEvent{Fd: int32(fd), Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET})
}

// wake has run call woken, soon. It may be called by anybody, until close.
func (w *watcher) wake() error { return w.ring() }

// stop ends run.
func (w *watcher) stop() error {
	w.stopped.Store(true)
	return w.ring()
}

func (w *watcher) ring() error {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	for {
		_, err := unix.Write(w.bell, one[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil, errors.Is(err, unix.EAGAIN): // it rings as it never was heard
			return nil
		default:
			return fmt.Errorf("wake a loop: %w", err)
		}
	}
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
		if err := errors.Join(w.ready.Read(look), failed); err != nil {
			return fmt.Errorf("wait for connections: %w", err)
		}
		rung := false
		for i := range events[:n] {
			e := &events[i]
			if int(e.Fd) == w.bell {
				rung = true
				continue
			}
			serve(int(e.Fd), happening{
				readable: e.Events&(unix.EPOLLIN|unix.EPOLLPRI) != 0,
				hungUp:   e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0,
				broken:   e.Events&(unix.EPOLLHUP|unix.EPOLLERR) != 0,
			})
		}
		if rung {
			var count [8]byte
			_, _ = unix.Read(w.bell, count[:]) // before it is answered: who comes later rings again
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

func (w *watcher) close() error { return errors.Join(unix.Close(w.bell), w.epoll.Close()) }
