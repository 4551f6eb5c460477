//go:build !linux

package load

import (
	"os"

	"golang.org/x/sys/unix"
)

// bind chooses the address that a socket connects from.
func bind(fd int, address [4]byte) error {
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Addr: address}))
}
