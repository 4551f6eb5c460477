package gate

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// acceptSocket takes one connection of a listener. Its descriptor does not block,
// and has the listener's TCP_NODELAY.
func acceptSocket(listener int) (int, netip.Addr, error) {
	fd, address, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return -1, netip.Addr{}, fmt.Errorf("accept: %w", err)
	}
	return fd, addressOf(address), nil
}

func readSocket(fd int, b []byte) (int, error) { return unix.Read(fd, b) }

// writeSocket writes head and b in one system call.
func writeSocket(fd int, head, b []byte) (int, error) {
	if len(head) == 0 {
		return unix.Write(fd, b)
	}
	return unix.Writev(fd, [][]byte{head, b})
}
