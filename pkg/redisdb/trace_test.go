package redisdb

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/motto123/minigate/pkg/tracing/tracingtest"
)

// TestCommandsAreTraced: each command of a trace that is kept is a span below that of
// its context, without its arguments; those of other contexts are none.
func TestCommandsAreTraced(t *testing.T) {
	server, err := Open(Config{URL: os.Getenv("MINIGATE_TEST_REDIS")})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	embedded, _ := open(t, "")
	for name, c := range map[string]redis.UniversalClient{"a server": server, "embedded": embedded} {
		t.Run(name, func(t *testing.T) {
			tracer, spans := tracingtest.New(t, 1)
			Trace(c, tracer.Provider())
			key := "minigate-secret-" + t.Name()
			t.Cleanup(func() { c.Del(context.Background(), key) })
			if err := c.Set(t.Context(), key, "secret", 0).Err(); err != nil {
				t.Fatal(err)
			}
			if all := spans.Spans(); len(all) != 0 {
				t.Errorf("what belongs to no trace left %s", all.Names())
			}
			ctx, root := tracer.Root(t.Context(), "root")
			if got, err := c.Get(ctx, key).Result(); got != "secret" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			if err := c.Get(ctx, key+"-none").Err(); err != redis.Nil {
				t.Errorf("of a key that is not there: %v", err)
			}
			if err := c.HGet(ctx, key, "secret").Err(); err == nil {
				t.Error("a text was read as a hash")
			}
			if _, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
				p.Get(ctx, key)
				p.Get(ctx, key)
				return nil
			}); err != nil {
				t.Error(err)
			}
			root.End()
			below := spans.Spans().Below(tracingtest.One(t, spans, "root"))
			for _, want := range []struct {
				name   string
				spans  int
				failed bool
			}{{"GET", 2, false}, {"HGET", 1, true}, {"PIPELINE", 1, false}} {
				found := below.Named(want.name)
				if len(found) != want.spans {
					t.Fatalf("%d spans %s, want %d; there are %s", len(found), want.name, want.spans, below.Names())
				}
				for _, s := range found {
					if s.Failed != want.failed || s.Kind != "client" || s.Attributes["db.system.name"] != "redis" || s.Attributes["db.operation.name"] != want.name {
						t.Errorf("got %+v", s)
					}
				}
			}
			if n := below.Named("PIPELINE")[0].Attributes["db.operation.batch.size"]; n != "2" {
				t.Errorf("the pipeline has %s commands, want 2", n)
			}
			for _, s := range spans.Spans() {
				if text := fmt.Sprint(s); strings.Contains(text, "secret") {
					t.Errorf("a span tells an argument: %s", text)
				}
			}
		})
	}
}
