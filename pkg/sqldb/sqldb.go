// Package sqldb opens the SQL database of an installation, MySQL (or MariaDB)
// or SQLite, and is the one place that knows how the two differ: addresses,
// pools, error codes, how a schema is applied. Its users write SQL that both
// understand, with ? for arguments.
//
// It refuses to be an object mapper, to build queries and to migrate: the
// schema is one text that can be applied again.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Config says which database to open and how hard to use it.
type Config struct {
	// Address is one of
	//	sqlite:PATH                               a file, created if missing
	//	mysql://USER:PASSWORD@HOST:PORT/DATABASE  %-escaped as in a URL
	//	USER:PASSWORD@tcp(HOST:PORT)/DATABASE     go-sql-driver's own form
	// The forms for MySQL take go-sql-driver's parameters after a '?'. What
	// this package depends on (character set, SQL mode) overrides them.
	Address string
	// MaxOpen bounds the connections; 16 where it is 0. SQLite has one more,
	// for writing.
	MaxOpen int
	// Timeout bounds dialing, and each read and write on the network, where the
	// address says nothing else; 10 s where it is 0. For SQLite it is how long a
	// writer waits for another process.
	Timeout time.Duration
	// Tracer makes spans of statements that belong to a trace that is kept; nil makes
	// none.
	Tracer trace.TracerProvider
}

const (
	defaultMaxOpen = 16
	defaultTimeout = 10 * time.Second
)

// DB is an open database. All its methods are safe for concurrent use.
//
// SQLite has one writer, whatever a program does: DB therefore sends Exec and
// transactions through one connection, where they queue in order, instead of
// letting connections poll for the lock, and queries through others, which
// read beside it. A statement that writes and returns rows must run in Tx.
type DB struct {
	read, write *sql.DB
	dialect     dialect
}

// dialect is what the two kinds of database do differently once they are open.
type dialect interface {
	init(ctx context.Context, db *DB, schema string) error
}

// CheckAddress says what is wrong with the address of a database, as Config has it,
// without its password. It opens nothing.
func CheckAddress(address string) error {
	if path, ok := strings.CutPrefix(address, "sqlite:"); ok {
		return checkSQLite(path, address)
	}
	_, err := mysqlConfig(Config{Address: address})
	return err
}

// Open checks the address and prepares the pools. It opens a SQLite file, but
// does not connect to MySQL: a worker may start before its database does, and
// what it asks meanwhile fails with an error that Unavailable recognizes.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	if cfg.MaxOpen <= 0 {
		cfg.MaxOpen = defaultMaxOpen
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if path, ok := strings.CutPrefix(cfg.Address, "sqlite:"); ok {
		return openSQLite(ctx, path, cfg)
	}
	return openMySQL(cfg)
}

// Init makes the database ready: it creates a MySQL database that is missing,
// and applies the schema, which must bear being applied again.
func Init(ctx context.Context, db *DB, schema string) error {
	return db.dialect.init(ctx, db, schema)
}

// ExecContext runs a statement that returns no rows. An update counts the rows
// that it matched, also where it changed nothing, in both kinds of database.
func (db *DB) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return db.write.ExecContext(ctx, query, args...)
}

// QueryContext runs a statement that only reads.
func (db *DB) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return db.read.QueryContext(ctx, query, args...)
}

// QueryRowContext runs a statement that only reads, for at most one row.
func (db *DB) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return db.read.QueryRowContext(ctx, query, args...)
}

// PingContext reports whether the database answers.
func (db *DB) PingContext(ctx context.Context) error {
	return db.read.PingContext(ctx)
}

// Ready reports with nil that the database answers and has these tables. Where
// they do not exist, Missing recognizes the error.
func Ready(ctx context.Context, db *DB, tables ...string) error {
	if err := db.PingContext(ctx); err != nil {
		return fmt.Errorf("ask the database: %w", err)
	}
	for _, table := range tables {
		// No row is looked at: that the statement can be prepared is the answer.
		rows, err := db.QueryContext(ctx, "SELECT 1 FROM "+table+" WHERE 1 = 0")
		if err == nil {
			rows.Next() // SQLite's driver may put errors off until here
			err = errors.Join(rows.Err(), rows.Close())
		}
		if err != nil {
			return fmt.Errorf("look for table %s: %w", table, err)
		}
	}
	return nil
}

// Stats are those of the pool for queries; with MySQL there is no other.
func (db *DB) Stats() sql.DBStats { return db.read.Stats() }

// Close waits for statements under way and closes all connections.
func (db *DB) Close() error {
	err := db.write.Close()
	if db.read != db.write {
		err = errors.Join(err, db.read.Close())
	}
	return err
}

// Placeholders is "?, ?, ?" for n arguments, for a list after IN.
func Placeholders(n int) string {
	if n <= 0 {
		return ""
	}
	return strings.Repeat("?, ", n-1) + "?"
}

// addressError names a bad address without the password that it may hold.
func addressError(address, why string) error {
	shown := address
	if i := strings.LastIndexByte(address, '@'); i >= 0 {
		shown = "…" + address[i:]
	}
	return fmt.Errorf("sqldb: database address %q: %s; want sqlite:PATH, "+
		"mysql://USER:PASSWORD@HOST:PORT/DATABASE or USER:PASSWORD@tcp(HOST:PORT)/DATABASE", shown, why)
}

// urlUser returns user and password of a URL.
func urlUser(u *url.URL) (user, password string) {
	if u.User == nil {
		return "", ""
	}
	password, _ = u.User.Password()
	return u.User.Username(), password
}
