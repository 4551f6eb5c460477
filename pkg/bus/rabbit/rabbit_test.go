package rabbit

import (
	"crypto/rand"
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/bustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// broker is the URL of the broker that the tests share.
func broker(t testing.TB) string {
	t.Helper()
	url := os.Getenv("MINIGATE_TEST_RABBITMQ")
	if url == "" {
		t.Fatal("MINIGATE_TEST_RABBITMQ is not set: it names a RabbitMQ, as 'deploy/services.sh run go test ./pkg/bus/...' does")
	}
	return url
}

// own is a topology that no other test has.
func own() bus.Topology { return bus.NewTopology("test-" + rand.Text()[:10]) }

func openBus(t testing.TB, url string, topology bus.Topology) *Bus {
	t.Helper()
	b, err := Open(Config{URL: url, Topology: topology, Name: t.Name()})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

// sweep deletes what an installation has on the broker.
func sweep(t testing.TB, url string, topology bus.Topology) (removeQueue func(string)) {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	ch, err := conn.Channel()
	if err != nil {
		t.Fatalf("channel: %v", err)
	}
	removeQueue = func(queue string) {
		if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
			t.Errorf("delete queue %s: %v", queue, err)
		}
	}
	t.Cleanup(func() {
		removeQueue(topology.DeadQueue())
		for _, exchange := range topology.Exchanges() {
			if err := ch.ExchangeDelete(exchange, false, false); err != nil {
				t.Errorf("delete exchange %s: %v", exchange, err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return removeQueue
}

func open(t testing.TB) bustest.Env {
	t.Helper()
	topology := own()
	url := broker(t)
	return bustest.Env{
		Remove:   sweep(t, url, topology),
		Bus:      openBus(t, url, topology),
		Topology: topology,
		Open:     func(t testing.TB) bus.Bus { return openBus(t, url, topology) },
	}
}

func TestOpenRefusesBadConfig(t *testing.T) {
	for name, c := range map[string]struct {
		config Config
		want   string
	}{
		"no URL":      {Config{}, "URL"},
		"http":        {Config{URL: "http://guest:secret@host/"}, "URL"},
		"bad port":    {Config{URL: "amqp://guest:secret@host:port/"}, "port"},
		"bad escape":  {Config{URL: "amqp://guest:secret%zz@host/"}, "URL"},
		"white space": {Config{URL: "amqp://guest:secret @host/"}, "URL"},
		"heartbeat":   {Config{URL: "amqp://guest:secret@host/", Heartbeat: time.Millisecond}, "1ms"},
	} {
		b, err := Open(c.config)
		if err == nil {
			_ = b.Close()
			t.Errorf("%s: no error", name)
		} else if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %q: want it to speak of %q and not to show the password", name, err, c.want)
		}
	}
}

func TestConsumeRefusesPrefetch(t *testing.T) {
	b := openBus(t, "amqp://guest:guest@127.0.0.1:1/", own())
	if err := b.Consume(t.Context(), bus.Consumer{Prefetch: 65_536}); err == nil || !strings.Contains(err.Error(), "65536") {
		t.Errorf("Consume = %v with a prefetch that AMQP can not carry", err)
	}
}

func TestBus(t *testing.T) { bustest.Run(t, open) }

func BenchmarkBus(b *testing.B) { bustest.Benchmark(b, open) }
