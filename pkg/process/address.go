package process

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// reachable is by what host:port others reach who listens on address. One that
// names its host is reached there. One that listens everywhere, as in a
// container, is reached by an address of this machine: the first that is not
// only for itself, IPv4 before IPv6.
func reachable(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("address %q: want host:port: %w", address, err)
	}
	if ip, err := netip.ParseAddr(host); host != "" && (err != nil || !ip.IsUnspecified()) {
		return address, nil
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("by what address %q is reached: %w", address, err)
	}
	found, err := outward(all)
	if err != nil {
		return "", fmt.Errorf("by what address %q is reached: %w", address, err)
	}
	return net.JoinHostPort(found.String(), port), nil
}

// outward is the first address that other machines may know.
func outward(all []net.Addr) (netip.Addr, error) {
	var best netip.Addr
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		ip := prefix.Addr().Unmap()
		if ip.IsGlobalUnicast() && (!best.IsValid() || ip.Is4() && best.Is6()) {
			best = ip
		}
	}
	if !best.IsValid() {
		return best, errors.New("this machine has no address but those for itself")
	}
	return best, nil
}
