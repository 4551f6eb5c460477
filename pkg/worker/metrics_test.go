package worker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/metrics/metricstest"
	"github.com/motto123/minigate/proto/authpb"
)

func TestMetricsByRoute(t *testing.T) {
	b := newMem(t)
	w := New("auth", Config{Bus: b, Log: quiet()})
	Handle(w, "auth.find", find)
	Handle(w, "auth.fail", func(context.Context, *authpb.FindRequest) (*authpb.FindResponse, error) {
		return nil, status.Error(codes.NotFound, "nobody")
	})
	Handle(w, "auth.panic", func(context.Context, *authpb.FindRequest) (*authpb.FindResponse, error) { panic("on purpose") })
	HandleAck(w, "auth.pushed", func(context.Context, uint64) error { return nil })
	stop := run(t, w)
	g := newGate(t, b, bus.NewTopology(""), "g1")
	for _, route := range []string{"auth.find", "auth.find", "auth.fail", "auth.panic"} {
		g.call(route, Text, "bob")
	}
	before := metricstest.Series(t, w)
	for i := range 20 { // a client makes names up
		g.call(fmt.Sprintf("auth.made%d", i), Text, "bob")
	}
	if after := metricstest.Series(t, w); after != before+1 { // code NOT_FOUND of the others
		t.Errorf("%d series, %d before clients made up routes", after, before)
	}
	g.send("auth.pushed", bus.Request{Session: 1, User: 1, Type: uint8(Ack), ID: 7})
	g.send("auth.find", bus.Request{Session: 1, Sequence: 1, User: 1, Deadline: time.Now().Add(-time.Second).UnixMilli()})
	eventually(t, "the last two", func() bool { return w.Stats().Handled == 26 })
	metricstest.Expect(t, w,
		`minigate_worker_requests_total{code="OK",route="auth.find",service="auth"} 2`,
		`minigate_worker_requests_total{code="DEADLINE_EXCEEDED",route="auth.find",service="auth"} 1`,
		`minigate_worker_requests_total{code="NOT_FOUND",route="auth.fail",service="auth"} 1`,
		`minigate_worker_requests_total{code="INTERNAL",route="auth.panic",service="auth"} 1`,
		`minigate_worker_requests_total{code="OK",route="auth.pushed",service="auth"} 1`,
		`minigate_worker_requests_total{code="NOT_FOUND",route="other",service="auth"} 20`,
		`minigate_worker_handler_seconds_count{route="auth.find",service="auth"} 2`,
		`minigate_worker_handler_seconds_count{route="auth.panic",service="auth"} 1`,
		`minigate_worker_handler_seconds_count{route="other",service="auth"} 20`,
		`minigate_worker_transit_seconds_count{route="auth.find",service="auth"} 3`,
		`minigate_worker_transit_seconds_count{route="auth.pushed",service="auth"} 1`,
		`minigate_worker_transit_seconds_count{route="other",service="auth"} 20`,
		`minigate_worker_lane_seconds_count{service="auth"} 26`,
		`minigate_worker_expired_total{service="auth"} 1`,
		`minigate_worker_panics_total{service="auth"} 1`,
		`minigate_worker_malformed_total{service="auth"} 0`,
		`minigate_worker_consuming{service="auth"} 1`,
		`minigate_worker_outbox_bytes{service="auth"} 0`,
		`minigate_worker_waiting{service="auth"} 0`,
	)
	eventually(t, "the last confirm", func() bool { return w.Stats().Replies == 24 })
	metricstest.Expect(t, w, `minigate_worker_replies_total{outcome="confirmed",service="auth"} 24`)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	metricstest.Expect(t, w, `minigate_worker_consuming{service="auth"} 0`)
}

// What takes long is in the histograms in the right place: the handler's time is
// not the lane's.
func TestLaneAndHandlerAreApart(t *testing.T) {
	const long = 30 * time.Millisecond
	b := newMem(t)
	w, _ := service(t, b, "auth", func(w *Worker) {
		Handle(w, "auth.slow", func(ctx context.Context, in *authpb.FindRequest) (*authpb.FindResponse, error) {
			time.Sleep(long) // it is what the handler does
			return find(ctx, in)
		})
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	one := bus.Request{Session: 1, User: 42, DataType: uint8(Text), Data: []byte("bob")}
	first, second := one, one
	first.Sequence, second.Sequence = 1, 2
	g.send("auth.slow", first, second)
	g.reply()
	g.reply()
	metricstest.Expect(t, w,
		// The second waited in its lane for as long as the first took.
		`minigate_worker_lane_seconds_bucket{service="auth",le="0.025"} 1`,
		`minigate_worker_lane_seconds_bucket{service="auth",le="+Inf"} 2`,
		`minigate_worker_handler_seconds_bucket{route="auth.slow",service="auth",le="0.025"} 0`,
		`minigate_worker_handler_seconds_bucket{route="auth.slow",service="auth",le="+Inf"} 2`,
	)
}

// A worker is live while its handlers begin, however long they take, and is not
// where none has for two minutes although requests wait.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New("auth", Config{Bus: newMem(t), Log: quiet()})
		live := func(want bool, when string) {
			t.Helper()
			if err := w.Live(); (err == nil) != want {
				t.Errorf("%s: Live is %v", when, err)
			}
		}
		live(true, "before Run")
		end := make(chan struct{})
		l := newLanes(1, func(*call) { <-end })
		w.lanes.Store(l)
		calls := func() *call { return &call{caller: Caller{Session: Session{ID: 1}}} }
		l.add(calls())
		synctest.Wait()
		live(true, "one runs")
		time.Sleep(time.Hour)
		live(true, "one runs for long, and nothing waits")
		l.add(calls())
		l.add(calls())
		live(true, "two wait")
		time.Sleep(stuckAfter - time.Second)
		live(true, "two wait, not for long")
		time.Sleep(time.Second)
		live(false, "two wait for long")
		if waiting, running, _ := l.load(); waiting != 2 || running != 1 {
			t.Errorf("%d wait and %d run, want 2 and 1", waiting, running)
		}
		end <- struct{}{}
		synctest.Wait()
		live(true, "the next has begun")
		time.Sleep(stuckAfter)
		live(false, "the last waits for long")
		close(end)
		synctest.Wait()
		live(true, "all is done")
		l.close(wholly)
	})
}

// A request's lines in the log can be found by what names it.
func TestLogNamesTheRequest(t *testing.T) {
	b := newMem(t)
	logger, said := logged()
	w := New("auth", Config{Bus: b, Log: logger})
	Handle(w, "auth.panic", func(context.Context, *authpb.FindRequest) (*authpb.FindResponse, error) { panic("on purpose") }, Public())
	run(t, w)
	g := newGate(t, b, bus.NewTopology(""), "g1")
	g.send("auth.panic", bus.Request{Session: 5, Sequence: 77})
	g.reply()
	if fields := (Caller{}).Fields(); len(fields) != 0 {
		t.Errorf("nobody's request has the fields %v", fields)
	}
	for _, field := range []string{"gate=g1", "session=5", "request=77", "route=auth.panic"} {
		if !strings.Contains(said.String(), field) {
			t.Errorf("the log does not say %s:\n%s", field, said.String())
		}
	}
}
