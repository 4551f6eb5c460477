package discovery

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// openEtcd returns a client, which connects by and by.
func openEtcd(servers []string) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: servers,
		// An etcd that is gone without a word is noticed, and one that was away for long
		// is tried again soon.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		DialOptions:          []grpc.DialOption{grpc.WithConnectParams(connectParams), grpc.WithNoProxy()},
		Logger:               zap.NewNop(), // what matters is logged here
	})
	if err != nil {
		return nil, fmt.Errorf("discovery: etcd: %w", err)
	}
	return client, nil
}

// followEtcd reads the list of replicas and its changes. It has the official
// client's manager of endpoints, but not its resolver: that one ends for good when
// a watch fails, as after a compaction, and its Build waits for an etcd that is away.
func (r *replicas) followEtcd(ctx context.Context, client *clientv3.Client) {
	defer func() { _ = client.Close() }() // ends what it has started; nothing is lost
	refresh := r.cfg.Refresh
	if refresh == 0 {
		refresh = 30 * time.Second
	}
	for failures := 0; ctx.Err() == nil; {
		err := r.watchEtcd(ctx, client, refresh)
		if err == nil {
			failures = 0
			continue
		}
		if ctx.Err() != nil {
			return
		}
		failures++
		r.failed(err)
		pause(ctx, failures)
	}
}

// watchEtcd reads the list, and what changes in it until it is time to read it
// anew: an etcd whose data were lost would wait with changes until it is as far as
// it was before.
func (r *replicas) watchEtcd(ctx context.Context, client *clientv3.Client, refresh time.Duration) error {
	manager, err := endpoints.NewManager(client, r.target.key)
	if err != nil {
		return fmt.Errorf("discovery: etcd: %w", err)
	}
	// One that lost its fellows ends the watch, instead of telling nothing.
	watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	limit := time.AfterFunc(lookupTimeout, cancel)
	defer limit.Stop()
	// The watch comes first, so that no change falls between it and the list. What it
	// tells at its beginning is a list, too, but nothing where that is empty.
	updates, err := manager.NewWatchChannel(watching)
	if err != nil {
		return fmt.Errorf("discovery: watch %s in etcd: %w", r.target.key, err)
	}
	defer func() {
		cancel()
		for range updates { // whoever writes there waits for a reader
		}
	}()
	list, err := manager.List(watching)
	if err != nil {
		return fmt.Errorf("discovery: list %s in etcd: %w", r.target.key, err)
	}
	if !limit.Stop() {
		return fmt.Errorf("discovery: etcd did not answer within %v", lookupTimeout)
	}
	r.foundIn(list)
	again := time.NewTimer(refresh)
	defer again.Stop()
	for {
		select {
		case changes, ok := <-updates:
			if !ok {
				return fmt.Errorf("discovery: the watch of %s in etcd has ended", r.target.key)
			}
			for _, change := range changes {
				if change.Op == endpoints.Delete {
					delete(list, change.Key)
				} else if _, known := list[change.Key]; known || len(list) < maxReplicas {
					list[change.Key] = change.Endpoint
				}
			}
			r.foundIn(list)
		case <-again.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// foundIn takes the replicas of a list from etcd, in which anything may stand.
func (r *replicas) foundIn(list endpoints.Key2EndpointMap) {
	var found []string
	for key, endpoint := range list {
		if err := checkAddress(endpoint.Addr); err != nil {
			r.cfg.Log.Warnf("etcd has %.200q as the address of a replica at %.200q, want host:port", endpoint.Addr, key)
			continue
		}
		found = append(found, endpoint.Addr)
	}
	r.found(found)
}
