//go:build !linux

package gate

import (
	"fmt"
	"net/netip"
	"syscall"

	"github.com/panjf2000/gnet/v2/pkg/netpoll"
	"golang.org/x/sys/unix"
)

func hungUp(_ netpoll.IOEvent, flags netpoll.IOFlags) bool {
	return flags&(unix.EV_EOF|unix.EV_ERROR) != 0
}

func broken(_ netpoll.IOEvent, flags netpoll.IOFlags) bool { return flags&unix.EV_ERROR != 0 }

func acceptSocket(listener int) (int, netip.Addr, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, address, err := unix.Accept(listener)
	if err != nil {
		return -1, netip.Addr{}, fmt.Errorf("accept: %w", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return -1, netip.Addr{}, fmt.Errorf("accept: %w", err)
	}
	return fd, addressOf(address), nil
}

func readSocket(fd int, b []byte) (int, error) { return unix.Read(fd, b) }

func writeSocket(fd int, head, b []byte) (int, error) {
	if len(head) == 0 {
		return unix.Write(fd, b)
	}
	return unix.Write(fd, append(head, b...))
}
