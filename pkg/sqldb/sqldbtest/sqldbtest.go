// Package sqldbtest gives tests a database of their own, with the tables of
// schema.sql, in a real MySQL server and in SQLite.
//
// The server is named by MINIGATE_TEST_MYSQL: go-sql-driver's form of an
// address without a database, whose user may create databases. A test that
// finds it unset fails; it does not skip.
package sqldbtest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/sqldb"
)

// Timeout bounds what setting up a database may take.
const Timeout = 30 * time.Second

// Each runs a test once on MySQL and once on SQLite.
func Each(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	t.Helper()
	t.Run("mysql", func(t *testing.T) { test(t, MySQL(t)) })
	t.Run("sqlite", func(t *testing.T) { test(t, SQLite(t)) })
}

// MySQL returns a database that is dropped when the test ends.
func MySQL(t testing.TB) *sqldb.DB {
	t.Helper()
	db := Open(t, MySQLAddress(t))
	apply(t, db)
	return db
}

// SQLite returns a database in a file that goes when the test ends.
func SQLite(t testing.TB) *sqldb.DB {
	t.Helper()
	db := Open(t, SQLiteAddress(t))
	apply(t, db)
	return db
}

// MySQLAddress returns the address of a database that does not exist yet, and
// is dropped when the test ends.
func MySQLAddress(t testing.TB) string {
	t.Helper()
	server := os.Getenv("MINIGATE_TEST_MYSQL")
	if server == "" {
		t.Fatal("MINIGATE_TEST_MYSQL is not set: it must name a MySQL or MariaDB server, " +
			"for example root:secret@tcp(127.0.0.1:3306)/")
	}
	slash := strings.LastIndexByte(server, '/')
	if slash < 0 {
		t.Fatal("MINIGATE_TEST_MYSQL: want USER:PASSWORD@tcp(HOST:PORT)/")
	}
	name := "minigate_test_" + strings.ToLower(rand.Text())
	t.Cleanup(func() { drop(t, server, name) })
	return server[:slash+1] + name + server[slash+1:]
}

// SQLiteAddress returns the address of a file that goes when the test ends.
func SQLiteAddress(t testing.TB) string {
	t.Helper()
	return "sqlite:" + filepath.Join(t.TempDir(), "test.db")
}

// Open opens a database and closes it when the test ends.
func Open(t testing.TB, address string) *sqldb.DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	db, err := sqldb.Open(ctx, sqldb.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error("close the database:", err)
		}
	})
	return db
}

// Schema returns the text of schema.sql.
func Schema(t testing.TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("where this package's source is can not be told")
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(file), "..", "..", "..", "schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func apply(t testing.TB, db *sqldb.DB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	if err := sqldb.Init(ctx, db, Schema(t)); err != nil {
		t.Fatal(err)
	}
}

func drop(t testing.TB, server, name string) {
	pool, err := sql.Open("mysql", server)
	if err != nil {
		t.Error(err)
		return
	}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	if _, err := pool.ExecContext(ctx, "DROP DATABASE IF EXISTS "+name); err != nil {
		t.Error("drop the test's database:", err)
	}
}
