package workers

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/sqldb"
)

// lookTimeout bounds one look: a server that takes the connection and says
// nothing must not keep the log silent.
const lookTimeout = 10 * time.Second

// whenReady has a service begin when the database answers and has the service's
// tables, and not at all where ctx ends first: until then its requests go to
// replicas that can answer them, or wait in its queue.
func whenReady(db *sqldb.DB, log logrus.FieldLogger, run func(context.Context) error, tables ...string) func(context.Context) error {
	w := waiting{
		first: 100 * time.Millisecond, last: 2 * time.Second, remind: time.Minute,
		look: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, lookTimeout)
			defer cancel()
			return sqldb.Ready(ctx, db, tables...)
		},
	}
	return func(ctx context.Context) error {
		if !w.wait(ctx, log) {
			return nil
		}
		return run(ctx)
	}
}

// waiting is how a service waits for its tables.
type waiting struct {
	look        func(context.Context) error
	first, last time.Duration // between two looks; it doubles
	remind      time.Duration // between two lines in the log that say the same
}

// wait returns true when the tables are there, and false at the end of ctx.
func (w waiting) wait(ctx context.Context, log logrus.FieldLogger) bool {
	var said string
	var at time.Time
	for pause := w.first; ; pause = min(2*pause, w.last) {
		err := w.look(ctx)
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			if said != "" {
				log.Info("the database is ready")
			}
			return true
		}
		text := "waiting: the database does not answer"
		if sqldb.Missing(err) {
			text = "waiting: the database has no tables yet: run `minigate db init`"
		}
		if text != said || time.Since(at) >= w.remind {
			log.WithError(err).Warn(text)
			said, at = text, time.Now()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
}
