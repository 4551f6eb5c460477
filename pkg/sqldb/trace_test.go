package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
	"github.com/motto123/minigate/pkg/tracing/tracingtest"
)

// TestStatementsAreTraced: each statement of a trace that is kept is a span below
// that of its context, which says what was asked of which table and no value; those
// of other contexts are none. What went wrong is still told by its error.
func TestStatementsAreTraced(t *testing.T) {
	for system, address := range map[string]string{"mysql": sqldbtest.MySQLAddress(t), "sqlite": sqldbtest.SQLiteAddress(t)} {
		t.Run(system, func(t *testing.T) {
			tracer, spans := tracingtest.New(t, 1)
			db, err := sqldb.Open(t.Context(), sqldb.Config{Address: address, Tracer: tracer.Provider()})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if err := sqldb.Init(t.Context(), db, sqldbtest.Schema(t)); err != nil {
				t.Fatal(err)
			}
			if err := addUser(t, db, 7, "untraced", "U"); err != nil {
				t.Fatal(err)
			}
			if all := spans.Spans(); len(all) != 0 {
				t.Errorf("what belongs to no trace left %s", all.Names())
			}

			ctx, root := tracer.Root(t.Context(), "root")
			insert := func(ctx context.Context) error {
				_, err := db.ExecContext(ctx, insertUser, 1, "secret-account", "secret-key", "secret", "secret", "x", 1)
				return err
			}
			if err := insert(ctx); err != nil {
				t.Fatal(err)
			}
			if err := insert(ctx); !sqldb.IsDuplicate(err) {
				t.Errorf("the same again: %v", err)
			}
			var n int
			if err := db.QueryRowContext(ctx, "SELECT COUNT(*)\n\tFROM users u WHERE account_key = ?", "secret-key").Scan(&n); err != nil || n != 1 {
				t.Errorf("got %d, %v", n, err)
			}
			undo := errors.New("undo")
			for _, fails := range []error{nil, undo} {
				if err := sqldb.Tx(ctx, db, func(tx *sql.Tx) error {
					if _, err := tx.ExecContext(ctx, "UPDATE users SET nickname = ? WHERE id = ?", "secret", 1); err != nil {
						return err
					}
					return fails
				}); !errors.Is(err, fails) {
					t.Error(err)
				}
			}
			root.End()

			all := spans.Spans()
			var names []string
			for _, s := range all.Below(tracingtest.One(t, spans, "root")) {
				if s.Name == "CONNECT" {
					continue // as many as the pool had to make
				}
				names = append(names, s.Name)
				if s.Kind != "client" || s.Attributes["db.system.name"] != system {
					t.Errorf("got %+v", s)
				}
			}
			want := []string{"INSERT users", "INSERT users", "SELECT users", "BEGIN", "UPDATE users", "COMMIT", "BEGIN", "UPDATE users", "ROLLBACK"}
			if !slices.Equal(names, want) {
				t.Errorf("got %q, want %q", names, want)
			}
			inserts := all.Named("INSERT users")
			if inserts[0].Failed || !inserts[1].Failed || inserts[1].Attributes["error.type"] == "" || !strings.Contains(inserts[0].Attributes["db.query.text"], "VALUES (?") {
				t.Errorf("got %+v", inserts)
			}
			for _, s := range all {
				if text := fmt.Sprint(s); strings.Contains(text, "secret") {
					t.Errorf("a span tells a value: %s", text)
				}
			}
		})
	}
}
