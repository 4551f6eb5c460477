package auth

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/proto/authpb"
)

// requested is a context of somebody's request.
func requested(ctx context.Context) (context.Context, tracing.Request) {
	r := tracing.Request{Gate: "g1", Session: 7, Sequence: 77}
	return tracing.With(ctx, r), r
}

// TestLinesNameTheRequest: also those that are not written by handlers of the bus.
func TestLinesNameTheRequest(t *testing.T) {
	f := newFixture(t, sqldbtest.SQLite(t), inProcess(t), Config{})
	var said bytes.Buffer
	f.cfg.Log.(*logrus.Logger).SetOutput(&said)
	ctx, _ := requested(t.Context())
	wants := func(what string) {
		t.Helper()
		for _, field := range []string{"gate=g1", "session=7", "request=77"} {
			if !strings.Contains(said.String(), field) {
				t.Errorf("%s: the log does not say %s:\n%s", what, field, said.String())
			}
		}
		said.Reset()
	}
	wantCode(t, "unavailable", f.unavailable(ctx, "test", errors.New("away")), codes.Unavailable)
	wants("a store that is away")
	if _, err := f.cfg.DB.ExecContext(ctx, "ALTER TABLE users RENAME COLUMN nickname TO gone"); err != nil {
		t.Fatal(err)
	}
	_, err := server{service: f.Service}.Users(ctx, &authpb.UsersRequest{Ids: []int64{1}})
	wantCode(t, "users", err, codes.Internal)
	wants("a call by gRPC")
}

// TestAResetIsItsRequests: although it is mailed when the request is over.
func TestAResetIsItsRequests(t *testing.T) {
	f := newFixture(t, sqldbtest.SQLite(t), inProcess(t), Config{})
	f.run(t)
	f.add(t, "ann")
	ctx, want := requested(from(t))
	ctx, cancel := context.WithCancel(ctx)
	if _, err := f.RequestReset(ctx, &authpb.RequestResetRequest{Account: "ann"}); err != nil {
		t.Fatal(err)
	}
	cancel()
	eventually(t, "the code is mailed", func() bool { return f.events.count(eventPasswordReset) == 1 })
	f.events.mu.Lock()
	defer f.events.mu.Unlock()
	if got, _ := tracing.RequestOf(f.events.events[len(f.events.events)-1].of); got != want {
		t.Errorf("the mail came of %v, want %v", got, want)
	}
}
