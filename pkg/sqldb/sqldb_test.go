package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
)

const insertUser = "INSERT INTO users (id, account, account_key, nickname, email, password_hash, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)"

func addUser(t *testing.T, db *sqldb.DB, id int64, account, nickname string) error {
	t.Helper()
	_, err := db.ExecContext(t.Context(), insertUser, id, account, account, nickname, "a@example.com", "x", 1)
	return err
}

func TestSchemaCanBeAppliedAgain(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		if err := addUser(t, db, 1, "ann", "Ann"); err != nil {
			t.Fatal(err)
		}
		if err := sqldb.Init(t.Context(), db, sqldbtest.Schema(t)); err != nil {
			t.Fatal("apply again:", err)
		}
		var account string
		if err := db.QueryRowContext(t.Context(), "SELECT account FROM users WHERE id = ?", 1).Scan(&account); err != nil || account != "ann" {
			t.Fatalf("after applying again: %q, %v; want ann", account, err)
		}
	})
}

// A schema that is wrong in a later statement must not pass for applied.
func TestInitReportsEachStatement(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		err := sqldb.Init(t.Context(), db, "CREATE TABLE IF NOT EXISTS a (id BIGINT); CREATE TABLE b (id BIGINT,);")
		if err == nil {
			t.Fatal("a statement that is no SQL was accepted")
		}
	})
}

func TestTextHoldsAllOfUnicode(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		texts := []string{
			"plain", "", "trailing blank ", "a\x00b", "it's \\ \" ` % _ \n\r\t\x1a",
			"日本語 ζ Ж", "e\u0301 and \u00e9", "\U0001F44D\U0001F3FD \U0001F468\u200D\U0001F469\u200D\U0001F467", "\U0010FFFF", "𝒳𠀀",
			strings.Repeat("\U0001F600", 4096),
		}
		if _, err := db.ExecContext(t.Context(), "INSERT INTO conversations (id, user_low, user_high, created_at) VALUES (1, 1, 2, 0)"); err != nil {
			t.Fatal(err)
		}
		for i, text := range texts {
			if _, err := db.ExecContext(t.Context(),
				"INSERT INTO messages (conversation, number, sender, client_id, text, sent_at) VALUES (1, ?, 1, ?, ?, 0)",
				i+1, string(rune('a'+i)), text); err != nil {
				t.Fatalf("store %.20q: %v", text, err)
			}
			var got string
			if err := db.QueryRowContext(t.Context(), "SELECT text FROM messages WHERE conversation = 1 AND number = ?", i+1).Scan(&got); err != nil {
				t.Fatal(err)
			}
			if got != text {
				t.Errorf("stored %.40q, read %.40q", text, got)
			}
		}
	})
}

// Keys are equal where their bytes are: no folding, no ignored blank, no number
// made of digits.
func TestKeysAreCompared(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		if _, err := db.ExecContext(t.Context(), "INSERT INTO conversations (id, user_low, user_high, created_at) VALUES (1, 1, 2, 0)"); err != nil {
			t.Fatal(err)
		}
		for i, key := range []string{"a", "A", "a ", "á", "a\u0301", "7", "007", "7.0", "ß", "ss", strings.Repeat("\U0001F600", 64)} {
			_, err := db.ExecContext(t.Context(),
				"INSERT INTO messages (conversation, number, sender, client_id, text, sent_at) VALUES (1, ?, 1, ?, '', 0)", i+1, key)
			if err != nil {
				t.Fatalf("%q is taken for another key: %v", key, err)
			}
			_, err = db.ExecContext(t.Context(),
				"INSERT INTO messages (conversation, number, sender, client_id, text, sent_at) VALUES (1, ?, 1, ?, '', 0)", 1000+i, key)
			if !sqldb.IsDuplicate(err) {
				t.Fatalf("%q twice: %v, want a duplicate", key, err)
			}
			var number int
			if err := db.QueryRowContext(t.Context(), "SELECT number FROM messages WHERE sender = 1 AND client_id = ?", key).Scan(&number); err != nil || number != i+1 {
				t.Fatalf("%q finds message %d, %v; want %d", key, number, err, i+1)
			}
		}
	})
}

