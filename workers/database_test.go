package workers

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
)

const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines are what was logged at a level.
func lines(hook *test.Hook, level logrus.Level) (found []string) {
	for _, e := range hook.AllEntries() {
		if e.Level == level {
			found = append(found, e.Message)
		}
	}
	return found
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// begin runs a service that waits; began is closed when it begins.
func begin(t *testing.T, db *sqldb.DB, tables ...string) (began <-chan struct{}, stop func(), hook *test.Hook) {
	t.Helper()
	log, hook := test.NewNullLogger()
	running, ended := make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	run := whenReady(db, log, func(ctx context.Context) error {
		close(running)
		<-ctx.Done()
		return nil
	}, tables...)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the end of its context is %v, want nil", err)
			}
		case <-time.After(patience):
			t.Error("it does not end with its context")
		}
	})
	t.Cleanup(stop)
	return running, stop, hook
}

func TestAServiceBeginsWhenItsTablesAreThere(t *testing.T) {
	for kind, address := range map[string]string{"mysql": sqldbtest.MySQLAddress(t), "sqlite": sqldbtest.SQLiteAddress(t)} {
		t.Run(kind, func(t *testing.T) {
			db := sqldbtest.Open(t, address)
			began, stop, hook := begin(t, db, "conversations", "messages")
			eventually(t, "it says what it waits for", func() bool { return len(lines(hook, logrus.WarnLevel)) > 0 })
			select {
			case <-began:
				t.Fatal("it began without its tables")
			default:
			}
			if err := sqldb.Init(t.Context(), db, sqldbtest.Schema(t)); err != nil {
				t.Fatal(err)
			}
			select {
			case <-began:
			case <-time.After(patience):
				t.Fatal("it does not begin when the tables are there")
			}
			stop()
			if said := lines(hook, logrus.WarnLevel); len(said) != 1 || !strings.Contains(said[0], "no tables yet: run `minigate db init`") {
				t.Errorf("it warns %q, want once that there are no tables", said)
			}
			if said := lines(hook, logrus.InfoLevel); len(said) != 1 {
				t.Errorf("it says %q, want once that it is ready", said)
			}
		})
	}
}

func TestAServiceThatWaitsEndsWithItsContext(t *testing.T) {
	began, stop, hook := begin(t, sqldbtest.Open(t, sqldbtest.SQLiteAddress(t)), "users")
	eventually(t, "it says what it waits for", func() bool { return len(hook.AllEntries()) > 0 })
	stop()
	select {
	case <-began:
		t.Error("it began without its tables")
	default:
	}
}

func TestAServiceWithTablesSaysNothing(t *testing.T) {
	began, stop, hook := begin(t, sqldbtest.SQLite(t), "users", "messages")
	select {
	case <-began:
	case <-time.After(patience):
		t.Fatal("it does not begin")
	}
	stop()
	if n := len(hook.AllEntries()); n != 0 {
		t.Errorf("%d lines in the log, want none", n)
	}
}

// Each look fails alike; the log hears of a few.
func TestWaitingRepeatsItselfSeldom(t *testing.T) {
	for name, c := range map[string]struct {
		remind time.Duration
		want   int
	}{"within a minute": {time.Hour, 2}, "after a minute": {0, 100}} {
		t.Run(name, func(t *testing.T) {
			log, hook := test.NewNullLogger()
			looks := 0
			w := waiting{first: time.Microsecond, last: time.Microsecond, remind: c.remind, look: func(context.Context) error {
				switch looks++; {
				case looks <= 50:
					return &mysql.MySQLError{Number: 1049}
				case looks <= 100:
					return errors.New("connection refused")
				}
				return nil
			}}
			if !w.wait(t.Context(), log) {
				t.Fatal("it ended before its context did")
			}
			if got := len(lines(hook, logrus.WarnLevel)); got != c.want || len(lines(hook, logrus.InfoLevel)) != 1 {
				t.Errorf("%d warnings of %d looks, want %d", got, looks, c.want)
			}
		})
	}
}
