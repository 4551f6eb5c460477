package e2e_test

import (
	"context"
	"database/sql"
	"io"
	"net"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/proto/chatpb"
)

// lock keeps all handlers of chat.send waiting until unlock is called; waits
// waits until one does.
func (w *world) lock() (waits, unlock func()) {
	w.t.Helper()
	db, err := sql.Open("mysql", w.database)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := db.Conn(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := c.ExecContext(w.t.Context(), "LOCK TABLES messages WRITE, conversations WRITE"); err != nil {
		w.t.Fatal(err)
	}
	unlock = sync.OnceFunc(func() { _ = c.Close(); _ = db.Close() })
	w.t.Cleanup(unlock)
	return func() {
		w.t.Helper()
		eventually(w.t, "a handler that waits for the tables", func() bool {
			var n int
			err := db.QueryRowContext(w.t.Context(),
				"SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND state LIKE 'Waiting for table%'").Scan(&n)
			if err != nil {
				w.t.Fatal(err)
			}
			return n > 0
		})
	}, unlock
}

// TestSecondSignalHurries: a worker that may take minutes for its end waits for
// its handlers, until a second signal: it then answers, ends in order, says what
// was cut off, and exits with the code for that.
func TestSecondSignalHurries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.auth(0)
	chat := w.worker("chat", "--worker-drain", "10m")
	g := w.gate("--request-timeout", "5m")
	w.consumed("auth", 1)
	w.consumed("chat", 1)
	people := gather(t, 2, 0, g.tcp, g.ws).people
	waits, unlock := w.lock()
	failed := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		in := &chatpb.SendRequest{To: people[1].id, ClientId: "1", Text: "a"}
		failed <- people[0].Call(ctx, "chat.send", in, new(chatpb.SendResponse))
	}()
	waits()
	chat.signal(t, syscall.SIGTERM)
	chat.says(t, `msg=stopping`)
	chat.lives(t)
	chat.signal(t, syscall.SIGINT)
	chat.says(t, `hurrying`)
	chat.ends(t, 3)
	unlock()
	if err := <-failed; status.Code(err) != codes.Unavailable {
		t.Errorf("the request that was cut off ends with %v, want UNAVAILABLE", err)
	}
	last := regexp.MustCompile(`[^\n]*\n$`).FindString(chat.out.String())
	for _, want := range []string{"level=warning", "not everything was finished", "hurried=true", "took=", "chat worker: 1 handlers"} {
		if !strings.Contains(last, want) {
			t.Errorf("the last line has no %q: %s", want, last)
		}
	}
	w.stop()
}

// frozen is a way to a server on which nothing moves any more after freeze.
type frozen struct {
	address string
	freeze  func()
}

func newFrozen(t *testing.T, server string) frozen {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, freeze := context.WithCancel(context.Background())
	var copying sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	pass := func(to, from net.Conn) {
		b := make([]byte, 32<<10)
		for {
			n, err := from.Read(b)
			if err != nil {
				_ = to.Close()
				return
			}
			if ctx.Err() != nil {
				continue
			}
			if _, err := to.Write(b[:n]); err != nil {
				_, _ = io.Copy(io.Discard, from)
				return
			}
		}
	}
	copying.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				_ = near.Close()
				continue
			}
			mu.Lock()
			open = append(open, near, far)
			mu.Unlock()
			copying.Go(func() { pass(far, near) })
			copying.Go(func() { pass(near, far) })
		}
	})
	t.Cleanup(func() {
		freeze()
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		copying.Wait()
	})
	return frozen{l.Addr().String(), freeze}
}

// TestThirdSignalEndsAtOnce: where not even hurrying helps, since a broker says
// nothing any more, a third signal does what signals do by themselves.
func TestThirdSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, err := url.Parse(w.rabbitmq)
	if err != nil {
		t.Fatal(err)
	}
	way := newFrozen(t, u.Host)
	u.Host = way.address
	p := w.worker("echo", "--rabbitmq", u.String())
	p.says(t, "the worker takes requests")
	way.freeze()
	p.signal(t, syscall.SIGTERM)
	p.says(t, "msg=stopping")
	p.signal(t, syscall.SIGTERM)
	p.says(t, "hurrying")
	p.signal(t, syscall.SIGTERM)
	p.ends(t, -1) // by a signal
	if strings.Contains(p.out.String(), "msg=\"ended") {
		t.Error("it ended by itself: nothing was tested")
	}
	w.stop()
}
