package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
)

// RegistrationConfig says what is registered, and where. All but Log is required.
type RegistrationConfig struct {
	// Etcd are host:port of its servers.
	Etcd []string
	// Key is that of the service, as in etcd://…/key.
	Key string
	// Address is the host:port of this replica. Where its host is empty or stands
	// for all, as 0.0.0.0 does, it becomes the one by which this machine reaches etcd.
	Address string
	// Lease is how long the entry outlives a replica that can not take it away, in
	// whole seconds, 2 at least.
	Lease time.Duration
	// Log takes what becomes of it; nil is nowhere.
	Log logrus.FieldLogger
}

// Registration is the entry of this replica in etcd.
type Registration struct {
	cfg     RegistrationConfig
	failing bool // and that was logged
}

// NewRegistration checks cfg; it does not talk to etcd yet.
func NewRegistration(cfg RegistrationConfig) (*Registration, error) {
	if _, err := addresses(strings.Join(cfg.Etcd, ",")); err != nil {
		return nil, fmt.Errorf("discovery: etcd: got %q, want host:port of its servers", cfg.Etcd)
	}
	if cfg.Key = strings.Trim(cfg.Key, "/"); cfg.Key == "" {
		return nil, errors.New("discovery: register: there is no key")
	}
	_, port, err := net.SplitHostPort(cfg.Address)
	if err != nil || checkAddress(net.JoinHostPort("any", port)) != nil {
		return nil, fmt.Errorf("discovery: register: got the address %q, want host:port", cfg.Address)
	}
	if cfg.Lease < 2*time.Second || cfg.Lease%time.Second != 0 {
		return nil, fmt.Errorf("discovery: register: got a lease of %v, want whole seconds, at least 2", cfg.Lease)
	}
	if cfg.Log == nil {
		cfg.Log = silent()
	}
	return &Registration{cfg: cfg}, nil
}

// Run keeps the replica registered until ctx ends, and then takes the entry away,
// for up to 2 s. It waits for an etcd that is not there, and registers again in one
// that was away for longer than the lease or has lost its data.
func (r *Registration) Run(ctx context.Context) error {
	client, err := openEtcd(r.cfg.Etcd)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // ends what it has started; nothing is lost
	for failures := 0; ctx.Err() == nil; {
		lease, err := r.enter(ctx, client)
		if err == nil {
			failures = 0
			if err = r.hold(ctx, client, lease); ctx.Err() != nil {
				r.leave(client, lease)
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		failures++
		if !r.failing {
			r.failing = true
			r.cfg.Log.WithError(err).Warn("not registered in etcd; trying again")
		}
		pause(ctx, failures)
	}
	return nil
}

// enter writes the entry, with a lease.
func (r *Registration) enter(ctx context.Context, client *clientv3.Client) (clientv3.LeaseID, error) {
	asking, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	address, err := r.address(asking)
	if err != nil {
		return 0, err
	}
	manager, err := endpoints.NewManager(client, r.cfg.Key)
	if err != nil {
		return 0, fmt.Errorf("discovery: register: %w", err)
	}
	lease, err := client.Grant(asking, int64(r.cfg.Lease/time.Second))
	if err != nil {
		return 0, fmt.Errorf("discovery: get a lease: %w", err)
	}
	err = manager.AddEndpoint(asking, r.cfg.Key+"/"+address, endpoints.Endpoint{Addr: address}, clientv3.WithLease(lease.ID))
	if err != nil {
		return 0, fmt.Errorf("discovery: register %s: %w", address, err) // the lease ends by itself
	}
	r.failing = false
	r.cfg.Log.Infof("registered %s as %s in etcd", address, r.cfg.Key)
	return lease.ID, nil
}

// address is the one that others can call.
func (r *Registration) address(ctx context.Context) (string, error) {
	host, port, err := net.SplitHostPort(r.cfg.Address)
	if err != nil {
		return "", fmt.Errorf("discovery: register: %w", err)
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return r.cfg.Address, nil
	}
	host, err = ownAddress(ctx, r.cfg.Etcd)
	if err != nil {
		return "", fmt.Errorf("discovery: find the own address: %w", err)
	}
	return net.JoinHostPort(host, port), nil
}

// ownAddress is the one by which this machine reaches the first of servers that it
// has a way to: the name of one that is gone may be, too. Each has a part of the
// time of ctx, since a name server that says nothing would take all of it.
func ownAddress(ctx context.Context, servers []string) (host string, err error) {
	var problems []error
	for i, server := range servers {
		limit := lookupTimeout
		if end, ok := ctx.Deadline(); ok {
			limit = time.Until(end) / time.Duration(len(servers)-i+1) // the last part is for etcd
		}
		own, err := ownAddressFor(ctx, server, limit)
		if err == nil {
			return own, nil
		}
		problems = append(problems, err)
	}
	return "", errors.Join(problems...)
}

func ownAddressFor(ctx context.Context, server string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "udp", server) // sends nothing
	if err != nil {
		return "", err
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return host, err
}

var errLeaseLost = errors.New("discovery: the lease has ended")

// hold renews the lease until that fails or ctx ends.
func (r *Registration) hold(ctx context.Context, client *clientv3.Client, lease clientv3.LeaseID) error {
	renewed, err := client.KeepAlive(ctx, lease)
	if err != nil {
		return fmt.Errorf("discovery: renew a lease: %w", err)
	}
	for range renewed {
	}
	return errLeaseLost
}

// leave gives the lease back, and the entry with it.
func (r *Registration) leave(client *clientv3.Client, lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout) // what Run was given has ended
	defer cancel()
	if _, err := client.Revoke(ctx, lease); err != nil {
		r.cfg.Log.WithError(err).Warnf("not taken out of etcd; that happens by itself within %v", r.cfg.Lease)
	}
}
