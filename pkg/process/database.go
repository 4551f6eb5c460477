package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/sqldb"
)

// pauses between two attempts to reach the database; the first doubles up to the
// last.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 2 * time.Second
)

// InitSettings declares the settings of minigate db init.
func (c *Config) InitSettings(s settings.Set) {
	c.DatabaseSettings(s)
	s.Duration(&c.DatabaseWait, "database-wait", time.Minute, 0, 24*time.Hour, "how long to wait for a database that does not answer yet")
	c.productionSettings(s)
}

// InitDatabase creates the database and its tables, where they are missing. A
// server that is not there yet is waited for.
func (c *Config) InitDatabase(ctx context.Context, _ []string) error {
	d, err := sqldb.Open(ctx, sqldb.Config{Address: c.Database})
	if err != nil {
		return err
	}
	err = c.initDatabase(ctx, d)
	if closed := d.Close(); err == nil {
		err = closed
	}
	if err == nil {
		fmt.Println("The database has its tables.")
	}
	return err
}

// initDatabase tries until the database has its tables, refuses them, or does not
// answer in time. What it lacks, such as a user, is no reason to wait.
func (c *Config) initDatabase(ctx context.Context, d *sqldb.DB) error {
	end := time.Now().Add(c.DatabaseWait)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := sqldb.Init(ctx, d, c.Schema)
		if err == nil || ctx.Err() != nil || !sqldb.Unavailable(err) || !time.Now().Add(pause).Before(end) {
			return err
		}
		if pause == firstPause {
			fmt.Fprintf(os.Stderr, "waiting up to %v: %v\n", c.DatabaseWait, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}
