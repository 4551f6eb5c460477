package bench

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// TestManySessions runs all of the million, with fewer of them.
func TestManySessions(t *testing.T) {
	url := os.Getenv("MINIGATE_TEST_RABBITMQ")
	if url == "" {
		t.Fatal("MINIGATE_TEST_RABBITMQ is not set: want amqp://USER:PASSWORD@HOST:PORT/")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var progress bytes.Buffer
	r, err := Run(ctx, Config{
		RabbitMQ: url, Binary: buildBinary(t), Quick: true, Progress: &progress,
		Million: true, Sessions: 500, Hold: time.Second, Over: "websocket", perProcess: 200,
	})
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]Row)
	for _, row := range r.Rows {
		values[row.Name] = row
	}
	held := values["held for 1s, heartbeats every 1m0s"]
	if held.Value != 500 || !held.Met || !strings.Contains(held.Note, "3 gates") {
		t.Errorf("%+v", held)
	}
	if row := values["handshakes"]; row.Value <= 0 {
		t.Errorf("%+v", row)
	}
	if row := values["200 req/s of others, meanwhile"]; row.P99 <= 0 || row.Ratio <= 0 || row.Target == "" {
		t.Errorf("%+v", row)
	}
	if begin, _ := r.marks(); begin != "<!-- million:begin -->" {
		t.Errorf("the report goes to %s", begin)
	}
	if !strings.Contains(progress.String(), "500 sessions at once, over WebSocket") {
		t.Errorf("progress:\n%s", &progress)
	}
}

// A machine that is too small is told before it is brought to its end.
func TestAMachineThatIsTooSmall(t *testing.T) {
	b := &bench{Config: Config{Sessions: 10_000_000_000}}
	err := b.preflight(1)
	if err == nil || !strings.Contains(err.Error(), "GB of memory") || !strings.Contains(err.Error(), "--sessions") {
		t.Errorf("got %v", err)
	}
	b.Sessions = 100
	if err := b.preflight(1); err != nil {
		t.Errorf("100 sessions: %v", err)
	}
	for _, bad := range []Config{{Hold: time.Second, Over: "tcp"}, {Sessions: 1, Over: "tcp"}, {Sessions: 1, Hold: time.Second, Over: "udp"}} {
		bad.Million, bad.Quick, bad.Binary = true, true, "minigate"
		if _, err := Run(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "sessions for") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
