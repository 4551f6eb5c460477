package process

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
)

// gnet has a pool of goroutines from the start, whether it is used or not.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreCurrent()) }

const table = "CREATE TABLE IF NOT EXISTS late (id BIGINT NOT NULL PRIMARY KEY)"

// TestInitDatabaseLate: a server that begins to answer while db init waits.
func TestInitDatabaseLate(t *testing.T) {
	t.Parallel()
	address := sqldbtest.MySQLAddress(t)
	from, to := strings.Index(address, "tcp(")+len("tcp("), strings.LastIndexByte(address, ')')
	server := address[from:to]

	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// It takes the first connection and hangs up, as a server that starts does, and
	// passes the next ones on.
	var links sync.WaitGroup
	links.Go(func() {
		for refused := false; ; {
			c, err := front.Accept()
			if err != nil {
				return
			}
			if !refused {
				refused = true
				_ = c.Close()
				continue
			}
			links.Go(func() { pass(c, server) })
		}
	})
	t.Cleanup(func() {
		_ = front.Close()
		links.Wait()
	})

	c := Config{Schema: table, Database: address[:from] + front.Addr().String() + address[to:], DatabaseWait: sqldbtest.Timeout}
	if err := c.InitDatabase(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	db := sqldbtest.Open(t, address)
	if err := sqldb.Ready(t.Context(), db, "late"); err != nil {
		t.Error(err)
	}
}

// pass copies both ways until either side ends.
func pass(c net.Conn, server string) {
	defer func() { _ = c.Close() }()
	s, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(c, s)
		_ = c.Close()
	})
	_, _ = io.Copy(s, c)
	_ = s.Close()
	back.Wait()
}

// TestInitDatabaseAway: nobody ever answers.
func TestInitDatabaseAway(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	c := Config{Schema: table, Database: "mysql://u:p@" + address + "/d", DatabaseWait: 2 * firstPause}
	err = c.InitDatabase(t.Context(), nil)
	if !sqldb.Unavailable(err) || time.Since(begun) < firstPause {
		t.Errorf("after %v: %v; want that it is away, after more than one attempt", time.Since(begun), err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	c.DatabaseWait = time.Hour
	go func() { ended <- c.InitDatabase(ctx, nil) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was told to end", err)
	}
}