func TestConstraints(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		if err := addUser(t, db, 1, "ann", "Ann"); err != nil {
			t.Fatal(err)
		}
		if err := addUser(t, db, 1, "bob", "Bob"); !sqldb.IsDuplicate(err) {
			t.Errorf("the id twice: %v, want a duplicate", err)
		}
		if err := addUser(t, db, 2, "ann", "Ann"); !sqldb.IsDuplicate(err) {
			t.Errorf("the account twice: %v, want a duplicate", err)
		}
		for _, bad := range []string{
			"INSERT INTO conversations (id, user_low, user_high, created_at) VALUES (1, 2, 1, 0)",
			"INSERT INTO messages (conversation, number, sender, client_id, text, sent_at) VALUES (9, 1, 1, 'a', '', 0)",
		} {
			if _, err := db.ExecContext(t.Context(), bad); err == nil || sqldb.IsDuplicate(err) || sqldb.Unavailable(err) {
				t.Errorf("%s: %v, want a broken constraint that is no duplicate", bad, err)
			}
		}
		if sqldb.IsDuplicate(nil) || sqldb.Unavailable(nil) || sqldb.Unavailable(sql.ErrNoRows) {
			t.Error("an error is seen where there is none")
		}
	})
}

// A text that is too long for its column is refused by MySQL, whatever the
// server's mode is; SQLite knows no length.
func TestMySQLCutsNothingOff(t *testing.T) {
	db := sqldbtest.MySQL(t)
	if err := addUser(t, db, 1, "ann", strings.Repeat("x", 65)); err == nil {
		t.Fatal("65 characters went into a column of 64")
	}
	if err := addUser(t, db, 1, "ann", strings.Repeat("\U0001F600", 64)); err != nil {
		t.Fatal("64 characters of 4 bytes:", err)
	}
}

func TestUpdateCountsMatchedRows(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		if err := addUser(t, db, 1, "ann", "Ann"); err != nil {
			t.Fatal(err)
		}
		result, err := db.ExecContext(t.Context(), "UPDATE users SET nickname = ? WHERE id = ?", "Ann", 1)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := result.RowsAffected(); n != 1 || err != nil {
			t.Fatalf("an update that changes nothing counts %d rows, %v; want 1", n, err)
		}
	})
}

// Every transaction adds to two rows, half of them in the other order: MySQL
// sees deadlocks, SQLite a locked file, and no addition may be lost.
func TestTxRunsAgainAfterADeadlock(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		for id := range int64(2) {
			if _, err := db.ExecContext(t.Context(), "INSERT INTO conversations (id, user_low, user_high, created_at) VALUES (?, ?, 9, 0)", id, id); err != nil {
				t.Fatal(err)
			}
		}
		const workers, each = 4, 25
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for range each {
					err := sqldb.Tx(t.Context(), db, func(tx *sql.Tx) error {
						for i := range 2 {
							if _, err := tx.ExecContext(t.Context(), "UPDATE conversations SET last_number = last_number + 1 WHERE id = ?", (i+w)%2); err != nil {
								return err
							}
						}
						return nil
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		var low, high int
		if err := db.QueryRowContext(t.Context(), "SELECT MIN(last_number), MAX(last_number) FROM conversations").Scan(&low, &high); err != nil {
			t.Fatal(err)
		}
		if low != workers*each || high != workers*each {
			t.Fatalf("rows count %d and %d transactions, want %d", low, high, workers*each)
		}
	})
}

func TestTxRollsBack(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		boom := errors.New("boom")
		err := sqldb.Tx(t.Context(), db, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(t.Context(), insertUser, 1, "ann", "ann", "", "", "", 0); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatalf("Tx: %v, want the error of fn", err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = sqldb.Tx(t.Context(), db, func(tx *sql.Tx) error {
				if _, err := tx.ExecContext(t.Context(), insertUser, 2, "bob", "bob", "", "", "", 0); err != nil {
					return err
				}
				panic("boom")
			})
		}()
		var n int
		if err := db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM users").Scan(&n); err != nil || n != 0 {
			t.Fatalf("%d users, %v; want none", n, err)
		}
		// With one writer, SQLite would wait for ever for a transaction left open.
		if err := addUser(t, db, 3, "cid", "Cid"); err != nil {
			t.Fatal(err)
		}
	})
}

