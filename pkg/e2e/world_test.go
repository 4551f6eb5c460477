package e2e_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"

	"github.com/motto123/minigate/pkg/bus"
)

// world is an installation of a test's own: a prefix, a database, and the
// processes that share them.
type world struct {
	t        *testing.T
	topology bus.Topology

	rabbitmq, redis, database string // as the settings have them
	authAddresses             []string
	processes                 []*process
}

// newWorld has the shared services, and a database that db init made.
func newWorld(t *testing.T) *world {
	t.Helper()
	name := fmt.Sprintf("minigate_e2e_%x", rand.Uint64())
	w := &world{
		t: t, topology: bus.NewTopology(name), rabbitmq: address(t, "RABBITMQ"), redis: address(t, "REDIS"),
		database: address(t, "MYSQL") + name, authAddresses: []string{freePort(t), freePort(t)},
	}
	t.Cleanup(func() {
		forgetDatabase(t, name)
		forgetRedis(t, name)
		forgetBroker(t, bus.NewTopology(name))
	})
	command(t, w.env(), 0, "db", "init")
	return w
}

// address is where a service is that the tests were given.
func address(t *testing.T, name string) string {
	t.Helper()
	a := os.Getenv("MINIGATE_TEST_" + name)
	if a == "" {
		t.Fatalf("MINIGATE_TEST_%s is not set: deploy/services.sh starts the services and says where they are", name)
	}
	return a
}

// env is the environment of all of the world's processes.
func (w *world) env() []string {
	return []string{
		"MINIGATE_PREFIX=" + w.topology.Prefix(), "MINIGATE_RABBITMQ=" + w.rabbitmq, "MINIGATE_REDIS=" + w.redis,
		"MINIGATE_DATABASE=" + w.database, "MINIGATE_AUTH_ADDRESS=" + strings.Join(w.authAddresses, ","),
		"MINIGATE_SMTP=" + address(w.t, "SMTP"), "MINIGATE_SMTP_TLS=none",
		"MINIGATE_ADMIN=", // not even on the desk's ten ports
	}
}

// gate is a process with two addresses, as the client takes them.
type gate struct {
	*process
	tcp, ws string
}

// gate starts a gate, and waits until clients can connect.
func (w *world) gate(args ...string) gate {
	w.t.Helper()
	tcp, ws, grpc := freePort(w.t), freePort(w.t), freePort(w.t)
	args = append([]string{"gate", "--gate-tcp", tcp, "--gate-websocket", ws, "--gate-grpc", grpc}, args...)
	g := gate{w.start(args...), "tcp://" + tcp, "ws://" + ws + "/ws"}
	g.says(w.t, `gate is ready.*`+tcp)
	return g
}

// worker starts a worker, and does not wait for it.
func (w *world) worker(args ...string) *process {
	w.t.Helper()
	return w.start(append([]string{"worker"}, args...)...)
}

// auth starts the auth worker on one of the two addresses that all know.
func (w *world) auth(i int) *process {
	w.t.Helper()
	return w.worker("auth", "--auth-grpc", w.authAddresses[i])
}

func (w *world) start(args ...string) *process {
	w.t.Helper()
	p := start(w.t, w.env(), built.binary, args...)
	w.processes = append(w.processes, p)
	return p
}

// consumed waits until so many replicas take a service's requests.
func (w *world) consumed(service string, replicas int) {
	w.t.Helper()
	w.queueHas(w.topology.WorkerQueue(service), replicas)
}

// mailed waits until the e-mail worker takes its jobs.
func (w *world) mailed() {
	w.t.Helper()
	w.queueHas(w.topology.EventQueue("email", "email.verification"), 1)
	w.queueHas(w.topology.EventQueue("email", "email.password_reset"), 1)
}

