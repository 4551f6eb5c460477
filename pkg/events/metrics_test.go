package events

import (
	"context"
	"errors"
	"testing"

	"github.com/motto123/minigate/pkg/metrics/metricstest"
	"github.com/motto123/minigate/proto/emailpb"
)

func TestMetrics(t *testing.T) {
	backends(t, func(t *testing.T, c Config) {
		e, _ := newEvents(t, c)
		calls := make(chan string, 10)
		failures := 1
		Subscribe(e, "one", "email.verification", func(_ context.Context, in *emailpb.Verification) error {
			calls <- in.GetCode()
			switch {
			case in.GetCode() == "poison":
				return Permanent(errors.New("550 no such user"))
			case failures > 0:
				failures--
				return errors.New("451 try later")
			}
			return nil
		}, Concurrency(1))
		if e.Health() == nil {
			t.Error("it is healthy before it runs")
		}
		metricstest.Expect(t, e,
			`minigate_events_published_total{outcome="confirmed"} 0`,
			`minigate_events_dead_letters_total{event="email.verification",group="one"} 0`,
			`minigate_events_connected{connection="publishing"} 0`,
			`minigate_events_connected{connection="consuming"} 0`,
		)
		stop := run(t, e)
		publish(t, e, mail("good"))
		receive(t, calls)
		receive(t, calls)
		publish(t, e, mail("poison"))
		receive(t, calls)
		s := e.subscriptions[0].counts
		eventually(t, "a dead letter", func() bool { return s.dead.Load() == 1 && s.handled.Load() == 1 })
		eventually(t, "it is healthy", func() bool { return e.Health() == nil })
		metricstest.Expect(t, e,
			`minigate_events_published_total{outcome="confirmed"} 2`,
			`minigate_events_published_total{outcome="unavailable"} 0`,
			`minigate_events_handled_total{event="email.verification",group="one"} 1`,
			`minigate_events_failures_total{event="email.verification",group="one"} 2`,
			`minigate_events_retries_total{event="email.verification",group="one"} 1`,
			`minigate_events_dead_letters_total{event="email.verification",group="one"} 1`,
			`minigate_events_panics_total{event="email.verification",group="one"} 0`,
			`minigate_events_handler_seconds_count{event="email.verification",group="one"} 3`,
			`minigate_events_in_flight{event="email.verification",group="one"} 0`,
			`minigate_events_connected{connection="publishing"} 1`,
			`minigate_events_connected{connection="consuming"} 1`,
		)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if err := e.Publish(t.Context(), "email.verification", mail("late")); err == nil {
			t.Error("it publishes after its end")
		}
		metricstest.Expect(t, e,
			`minigate_events_published_total{outcome="closed"} 1`,
			`minigate_events_connected{connection="publishing"} 0`,
			`minigate_events_connected{connection="consuming"} 0`,
		)
	})
}
