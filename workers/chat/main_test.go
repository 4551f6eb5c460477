package chat_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
	"github.com/motto123/minigate/workers/chat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	alice = 1001
	bob   = 1002
	carol = 1003
)

// everywhere runs a test on each kind of database, with an empty one.
func everywhere(t *testing.T, f func(t *testing.T, open func() *sqldb.DB)) {
	t.Run("sqlite", func(t *testing.T) {
		f(t, prepare(t, "sqlite:"+filepath.Join(t.TempDir(), "chat.db")))
	})
	t.Run("mysql", func(t *testing.T) {
		server := os.Getenv("MINIGATE_TEST_MYSQL")
		if server == "" {
			t.Fatal("MINIGATE_TEST_MYSQL is not set: it names a MySQL or MariaDB whose user may create databases, as in root:pw@tcp(127.0.0.1:3306)/")
		}
		name := fmt.Sprintf("minigate_chat_%d", rand.Uint64())
		open := prepare(t, server+name)
		t.Cleanup(func() {
			db := open()
			if _, err := db.ExecContext(context.Background(), "DROP DATABASE "+name); err != nil {
				t.Error(err)
			}
			_ = db.Close()
		})
		f(t, open)
	})
}

// prepare applies the schema and returns how to open the database: each replica
// of the service opens it for itself.
func prepare(t *testing.T, address string) func() *sqldb.DB {
	t.Helper()
	schema, err := os.ReadFile("../../schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	open := func() *sqldb.DB {
		db, err := sqldb.Open(context.Background(), sqldb.Config{Address: address})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	db := open()
	defer func() { _ = db.Close() }()
	if err := sqldb.Init(t.Context(), db, string(schema)); err != nil {
		t.Fatal(err)
	}
	return open
}

// world is what the service sees of the rest.
type world struct {
	ids   atomic.Int64
	asked atomic.Int64 // for users

	mu      sync.Mutex
	pushes  []push
	pushErr error
	userErr error
}

type push struct {
	user    int64
	id      uint64
	message *chatpb.Message
}

func (w *world) Next(context.Context) (int64, error) { return w.ids.Add(1), nil }

func (w *world) Users(_ context.Context, in *authpb.UsersRequest, _ ...grpc.CallOption) (*authpb.UsersResponse, error) {
	w.asked.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	out := &authpb.UsersResponse{}
	for _, id := range in.GetIds() {
		if id == alice || id == bob || id == carol {
			out.Users = append(out.Users, &authpb.User{Id: id})
		}
	}
	return out, w.userErr
}

func (w *world) push(_ context.Context, user int64, id uint64, m *chatpb.Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pushes = append(w.pushes, push{user, id, m})
	return w.pushErr
}

func (w *world) pushed() []push {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]push(nil), w.pushes...)
}

// replica is one more process of the service.
func (w *world) replica(t *testing.T, db *sqldb.DB) *chat.Service {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	s, err := chat.New(chat.Config{DB: db, IDs: w, Users: w, Push: w.push, Log: log, HistoryBytes: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return s
}

func send(t testing.TB, s *chat.Service, from, to int64, id, text string) *chatpb.SendResponse {
	t.Helper()
	out, err := s.Send(t.Context(), from, &chatpb.SendRequest{To: to, ClientId: id, Text: text})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v (%s), want %s", what, err, got, want)
	}
}

var errTest = errors.New("test")

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
