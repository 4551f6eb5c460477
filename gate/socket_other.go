//go:build !linux

package gate

import (
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

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
