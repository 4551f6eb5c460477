package gate

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// listeners are what the gate listens on.
type listeners struct {
	clients []clientListener
	grpc    net.Listener // nil without an address
}

type clientListener struct {
	net.Listener
	transport transport
}

// listen binds all addresses, and puts the ports that it was given into the
// configuration.
func (g *Gate) listen(ctx context.Context) (*listeners, error) {
	all := new(listeners)
	bind := func(what string, address *string) (net.Listener, error) {
		// Heartbeats say more than TCP's keep-alives do.
		l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", *address)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen for %s: %w", what, err), all.close())
		}
		*address = l.Addr().String()
		return l, nil
	}
	for _, c := range []struct {
		address   *string
		transport transport
	}{{&g.cfg.TCP, overTCP}, {&g.cfg.WebSocket, overWebSocket}} {
		if *c.address == "" {
			continue
		}
		l, err := bind(c.transport.String(), c.address)
		if err != nil {
			return nil, err
		}
		all.clients = append(all.clients, clientListener{l, c.transport})
	}
	if g.cfg.GRPC == "" {
		return all, nil
	}
	advertise := g.cfg.AdvertiseGRPC == g.cfg.GRPC
	l, err := bind("gRPC", &g.cfg.GRPC)
	if err != nil {
		return nil, err
	}
	if advertise {
		g.cfg.AdvertiseGRPC = g.cfg.GRPC
	}
	all.grpc = l
	return all, nil
}

// close closes what nobody serves yet.
func (l *listeners) close() error {
	var errs []error
	for _, c := range l.clients {
		errs = append(errs, c.Close())
	}
	if l.grpc != nil {
		errs = append(errs, l.grpc.Close())
	}
	return errors.Join(errs...)
}
