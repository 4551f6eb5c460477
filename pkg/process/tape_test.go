package process

import (
	"context"
	"crypto/rand"
	"io"
	"os"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/spf13/pflag"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/logging"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/settings"
)

// What --tape-size and --tape-age say are the bounds of the stream: the broker takes a
// declaration with these, and refuses all others.
func TestBoundsOfTheTapeReachTheStream(t *testing.T) {
	url := os.Getenv("MINIGATE_TEST_RABBITMQ")
	if url == "" {
		t.Fatal("MINIGATE_TEST_RABBITMQ is not set: want amqp://user:password@host:port/")
	}
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for name, c := range map[string]struct {
		args []string
		size int64
		age  string
	}{
		"set":   {[]string{"--tape-size", "3MiB", "--tape-age", "90m"}, 3 << 20, "5400s"},
		"unset": {nil, 1 << 30, "86400s"},
	} {
		t.Run(name, func(t *testing.T) {
			topology := bus.NewTopology("test-process-" + rand.Text()[:10])
			t.Cleanup(func() {
				channel, err := conn.Channel()
				if err == nil {
					_, err = channel.QueueDelete(topology.TapeStream(), false, false, false)
				}
				if err != nil {
					t.Error(err)
				}
			})
			cfg, set := new(Config), settings.Set{FlagSet: pflag.NewFlagSet("worker", pflag.ContinueOnError)}
			cfg.ServiceSettings(set)
			if err := set.Parse(append(c.args, "--rabbitmq", url)); err != nil {
				t.Fatal(err)
			}
			log, err := logging.New(logging.Config{Level: "error", Screen: io.Discard})
			if err != nil {
				t.Fatal(err)
			}
			p := &process{Config: cfg, log: log, topology: topology}
			p.Parts = parts.New()
			if err := p.recordStream(); err != nil {
				t.Fatal(err)
			}
			declare := func(size int64, age string) error {
				channel, err := conn.Channel()
				if err != nil {
					t.Fatal(err)
				}
				_, err = channel.QueueDeclare(topology.TapeStream(), true, false, false, false, amqp.Table{
					"x-queue-type": "stream", "x-max-length-bytes": size, "x-max-age": age, "x-stream-max-segment-size-bytes": size / 8,
				})
				if err == nil {
					err = channel.Close()
				}
				return err
			}
			there := func() bool {
				channel, err := conn.Channel()
				if err != nil {
					t.Fatal(err)
				}
				_, err = channel.QueueDeclarePassive(topology.TapeStream(), true, false, false, false, nil)
				if err == nil {
					err = channel.Close()
				}
				return err == nil
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for !there() {
				select {
				case <-ctx.Done():
					t.Fatal("there is no stream")
				case <-time.After(10 * time.Millisecond):
				}
			}
			if err := declare(c.size, c.age); err != nil {
				t.Errorf("the stream has other bounds: %v", err)
			}
			if declare(2*c.size, c.age) == nil || declare(c.size, "60s") == nil {
				t.Error("any bounds would be taken")
			}
			p.Parts.Stop()
			if err := p.Parts.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}
