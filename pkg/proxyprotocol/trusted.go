package proxyprotocol

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/motto123/minigate/pkg/settings"
)

// Trusted are the addresses of proxies. A connection from one of them begins with
// a header, and no other's is believed. The zero value trusts nobody.
type Trusted []netip.Prefix

// Contains reports whether a connection from this address is a proxy's. It does
// not allocate.
func (t Trusted) Contains(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, prefix := range t {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// Settings declares who is trusted.
func (t *Trusted) Settings(s settings.Set) {
	s.Var(t, "proxy-from", "proxies before the gate, whose connections begin with a PROXY header, version 1 or 2 (addresses and prefixes with commas between, 10.0.0.0/8,::1, or nothing)")
}

// Set takes what String returns, for settings.
func (t *Trusted) Set(text string) error {
	var all Trusted
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			if strings.TrimSpace(text) == "" {
				break
			}
			return errList(text)
		}
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			a, err := netip.ParseAddr(part)
			if err != nil || a.Zone() != "" {
				return errList(text)
			}
			prefix = netip.PrefixFrom(a, a.BitLen())
		}
		if prefix.Addr().Is4In6() {
			return errList(text) // such addresses are looked at as IPv4
		}
		if prefix != prefix.Masked() {
			return fmt.Errorf("got %q, want %v: bits are set beyond the prefix", part, prefix.Masked())
		}
		all = append(all, prefix)
	}
	*t = all
	return nil
}

func errList(text string) error {
	return fmt.Errorf("got %q, want addresses and prefixes with commas between, such as 10.0.0.0/8,::1", text)
}

// String is the list with commas.
func (t *Trusted) String() string {
	var b strings.Builder
	for i, prefix := range *t {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(prefix.String())
	}
	return b.String()
}

// Type is for the help.
func (t *Trusted) Type() string { return "addresses" }
