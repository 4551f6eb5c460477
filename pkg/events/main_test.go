package events

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/logging/loggingtest"
	"github.com/motto123/minigate/proto/emailpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

func rabbitURL(t testing.TB) string {
	t.Helper()
	u := os.Getenv("MINIGATE_TEST_RABBITMQ")
	if u == "" {
		t.Fatal("MINIGATE_TEST_RABBITMQ is not set: the URL of a RabbitMQ, such as amqp://guest:guest@127.0.0.1:5672/")
	}
	return u
}

// config has names of its own and delays that a test can wait for.
func config(t *testing.T, url string) Config {
	t.Helper()
	c := Config{
		Topology:      bus.NewTopology("events" + strings.ToLower(rand.Text())),
		URL:           url,
		RetryDelay:    5 * time.Millisecond,
		RetryMaxDelay: 50 * time.Millisecond,
	}
	if url != "" {
		t.Cleanup(func() { remove(t, c.Topology) })
	}
	return c
}

// remove deletes what a test left on the broker.
func remove(t testing.TB, topology bus.Topology, queues ...string) {
	t.Helper()
	withChannel(t, func(channel *amqp.Channel) {
		for _, x := range topology.Exchanges() {
			_ = channel.ExchangeDelete(x, false, false)
		}
		for _, q := range append(queues, topology.DeadQueue(),
			topology.EventQueue("one", "email.verification"), topology.EventQueue("two", "email.verification")) {
			_, _ = channel.QueueDelete(q, false, false, false)
		}
	})
}

func withChannel(t testing.TB, f func(*amqp.Channel)) {
	t.Helper()
	connection, err := amqp.Dial(rabbitURL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	channel, err := connection.Channel()
	if err != nil {
		t.Fatal(err)
	}
	f(channel)
}

// backends runs a test on both brokers.
func backends(t *testing.T, f func(t *testing.T, c Config)) {
	t.Run("memory", func(t *testing.T) { f(t, config(t, "")) })
	t.Run("rabbit", func(t *testing.T) { f(t, config(t, rabbitURL(t))) })
}

// newLog is a log that the test may read, and that is shown where it fails.
func newLog(t testing.TB) (*logrus.Logger, *loggingtest.Lines) {
	t.Helper()
	logger, l := loggingtest.New()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.String())
		}
	})
	return logger, l
}

func newEvents(t *testing.T, c Config) (*Events, *loggingtest.Lines) {
	t.Helper()
	logger, l := newLog(t)
	e, err := New(c, logger)
	if err != nil {
		t.Fatal(err)
	}
	return e, l
}

// run runs e until the test ends or stop is called, which returns Run's error.
func run(t *testing.T, e *Events) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-ended:
			case <-time.After(patience):
				t.Error("Run does not end")
			}
		})
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return stop
}

func publish(t *testing.T, e *Events, m *emailpb.Verification) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := e.Publish(ctx, "email.verification", m); err != nil {
		t.Fatal(err)
	}
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// eventually polls a condition.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
		<-tick.C
	}
}

func mail(code string) *emailpb.Verification {
	return &emailpb.Verification{To: "a@example.org", Nickname: "名前😀", Code: code}
}

// cable is a proxy before the broker that a test can cut.
type cable struct {
	listener net.Listener
	to       string
	mu       sync.Mutex
	down     bool
	ends     map[net.Conn]struct{}
	wait     sync.WaitGroup
}

// newCable returns the cable and the broker's URL through it.
func newCable(t *testing.T) (*cable, string) {
	t.Helper()
	u, err := url.Parse(rabbitURL(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{listener: l, to: u.Host, ends: make(map[net.Conn]struct{})}
	c.wait.Go(c.accept)
	t.Cleanup(func() {
		_ = l.Close()
		c.cut()
		c.wait.Wait()
	})
	u.Host = l.Addr().String()
	return c, u.String()
}

func (c *cable) accept() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.to)
		c.mu.Lock()
		if err != nil || c.down {
			c.mu.Unlock()
			_ = near.Close()
			if err == nil {
				_ = far.Close()
			}
			continue
		}
		c.ends[near], c.ends[far] = struct{}{}, struct{}{}
		c.mu.Unlock()
		pipe := func(a, b net.Conn) {
			_, _ = io.Copy(a, b)
			_, _ = a.Close(), b.Close()
		}
		c.wait.Go(func() { pipe(near, far) })
		c.wait.Go(func() { pipe(far, near) })
	}
}

// cut loses all connections and takes no new ones until mend.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = true
	for end := range c.ends {
		_ = end.Close()
	}
	clear(c.ends)
}

func (c *cable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = false
}