func (w *world) queueHas(queue string, consumers int) {
	w.t.Helper()
	c, err := amqp.Dial(w.rabbitmq)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	eventually(w.t, fmt.Sprintf("%d consumers of %s or more", consumers, queue), func() bool {
		channel, err := c.Channel()
		if err != nil {
			w.t.Fatal(err)
		}
		q, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err != nil {
			return false // it is not there yet; the channel is closed
		}
		return channel.Close() == nil && q.Consumers >= consumers
	})
}

// stop ends everything, as an operator would; cleanup would do the same, one
// after the other.
func (w *world) stop() {
	w.t.Helper()
	var all sync.WaitGroup
	for _, p := range w.processes {
		if !p.settled {
			p.signal(w.t, syscall.SIGTERM)
			all.Go(func() { p.ends(w.t, 0) })
		}
	}
	all.Wait()
}

func forgetDatabase(t *testing.T, name string) {
	db, err := sql.Open("mysql", address(t, "MYSQL"))
	if err == nil {
		_, err = db.ExecContext(context.Background(), "DROP DATABASE IF EXISTS "+name)
		_ = db.Close()
	}
	if err != nil {
		t.Errorf("remove the database: %v", err)
	}
}

func forgetRedis(t *testing.T, prefix string) {
	ctx := context.Background()
	c := redis.NewClient(&redis.Options{Addr: address(t, "REDIS")})
	defer func() { _ = c.Close() }()
	all := c.Scan(ctx, 0, prefix+"*", 1000).Iterator()
	for all.Next(ctx) {
		c.Del(ctx, all.Val())
	}
	if err := all.Err(); err != nil {
		t.Errorf("remove what is in Redis: %v", err)
	}
}

// forgetBroker removes what the world made there, except for queues that expire.
func forgetBroker(t *testing.T, topology bus.Topology) {
	c, err := amqp.Dial(address(t, "RABBITMQ"))
	if err != nil {
		t.Errorf("remove queues: %v", err)
		return
	}
	defer func() { _ = c.Close() }()
	channel, err := c.Channel()
	if err != nil {
		t.Errorf("remove queues: %v", err)
		return
	}
	queues := []string{
		topology.TapeStream(), topology.DeadQueue(), topology.EventQueue("auth", "session.closed"),
		topology.EventQueue("email", "email.verification"), topology.EventQueue("email", "email.password_reset"),
	}
	for _, service := range []string{"auth", "chat", "email", "echo", "greet"} {
		queues = append(queues, topology.WorkerQueue(service))
	}
	for _, q := range queues {
		_, _ = channel.QueueDelete(q, false, false, false)
	}
	for _, x := range topology.Exchanges() {
		_ = channel.ExchangeDelete(x, false, false)
	}
}

// freePort returns an address that nothing listens on. Its port is above those of
// deploy/services.sh, whose brokers come back to theirs, and below those that the
// kernel gives to clients, so that it stays free until it is used.
func freePort(t *testing.T) string {
	t.Helper()
	for range 10_000 {
		a := fmt.Sprintf("127.0.0.1:%d", 31744+rand.IntN(1024))
		l, err := net.Listen("tcp", a)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, taken := takenPorts.LoadOrStore(a, true); !taken {
			return a
		}
	}
	t.Fatal("no port is free")
	return ""
}

// takenPorts keeps two tests from being given the same port.
var takenPorts sync.Map

// broker is a RabbitMQ of a test's own.
type broker struct {
	t   *testing.T
	dir string
	url string
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	b := &broker{t: t, dir: t.TempDir()}
	t.Cleanup(func() { b.do("remove") })
	b.url = strings.TrimSpace(b.do("start"))
	return b
}

// do is start, stop, kill or restart.
func (b *broker) do(action string) string {
	b.t.Helper()
	// Not the test's own context, which has ended when the node is removed.
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, address(b.t, "RABBITMQ_CTL"), "rabbit", b.dir, action)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		b.t.Errorf("%s the broker: %v\n%s", action, err, said.String())
	}
	return string(out)
}