// Two processes share a SQLite file: the second waits for the first, and where
// the wait is too short its transaction is one to run again.
func TestSQLiteFileOfTwoProcesses(t *testing.T) {
	address := sqldbtest.SQLiteAddress(t)
	first := sqldbtest.Open(t, address)
	if err := sqldb.Init(t.Context(), first, sqldbtest.Schema(t)); err != nil {
		t.Fatal(err)
	}
	second, err := sqldb.Open(t.Context(), sqldb.Config{Address: address, Timeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	attempts := 0
	held, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- sqldb.Tx(t.Context(), first, func(tx *sql.Tx) error {
			close(held)
			<-release
			return nil
		})
	}()
	<-held
	if err := addUser(t, second, 1, "ann", "Ann"); !sqldb.Retryable(err) || !sqldb.Unavailable(err) {
		t.Errorf("a locked file: %v, want an error that may go away", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	err = sqldb.Tx(t.Context(), second, func(tx *sql.Tx) error {
		attempts++
		_, err := tx.ExecContext(t.Context(), insertUser, 1, "ann", "ann", "", "", "", 0)
		return err
	})
	if err != nil || attempts != 1 {
		t.Fatalf("after %d attempts: %v", attempts, err)
	}
}

// What writes must not slip through the connections that read: there it would
// compete with the writer instead of queueing behind it.
func TestSQLiteQueriesOnlyRead(t *testing.T) {
	db := sqldbtest.SQLite(t)
	var id int64
	err := db.QueryRowContext(t.Context(), insertUser+" RETURNING id", 1, "ann", "ann", "", "", "", 0).Scan(&id)
	if err == nil || sqldb.Unavailable(err) {
		t.Fatalf("a query that writes: %v, want an error that does not look temporary", err)
	}
}

func TestUnavailable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	// Nobody listens there any more.
	listener.Close()
	db := sqldbtest.Open(t, "mysql://u:p@"+address+"/d")
	if _, err := db.ExecContext(t.Context(), "SELECT 1"); !sqldb.Unavailable(err) {
		t.Errorf("nobody listens: %v, want unavailable", err)
	}
	if err := sqldb.Tx(t.Context(), db, func(*sql.Tx) error { return nil }); !sqldb.Unavailable(err) {
		t.Errorf("a transaction where nobody listens: %v, want unavailable", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.ExecContext(ctx, "SELECT 1"); err == nil || sqldb.Unavailable(err) {
		t.Errorf("the caller gave up: %v, want an error that is not the database's", err)
	}
}

// A server that ends a connection in the middle of a statement is unavailable.
func TestUnavailableWhileAsking(t *testing.T) {
	db := sqldbtest.MySQL(t)
	err := sqldb.Tx(t.Context(), db, func(tx *sql.Tx) error {
		var id int64
		if err := tx.QueryRowContext(t.Context(), "SELECT CONNECTION_ID()").Scan(&id); err != nil {
			return err
		}
		if _, err := db.ExecContext(t.Context(), "KILL ?", id); err != nil {
			return err
		}
		_, err := tx.ExecContext(t.Context(), insertUser, 1, "ann", "ann", "", "", "", 0)
		return err
	})
	if !sqldb.Unavailable(err) {
		t.Fatalf("a killed connection: %v (%T), want unavailable", err, err)
	}
}

// Before Init there may be no database, no table, or some tables only.
func TestReady(t *testing.T) {
	for kind, address := range map[string]string{"mysql": sqldbtest.MySQLAddress(t), "sqlite": sqldbtest.SQLiteAddress(t)} {
		t.Run(kind, func(t *testing.T) {
			db := sqldbtest.Open(t, address)
			missing := func(when, table string) {
				t.Helper()
				err := sqldb.Ready(t.Context(), db, table)
				if !sqldb.Missing(err) || !sqldb.Unavailable(err) {
					t.Errorf("%s: %v, want an error that says what is missing and is unavailable", when, err)
				}
				if _, err := db.ExecContext(t.Context(), "DELETE FROM "+table); !sqldb.Missing(err) || !sqldb.Unavailable(err) {
					t.Errorf("%s, a statement: %v, want unavailable", when, err)
				}
			}
			missing("before Init", "users")
			if err := sqldb.Init(t.Context(), db, "CREATE TABLE conversations (id BIGINT NOT NULL PRIMARY KEY);"); err != nil {
				t.Fatal(err)
			}
			missing("with one table", "messages")
			if err := sqldb.Init(t.Context(), db, sqldbtest.Schema(t)); err != nil {
				t.Fatal(err)
			}
			if err := sqldb.Ready(t.Context(), db, "users", "conversations", "messages"); err != nil {
				t.Errorf("with all tables: %v", err)
			}
			if _, err := db.ExecContext(t.Context(), "DELETE FROM users WHERE nonsense = 1"); err == nil || sqldb.Missing(err) || sqldb.Unavailable(err) {
				t.Errorf("a column that does not exist: %v, want an error that is neither", err)
			}
		})
	}
}

func TestBadAddresses(t *testing.T) {
	for _, address := range []string{
		"", "nonsense", "sqlite:", "sqlite::memory:", "postgres://u:hunter2@h/d",
		"root:hunter2@tcp(h:1)/", "mysql://root:hunter2@h:1/", "mysql://root:hunter2@h:x y/d", "root:hunter2@tcp(h:1)/d?timeout=soon",
	} {
		db, err := sqldb.Open(t.Context(), sqldb.Config{Address: address})
		if err == nil {
			db.Close()
			t.Errorf("%q was accepted", address)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows the password: %v", err)
		}
		if !strings.Contains(err.Error(), "want sqlite:PATH") {
			t.Errorf("the error does not say what is wanted: %v", err)
		}
	}
}
