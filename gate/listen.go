package gate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
)

// listeners are what the gate listens on.
type listeners struct {
	clients []clientListener
	grpc    net.Listener // nil without an address
}

type clientListener struct {
	*os.File
	transport transport
}

// listen binds all addresses, and puts the ports that it was given into the
// configuration.
func (g *Gate) listen(ctx context.Context) (*listeners, error) {
	all := new(listeners)
	bind := func(what string, address *string, config net.ListenConfig) (net.Listener, error) {
		l, err := config.Listen(ctx, "tcp", *address)
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
		// Heartbeats say more than TCP's keep-alives do.
		l, err := bind(c.transport.String(), c.address, net.ListenConfig{KeepAlive: -1, Control: noDelay})
		if err != nil {
			return nil, err
		}
		// Accepting without package net wants the descriptor, which this is a copy of.
		f, err := fileOf(l)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen for %s: %w", c.transport, err), l.Close(), all.close())
		}
		all.clients = append(all.clients, clientListener{f, c.transport})
	}
	if g.cfg.GRPC == "" {
		return all, nil
	}
	advertise := g.cfg.AdvertiseGRPC == g.cfg.GRPC
	l, err := bind("gRPC", &g.cfg.GRPC, net.ListenConfig{})
	if err != nil {
		return nil, err
	}
	if advertise {
		g.cfg.AdvertiseGRPC = g.cfg.GRPC
	}
	all.grpc = l
	return all, nil
}

// fileOf makes a file of a listener.
func fileOf(l net.Listener) (*os.File, error) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("got a %T", l)
	}
	f, err := tcp.File()
	if err != nil {
		return nil, err
	}
	return f, tcp.Close()
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
