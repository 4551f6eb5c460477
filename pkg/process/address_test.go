package process

import (
	"net"
	"net/netip"
	"testing"
)

func TestReachable(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:7101", "gate-1:7101", "[fd00::1]:7101"} {
		if got, err := reachable(address); got != address || err != nil {
			t.Errorf("%s: got %s, %v; want the same", address, got, err)
		}
	}
	for _, address := range []string{":7101", "0.0.0.0:7101", "[::]:7101"} {
		got, err := reachable(address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if ap, err := netip.ParseAddrPort(got); err != nil || ap.Port() != 7101 || !ap.Addr().IsGlobalUnicast() {
			t.Errorf("%s: got %s, %v; want an address of this machine that others may know", address, got, err)
		}
	}
	if got, err := reachable("nonsense"); err == nil {
		t.Errorf("got %s, want an error", got)
	}
}

func TestOutward(t *testing.T) {
	t.Parallel()
	network := func(text string) net.Addr {
		ip, n, err := net.ParseCIDR(text)
		if err != nil {
			t.Fatal(err)
		}
		return &net.IPNet{IP: ip, Mask: n.Mask}
	}
	for name, c := range map[string]struct {
		all  []string
		want string
	}{
		"a container's":       {[]string{"127.0.0.1/8", "172.18.0.5/16"}, "172.18.0.5"},
		"the first of two":    {[]string{"127.0.0.1/8", "::1/128", "10.0.0.2/8", "172.18.0.5/16"}, "10.0.0.2"},
		"IPv4 before IPv6":    {[]string{"fd00::2/64", "10.0.0.2/8"}, "10.0.0.2"},
		"IPv6 alone":          {[]string{"::1/128", "fe80::1/64", "fd00::2/64", "fd00::3/64"}, "fd00::2"},
		"nothing for others":  {[]string{"127.0.0.1/8", "::1/128", "fe80::1/64", "169.254.1.1/16"}, ""},
		"no address whatever": {nil, ""},
	} {
		var all []net.Addr
		for _, text := range c.all {
			all = append(all, network(text))
		}
		got, err := outward(all)
		if (err != nil) != (c.want == "") || err == nil && got.String() != c.want {
			t.Errorf("%s: got %v, %v; want %q", name, got, err, c.want)
		}
	}
}
