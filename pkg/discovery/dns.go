package discovery

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// followDNS asks for all addresses of the name, again and again: gRPC's own
// resolver asks only when a replica fails, and so would never find one that was
// added. It asks at once, but not more often than every second, when one does.
func (r *replicas) followDNS(ctx context.Context) {
	refresh := r.cfg.Refresh
	if refresh == 0 {
		refresh = 5 * time.Second
	}
	names := &net.Resolver{PreferGo: true}
	if server := r.target.server; server != "" {
		names.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server)
		}
	}
	for failures := 0; ; {
		list, err := r.lookup(ctx, names)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			failures++
			r.failed(err)
			if !pause(ctx, failures) {
				return
			}
			continue
		}
		failures = 0
		r.found(list)
		if !sleep(ctx, min(lookupInterval, refresh)) {
			return
		}
		select {
		case <-time.After(max(refresh-lookupInterval, 0)):
		case <-r.now:
		case <-ctx.Done():
			return
		}
	}
}

// lookup asks once. Of a name with addresses of both kinds the older ones are
// taken: a replica has one of each, and would get twice its share.
func (r *replicas) lookup(ctx context.Context, names *net.Resolver) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var four, six []string
	all, err := names.LookupNetIP(ctx, "ip", r.target.host)
	if err != nil {
		return nil, fmt.Errorf("discovery: look up %s: %w", r.target.host, err)
	}
	for _, ip := range all {
		address := net.JoinHostPort(ip.Unmap().String(), r.target.port)
		if is4(ip) {
			four = append(four, address)
		} else {
			six = append(six, address)
		}
	}
	if len(four) > 0 {
		return four, nil
	}
	return six, nil
}

func is4(ip netip.Addr) bool { return ip.Unmap().Is4() }
