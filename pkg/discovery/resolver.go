package discovery

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/resolver"
)

// scheme is of no name outside: each connection has a builder of its own.
const scheme = "replicas"

// builder builds the resolver of one connection.
type builder struct {
	target target
	cfg    Config
}

func (b builder) Scheme() string { return scheme }

// Build starts looking, and returns at once: whoever is asked may be away.
func (b builder) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &replicas{target: b.target, cfg: b.cfg, cc: cc, cancel: cancel, now: make(chan struct{}, 1)}
	switch {
	case b.target.key != "":
		client, err := openEtcd(b.target.etcd)
		if err != nil {
			cancel()
			return nil, err
		}
		r.wait.Go(func() { r.followEtcd(ctx, client) })
	case b.target.host != "":
		r.wait.Go(func() { r.followDNS(ctx) })
	default:
		r.found(b.target.list)
	}
	return r, nil
}

// replicas tells a connection what replicas there are.
type replicas struct {
	target target
	cfg    Config
	cc     resolver.ClientConn
	cancel context.CancelFunc
	wait   sync.WaitGroup
	now    chan struct{} // holds one token: gRPC wants to know anew

	// Of who follows.
	known   []string
	told    bool // known was told
	failing bool // and that was logged
}

// ResolveNow is called when a replica can not be reached.
func (r *replicas) ResolveNow(resolver.ResolveNowOptions) {
	select {
	case r.now <- struct{}{}:
	default:
	}
}

// Close ends looking, and waits for that.
func (r *replicas) Close() {
	r.cancel()
	r.wait.Wait()
}

// found takes all replicas that there are.
func (r *replicas) found(list []string) {
	if r.failing {
		r.failing = false
		r.cfg.Log.Infof("the replicas of %s can be looked for again", r.target.name())
	}
	list = slices.Clone(list)
	slices.Sort(list)
	list = slices.Compact(list)
	list = list[:min(len(list), maxReplicas)]
	if r.told && slices.Equal(list, r.known) {
		return
	}
	r.known, r.told = list, true
	var state resolver.State
	for _, address := range list {
		name := r.target.host
		if name == "" {
			name, _, _ = net.SplitHostPort(address) // it was looked at before
		}
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{
			Addresses: []resolver.Address{{Addr: address, ServerName: name}},
		})
	}
	_ = r.cc.UpdateState(state) // says of an empty list that it is bad, and takes it
	switch {
	case len(list) == 0:
		r.cfg.Log.Warnf("there is no replica of %s", r.target.name())
	case len(r.target.list) == 0: // what is configured needs not be told
		r.cfg.Log.Infof("the replicas of %s are %q", r.target.name(), list)
	}
}

// failed takes note that it is not known what replicas there are. Those that were
// found before are still called: most likely they are there.
func (r *replicas) failed(err error) {
	if !r.failing {
		r.failing = true
		r.cfg.Log.WithError(err).Warnf("the replicas of %s can not be looked for; trying again", r.target.name())
	}
	r.cc.ReportError(err)
}

// pause waits before an attempt that follows so many failures, and reports whether
// to go on.
func pause(ctx context.Context, failures int) bool {
	bound := min(firstWait<<min(failures, 10), longestWait)
	return sleep(ctx, bound/2+rand.N(bound/2))
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func silent() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}
