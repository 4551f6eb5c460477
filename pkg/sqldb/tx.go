package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	txAttempts = 8
	// The wait doubles from the first to the longest, and the half of it is
	// chance, so that two that met do not meet again.
	txFirstWait   = 4 * time.Millisecond
	txLongestWait = 256 * time.Millisecond
)

// Tx runs fn in a transaction and commits it where fn returns nil. A
// transaction that lost against another one (a deadlock, a locked file) is run
// again from the start, at most 8 times: fn must reach nothing outside of tx
// that it could not do twice, and must not use the DB beside tx, which waits
// for itself on SQLite. The error of fn comes back as it is.
func Tx(ctx context.Context, db *DB, fn func(tx *sql.Tx) error) error {
	wait := txFirstWait
	for attempt := 1; ; attempt++ {
		err := once(ctx, db, fn)
		if err == nil || !Retryable(err) || attempt == txAttempts {
			return err
		}
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
		wait = min(2*wait, txLongestWait)
	}
}

func once(ctx context.Context, db *DB, fn func(tx *sql.Tx) error) (err error) {
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	done := false
	defer func() {
		// Also after a panic of fn, so that its connection is not lost.
		if !done {
			if e := tx.Rollback(); e != nil && !errors.Is(e, sql.ErrTxDone) && err != nil {
				err = fmt.Errorf("%w (and roll back: %w)", err, e)
			}
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	done = true
	return nil
}
