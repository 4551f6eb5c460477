package snowflakes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

func next(t *testing.T, g *Generator) int64 {
	t.Helper()
	id, err := g.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestIDsRise(t *testing.T) {
	client, prefix := testRedis(t)
	g, _ := start(t, Config{Redis: client, Prefix: prefix})
	last := int64(0)
	for range 20000 {
		id := next(t, g)
		if id <= last {
			t.Fatalf("%d comes after %d", id, last)
		}
		last = id
	}
}

func TestNextIsSafeForConcurrentUse(t *testing.T) {
	client, prefix := testRedis(t)
	g, _ := start(t, Config{Redis: client, Prefix: prefix})
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				id, err := g.Next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[id] {
					t.Errorf("%d twice", id)
				}
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// A lease is kept longer than it lasts, which only renewals can do.
func TestLeaseIsRenewed(t *testing.T) {
	client, prefix := testRedis(t)
	lease := 300 * time.Millisecond
	g, _ := start(t, Config{Redis: client, Prefix: prefix, Lease: lease})
	node := Node(next(t, g))
	owner, err := client.Get(t.Context(), newKeys(prefix).node(node)).Result()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "four leases pass", func() bool {
		next(t, g)
		return time.Since(began) > 4*lease
	})
	if now, err := client.Get(t.Context(), newKeys(prefix).node(node)).Result(); err != nil || now != owner {
		t.Fatalf("node %d belonged to %q and now to %q, %v", node, owner, now, err)
	}
}

// A number that somebody else has now is not used, and not given back.
func TestLostLease(t *testing.T) {
	client, prefix := testRedis(t)
	names := newKeys(prefix)
	g, _ := start(t, Config{Redis: client, Prefix: prefix, Lease: 300 * time.Millisecond, nodes: 2})
	lost := Node(next(t, g))
	if err := client.Set(t.Context(), names.node(lost), "somebody", 0).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other number is leased", func() bool { return Node(next(t, g)) != lost })
	if owner := client.Get(t.Context(), names.node(lost)).Val(); owner != "somebody" {
		t.Fatalf("the number of somebody else belongs to %q", owner)
	}
}

func TestNumberIsGivenBack(t *testing.T) {
	client, prefix := testRedis(t)
	cfg := Config{Redis: client, Prefix: prefix, Lease: time.Hour, nodes: 1}
	first, stop := start(t, cfg)
	id := next(t, first)
	stop()
	if _, err := first.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Run: %v, want ErrClosed", err)
	}
	second, _ := start(t, cfg)
	if after := next(t, second); millis(after) <= millis(id) {
		t.Fatalf("the next owner made an id at %d, the former one at %d", millis(after), millis(id))
	}
}

// What the last owner's clock may have reached is out of bounds for a machine
// whose clock is behind.
func TestClockBehindTheLastOwner(t *testing.T) {
	client, prefix := testRedis(t)
	names := newKeys(prefix)
	ahead := time.Now().Add(time.Second).UnixMilli()
	if err := client.HSet(t.Context(), names.marks, "0", ahead).Err(); err != nil {
		t.Fatal(err)
	}
	g, _ := start(t, Config{Redis: client, Prefix: prefix, Wait: time.Millisecond, nodes: 1})
	_, err := g.Next(t.Context())
	if !errors.Is(err, ErrNoLease) {
		t.Fatalf("%v, want ErrNoLease", err)
	}
	g.cfg.Wait = 10 * time.Second
	if id := next(t, g); millis(id) <= ahead {
		t.Fatalf("an id at %d, the last owner's are up to %d", millis(id), ahead)
	}
}

func TestAllNumbersAreLeased(t *testing.T) {
	client, prefix := testRedis(t)
	names := newKeys(prefix)
	_, err := client.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for n := range int64(Nodes) {
			p.Set(t.Context(), names.node(n), "somebody", time.Minute)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	g, _ := start(t, Config{Redis: client, Prefix: prefix, Wait: 200 * time.Millisecond})
	if _, err := g.Next(t.Context()); !errors.Is(err, ErrNoLease) || !errors.Is(err, ErrExhausted) {
		t.Fatalf("%v, want ErrNoLease and ErrExhausted", err)
	}
	if err := client.Del(t.Context(), names.node(777)).Err(); err != nil {
		t.Fatal(err)
	}
	g.cfg.Wait = 10 * time.Second
	if node := Node(next(t, g)); node != 777 {
		t.Fatalf("node %d, only 777 was free", node)
	}
}

// relay passes a generator on to Redis until it is cut.
func relay(t *testing.T, to string) (address string, cut func()) {
	t.Helper()
	server, err := newProxy(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.close)
	return server.listener.Addr().String(), server.close
}

// Without Redis ids go on until the lease might have expired, and no longer.
func TestRedisGone(t *testing.T) {
	client, prefix := testRedis(t)
	address, cut := relay(t, client.Options().Addr)
	through := redis.NewClient(&redis.Options{Addr: address, DialTimeout: 100 * time.Millisecond, MaxRetries: -1})
	defer through.Close()
	lease := time.Second
	g, stop := start(t, Config{Redis: through, Prefix: prefix, Lease: lease, Wait: time.Millisecond})
	defer stop()
	eventually(t, "a lease", func() bool { _, err := g.Next(t.Context()); return err == nil })
	cut()
	gone := time.Now()
	last := gone
	eventually(t, "ids stop", func() bool {
		_, err := g.Next(t.Context())
		if err == nil {
			last = time.Now()
			return false
		}
		return errors.Is(err, ErrNoLease)
	})
	if took := last.Sub(gone); took > lease {
		t.Fatalf("ids were made for %v without Redis, the lease is %v", took, lease)
	}
	eventually(t, "the error tells the cause", func() bool {
		_, err := g.Next(t.Context())
		return err != nil && strings.Contains(err.Error(), "lease a node number")
	})
}

func TestNextHonoursItsContext(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	g, err := New(Config{Redis: client})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.Next(ctx); !errors.Is(err, ErrNoLease) || !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, want ErrNoLease and the context's end", err)
	}
}

// Embedded, the leases are kept by a server in the same process.
func TestInProcessRedis(t *testing.T) {
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	cfg := Config{Redis: client, nodes: 1}
	g, stop := start(t, cfg)
	id := next(t, g)
	stop()
	again, stopAgain := start(t, cfg)
	defer stopAgain()
	if next(t, again) <= id {
		t.Fatal("ids do not rise after a restart")
	}
}

func TestBadConfigurations(t *testing.T) {
	client := redis.NewClient(&redis.Options{})
	defer client.Close()
	for name, cfg := range map[string]Config{
		"without Redis": {}, "short lease": {Redis: client, Lease: time.Millisecond}, "negative wait": {Redis: client, Wait: -1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	server := miniredis.RunT(b)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	g, err := New(Config{Redis: client})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	for b.Loop() {
		if _, err := g.Next(ctx); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// proxy forwards connections to one address.
type proxy struct {
	listener net.Listener
	wg       sync.WaitGroup
	once     sync.Once

	mu    sync.Mutex
	conns []net.Conn
}

func newProxy(to string) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	p := &proxy{listener: listener}
	p.wg.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			p.wg.Go(func() { pipe(in, out) })
			p.wg.Go(func() { pipe(out, in) })
		}
	})
	return p, nil
}

func pipe(from, to net.Conn) {
	defer to.Close()
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) close() {
	p.once.Do(func() {
		p.listener.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
}
