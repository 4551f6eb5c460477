package workers

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/authrpc"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/redisdb"
	"github.com/motto123/minigate/pkg/snowflakes"
	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
)

// TestAuthIsFoundInEtcd: as long as it runs, under the prefix of the installation.
func TestAuthIsFoundInEtcd(t *testing.T) {
	etcd := os.Getenv("MINIGATE_TEST_ETCD")
	if etcd == "" {
		t.Fatal("MINIGATE_TEST_ETCD is not set: want host:port of an etcd, as `deploy/services.sh up` says")
	}
	prefix := fmt.Sprintf("workers-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	calls, err := authrpc.New(authrpc.Config{Address: "etcd://" + etcd + "/" + prefix + "/auth", Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer calls.Close()

	p, _ := newProcess(t)
	b := mem.New(mem.Config{Topology: bus.NewTopology(prefix)})
	p.Parts.Closing("the bus", b)
	p.Worker.Bus, p.Worker.Log, p.Worker.Topology = b, p.Log, bus.NewTopology(prefix)
	e, err := redisdb.OpenEmbedded("")
	if err != nil {
		t.Fatal(err)
	}
	p.Redis = e
	p.Parts.Start("redis", e.Run)
	p.DB = sqldbtest.SQLite(t)
	if p.IDs, err = snowflakes.New(snowflakes.Config{Redis: e, Log: p.Log}); err != nil {
		t.Fatal(err)
	}
	p.Parts.Start("ids", p.IDs.Run)
	p.AuthGRPC = "0.0.0.0:0"
	p.Etcd = Etcd{Servers: []string{etcd}, Lease: time.Hour}
	if err := p.Start("auth"); err != nil {
		t.Fatal(err)
	}
	if _, err := calls.Verify(t.Context(), "bad", "g", 7); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a bad token: got %v", err)
	}
	p.Parts.Stop()
	if err := p.Parts.Wait(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := calls.Verify(ctx, "bad", "g", 7); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("after its end: got %v", err)
	}

	bad, _ := newProcess(t)
	bad.DB, bad.Redis, bad.IDs, bad.AuthGRPC, bad.Etcd = p.DB, p.Redis, p.IDs, "127.0.0.1:0", Etcd{Servers: []string{etcd}}
	if err := bad.Start("auth"); err == nil {
		t.Error("a lease of nothing was taken")
	}
}
