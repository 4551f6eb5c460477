package discovery_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/discovery"
)

// shortLease is the shortest that etcd grants.
const shortLease = 2 * time.Second

func environment(t testing.TB, name, want string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: want %s, as `deploy/services.sh up` says", name, want)
	}
	return value
}

// sharedEtcd is the etcd of all tests, and a key of this test's own.
func sharedEtcd(t testing.TB) (address, key string) {
	t.Helper()
	return environment(t, "MINIGATE_TEST_ETCD", "host:port of an etcd"), fmt.Sprintf("test-%d-%d/auth", os.Getpid(), time.Now().UnixNano())
}

// client is an etcd client of the test.
func client(t testing.TB, address string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// entries is how many replicas are registered.
func entries(t testing.TB, c *clientv3.Client, key string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := c.Get(ctx, key+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return answer.Count
}

// register keeps an address registered until it is stopped.
func register(t testing.TB, etcd, key, address string, lease time.Duration, j *journal) (stop func()) {
	t.Helper()
	r, err := discovery.NewRegistration(discovery.RegistrationConfig{Etcd: []string{etcd}, Key: key, Address: address, Lease: lease, Log: j})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// childKey has the test's program be a replica with this key, to be killed.
const childKey = "MINIGATE_TEST_DISCOVERY_KEY"

func child(key string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	s := grpc.NewServer(discovery.ServerOption())
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	r, err := discovery.NewRegistration(discovery.RegistrationConfig{
		Etcd: []string{os.Getenv("MINIGATE_TEST_ETCD")}, Key: key, Address: l.Addr().String(), Lease: shortLease,
	})
	if err != nil {
		panic(err)
	}
	go func() { panic(r.Run(context.Background())) }()
	fmt.Println(l.Addr())
	panic(s.Serve(l))
}

// startChild runs a replica in a process of its own.
func startChild(t *testing.T, key string) (address string, kill func()) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), childKey+"="+key)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // says that it was killed
	})
	t.Cleanup(kill)
	if _, err := fmt.Fscanln(out, &address); err != nil {
		t.Fatal(err)
	}
	return address, kill
}

// TestKilledReplica: it is gone within its lease, nobody hears of it meanwhile, and
// a new one gets calls.
func TestKilledReplica(t *testing.T) {
	etcd, key := sharedEtcd(t)
	c := client(t, etcd)
	a, kill := startChild(t, key)
	b, _ := startChild(t, key)
	j := newJournal(t)
	conn := dial(t, "etcd://"+etcd+"/"+key, discovery.Config{Repeatable: repeatable.Repeatable, Log: j})
	shared(t, conn, a, b)

	kill()
	killed := time.Now()
	for entries(t, c, key) != 1 {
		if who := answer(t, conn); who != b {
			t.Fatalf("answered by %s", who)
		}
		// etcd looks for leases that have ended twice a second.
		if after := time.Since(killed); after > shortLease+2*time.Second {
			t.Fatalf("it is there %v after it was killed", after)
		}
	}
	j.wait(fmt.Sprintf("are [%q]", b))
	n, _ := startChild(t, key)
	shared(t, conn, b, n)
}

// TestRegistration: the entry goes with its owner, long before its lease ends, and
// one that listens everywhere is registered where it can be reached.
func TestRegistration(t *testing.T) {
	etcd, key := sharedEtcd(t)
	c := client(t, etcd)
	a, _ := serve(t, "127.0.0.1:0")
	_, port, err := net.SplitHostPort(a)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := serve(t, "127.0.0.1:0")
	everywhere := newJournal(t)
	stopA := register(t, etcd, key, "0.0.0.0:"+port, time.Hour, everywhere)
	stopB := register(t, etcd, "/"+key+"/", b, time.Hour, newJournal(t))
	everywhere.wait("registered " + a + " as")
	eventually(t, "both are registered", func() bool { return entries(t, c, key) == 2 })
	j := newJournal(t)
	conn := dial(t, "etcd://"+etcd+"/"+key, discovery.Config{Repeatable: repeatable.Repeatable, Log: j})
	shared(t, conn, a, b)
	stopA()
	if n := entries(t, c, key); n != 1 {
		t.Errorf("%d entries are left", n)
	}
	shared(t, conn, b)
	stopB()
	j.wait("there is no replica of " + key)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if who, err := ask(ctx, conn); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("without a replica: %s, %v", who, err)
	}
}

// TestManyChanges: whoever looks anew while all changes leaves nothing behind.
func TestManyChanges(t *testing.T) {
	etcd, key := sharedEtcd(t)
	c := client(t, etcd)
	a, _ := serve(t, "127.0.0.1:0")
	entry := fmt.Sprintf(`{"Op":0,"Addr":%q}`, a)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	t.Cleanup(func() { _, _ = c.Delete(context.Background(), key+"/", clientv3.WithPrefix()) })
	for i := range 4 {
		group.Go(func() {
			for ctx.Err() == nil {
				_, _ = c.Put(ctx, fmt.Sprintf("%s/%d", key, i), entry)
			}
		})
	}
	for range 10 {
		conn := dial(t, "etcd://"+etcd+"/"+key, discovery.Config{Refresh: time.Millisecond})
		for range 20 {
			answer(t, conn)
		}
	}
	cancel()
	group.Wait()
}

