package workers

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/events"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/snowflakes"
	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
	"github.com/motto123/minigate/workers/email"
)

// newProcess is one that connects to nothing.
func newProcess(t *testing.T) (*Process, *test.Hook) {
	t.Helper()
	log, hook := test.NewNullLogger()
	e, err := events.New(events.Config{Topology: bus.NewTopology("")}, log)
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{Parts: parts.New(), Log: log, Events: e, Mails: os.Stdout}
	t.Cleanup(func() {
		p.Parts.Stop()
		if err := p.Parts.Wait(); err != nil {
			t.Error(err)
		}
	})
	return p, hook
}

func TestEmailSaysWhereMailsGo(t *testing.T) {
	for address, want := range map[string]string{"": "mails are printed", "mail.example.org:587": "mail.example.org:587"} {
		p, hook := newProcess(t)
		p.Email = email.Config{From: "no-reply@example.org", SMTP: email.SMTP{Address: address}}
		if err := p.Start("email"); err != nil {
			t.Fatal(err)
		}
		if e := hook.LastEntry(); e == nil || !strings.Contains(e.Message, want) {
			t.Errorf("with mail server %q it says %v, want %q", address, e, want)
		}
	}
}

func TestATakenAddressNamesItsSetting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, _ := newProcess(t)
	p.DB, p.AuthGRPC = sqldbtest.SQLite(t), l.Addr().String()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // nobody asks it anything
	defer client.Close()
	p.Redis = client
	if p.IDs, err = snowflakes.New(snowflakes.Config{Redis: client, Prefix: "taken"}); err != nil {
		t.Fatal(err)
	}
	if err := p.Start("auth"); err == nil || !strings.Contains(err.Error(), "--auth-grpc") {
		t.Errorf("got %v, want an error that names --auth-grpc", err)
	}
}
