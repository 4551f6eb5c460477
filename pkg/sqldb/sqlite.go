//go:build !nodev

package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

type sqliteDialect struct {
	path string
}

func checkSQLite(path, address string) error {
	switch {
	case path == "":
		return addressError(address, "names no file")
	case strings.Contains(path, ":memory:"):
		// Every connection would see a database of its own.
		return addressError(address, "a database in memory is not supported")
	}
	return nil
}

func openSQLite(ctx context.Context, path string, cfg Config) (*DB, error) {
	if err := checkSQLite(path, cfg.Address); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("sqldb: create the folder of the database: %w", err)
	}
	// The driver would create the file for everybody to read, and its journals
	// take over the file's mode.
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sqldb: create the database: %w", err)
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("sqldb: create the database: %w", err)
	}
	write, err := sqlitePool(path, cfg, false)
	if err != nil {
		return nil, addressError(cfg.Address, err.Error())
	}
	write.SetMaxOpenConns(1)
	write.SetMaxIdleConns(1)
	read, err := sqlitePool(path, cfg, true)
	if err != nil {
		write.Close()
		return nil, addressError(cfg.Address, err.Error())
	}
	read.SetMaxOpenConns(cfg.MaxOpen)
	read.SetMaxIdleConns(cfg.MaxOpen)
	db := &DB{read: read, write: write, dialect: sqliteDialect{path: path}}
	// The writer comes first: it is what may put the file into WAL mode.
	if err := write.PingContext(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("sqldb: open %s: %w", path, err)
	}
	return db, nil
}

// sqlitePool opens the file with what each connection is told first.
func sqlitePool(path string, cfg Config, readOnly bool) (*sql.DB, error) {
	q := url.Values{}
	q.Set("_busy_timeout", strconv.FormatInt(cfg.Timeout.Milliseconds(), 10))
	q.Set("_foreign_keys", "on")
	// Readers do not wait for the writer, nor it for them. NORMAL loses no
	// consistency with WAL, and at a power cut at most the newest transactions.
	q.Set("_journal_mode", "WAL")
	q.Set("_synchronous", "NORMAL")
	// "x" in double quotes is a name, as the standard says, never a string.
	q.Set("_dqs", "0")
	if readOnly {
		q.Set("_query_only", "on")
	} else {
		// A transaction takes the write lock at its start, where waiting is
		// possible: one that read first can not wait for it, only fail.
		q.Set("_txlock", "immediate")
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "file", Path: absolute, RawQuery: q.Encode()}
	connector, err := sqlite.NewConnector(u.String())
	if err != nil {
		return nil, err
	}
	return cfg.pool(connector, semconv.DBSystemNameSQLite), nil
}

// init can run the whole text at once: the driver splits it.
func (d sqliteDialect) init(ctx context.Context, db *DB, schema string) error {
	if _, err := db.write.ExecContext(ctx, schema); err != nil {
		return fmt.Errorf("apply schema to %s: %w", d.path, err)
	}
	return nil
}

// What errors.go asks about errors of MySQL, of those of SQLite; false where it is
// none.

func sqliteDuplicate(err error) bool {
	var s *sqlite.Error
	return errors.As(err, &s) && (s.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || s.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

func sqliteUnavailable(err error) bool {
	var s *sqlite.Error
	if !errors.As(err, &s) {
		return false
	}
	switch s.Code() & 0xff {
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN:
		return true
	}
	return sqliteRetryable(err)
}

// sqliteMissing looks at the text: SQLite has one code for this and for bad SQL,
// and the text has told them apart since SQLite 3.0.
func sqliteMissing(err error) bool {
	var s *sqlite.Error
	return errors.As(err, &s) && s.Code() == sqlite3.SQLITE_ERROR && strings.Contains(s.Error(), "no such table: ")
}

// sqliteRetryable looks at the low byte: extended codes say why, such as
// SQLITE_BUSY_SNAPSHOT.
func sqliteRetryable(err error) bool {
	var s *sqlite.Error
	if !errors.As(err, &s) {
		return false
	}
	code := s.Code() & 0xff
	return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
}