// TestNonsenseInEtcd: what is no address is passed over.
func TestNonsenseInEtcd(t *testing.T) {
	etcd, key := sharedEtcd(t)
	c := client(t, etcd)
	a, _ := serve(t, "127.0.0.1:0")
	for i, value := range []string{
		``, `{`, `[]`, `{"Op":0,"Addr":""}`, `{"Op":0,"Addr":"nowhere"}`, `{"Op":0,"Addr":7}`, `{"Op":0,"Addr":"unix:/tmp/x"}`, fmt.Sprintf(`{"Op":0,"Addr":%q}`, a),
	} {
		if _, err := c.Put(t.Context(), fmt.Sprintf("%s/%d", key, i), value); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _, _ = c.Delete(context.Background(), key+"/", clientv3.WithPrefix()) })
	j := newJournal(t)
	conn := dial(t, "etcd://"+etcd+"/"+key, discovery.Config{Repeatable: repeatable.Repeatable, Log: j})
	shared(t, conn, a)
	j.wait(`"nowhere" as the address of a replica`)
}

func TestNewRegistration(t *testing.T) {
	good := discovery.RegistrationConfig{Etcd: []string{"e:2379"}, Key: "minigate/auth", Address: ":7102", Lease: shortLease}
	for name, change := range map[string]func(*discovery.RegistrationConfig){
		"no etcd":     func(c *discovery.RegistrationConfig) { c.Etcd = nil },
		"bad etcd":    func(c *discovery.RegistrationConfig) { c.Etcd = []string{"e"} },
		"no key":      func(c *discovery.RegistrationConfig) { c.Key = "/" },
		"no address":  func(c *discovery.RegistrationConfig) { c.Address = "" },
		"no port":     func(c *discovery.RegistrationConfig) { c.Address = "host:0" },
		"short lease": func(c *discovery.RegistrationConfig) { c.Lease = time.Second },
		"odd lease":   func(c *discovery.RegistrationConfig) { c.Lease = 2500 * time.Millisecond },
	} {
		cfg := good
		change(&cfg)
		if _, err := discovery.NewRegistration(cfg); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := discovery.NewRegistration(good); err != nil {
		t.Error(err)
	}
}

// node is an etcd of the test's own.
type node struct {
	t       *testing.T
	ctl     string
	folder  string
	address string
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, ctl: environment(t, "MINIGATE_TEST_ETCD_CTL", "the path of deploy/services.sh"), folder: t.TempDir()}
	t.Cleanup(func() { n.do("remove") })
	n.address = n.do("start")
	return n
}

func (n *node) do(action string) string {
	n.t.Helper()
	cmd := exec.Command(n.ctl, "etcd", n.folder, action)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		n.t.Fatalf("services.sh etcd %s: %v", action, err)
	}
	return strings.TrimSpace(string(out))
}

// forget removes all that the etcd knows, while it is down.
func (n *node) forget() {
	n.t.Helper()
	data, err := os.ReadFile(filepath.Join(n.folder, "etcd"))
	if err != nil {
		n.t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(strings.TrimSpace(string(data)), "etcd")); err != nil {
		n.t.Fatal(err)
	}
}

// TestEtcdRestarted: calls go on while etcd is away, for longer than the lease,
// and afterwards all is as before: also where it has lost its data.
func TestEtcdRestarted(t *testing.T) {
	for name, forget := range map[string]bool{"with its data": false, "without its data": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			etcd := newNode(t)
			const key = "minigate/auth"
			a, _ := serve(t, "127.0.0.1:0")
			b, _ := serve(t, "127.0.0.1:0")
			registered, j := newJournal(t), newJournal(t)
			register(t, etcd.address, key, a, shortLease, registered)
			conn := dial(t, "etcd://"+etcd.address+"/"+key, discovery.Config{Repeatable: repeatable.Repeatable, Log: j, Refresh: 500 * time.Millisecond})
			shared(t, conn, a)

			etcd.do("kill")
			registered.wait("not registered in etcd")
			j.wait("can not be looked for")
			shared(t, conn, a)
			if forget {
				etcd.forget()
			}
			etcd.do("start")
			j.wait("can be looked for again")
			eventually(t, "it is registered again", func() bool { return registered.count("registered "+a) == 2 })
			shared(t, conn, a)
			stopB := register(t, etcd.address, key, b, time.Hour, newJournal(t))
			shared(t, conn, a, b)
			stopB()
			shared(t, conn, a)
		})
	}
}

// TestEtcdLate: replicas and who calls them may start before etcd does.
func TestEtcdLate(t *testing.T) {
	t.Parallel()
	etcd := newNode(t)
	etcd.do("kill")
	a, _ := serve(t, "127.0.0.1:0")
	j := newJournal(t)
	register(t, etcd.address, "minigate/auth", a, shortLease, j)
	conn := dial(t, "etcd://"+etcd.address+"/minigate/auth", repeatable)
	conn.Connect()
	j.wait("not registered in etcd")
	etcd.do("start")
	shared(t, conn, a)
}

// TestEtcdAwayAtTheEnd: nobody waits long for an etcd that is gone.
func TestEtcdAwayAtTheEnd(t *testing.T) {
	t.Parallel()
	etcd := newNode(t)
	j := newJournal(t)
	stop := register(t, etcd.address, "minigate/auth", "127.0.0.1:1", time.Hour, j)
	j.wait("registered 127.0.0.1:1")
	etcd.do("kill")
	began := time.Now()
	stop()
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("that took %v", took)
	}
	j.wait("not taken out of etcd; that happens by itself within 1h0m0s")
}
