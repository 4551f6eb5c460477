//go:build !linux

package load

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// newSocket makes a socket that does not block.
func newSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return -1, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	return fd, nil
}

// bind chooses the address that a socket connects from.
func bind(fd int, address [4]byte) error {
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Addr: address}))
}
