package discovery_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/discovery"
)

func TestCheck(t *testing.T) {
	for _, good := range []string{
		"auth:7102", "127.0.0.1:7102", "[::1]:7102,other:1", " a:1 , b:2 ", ":7102", "dns:///auth:7102", "dns://1.1.1.1/auth.ns.svc:7102",
		"dns://127.0.0.1:5353/auth:1", "dns://[::1]:53/auth:1", "etcd://e:2379/minigate/auth", "etcd://e:2379,f:2379/auth", "etcd://e:2379/auth/",
	} {
		if err := discovery.Check(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", ",", "auth", "auth:", ":", "auth:0", "auth:65536", "auth:http", "a:1,", "a:1,b", "a:1 b:2", "a/b:1",
		"dns:///auth", "dns://auth:7102", "dns:///:7102", "dns:///a:1,b:2", "dns://x:y/auth:1", "dns://auth:7102/", "dns:///a/b:1",
		"etcd:///minigate/auth", "etcd://e/minigate/auth", "etcd://e:2379", "etcd://e:2379/", "etcd://e:2379//", "http://auth:7102", "://", "x://a:1",
	} {
		err := discovery.Check(bad)
		if err == nil || !strings.Contains(err.Error(), "want "+discovery.Want) {
			t.Errorf("%q: %v", bad, err)
		}
		if _, dialled := discovery.Dial(bad, discovery.Config{}); dialled == nil {
			t.Errorf("%q was dialled", bad)
		}
	}
}

func TestAddresses(t *testing.T) {
	for target, want := range map[string]string{
		"auth:7102": "auth:7102", " a:1 , [::1]:2 ": "a:1 [::1]:2", "dns:///auth:7102": "auth:7102", "dns://1.1.1.1/auth.ns.svc:7102": "auth.ns.svc:7102",
		"etcd://e:2379/minigate/auth": "", "nonsense": "",
	} {
		if got := strings.Join(discovery.Addresses(target), " "); got != want {
			t.Errorf("%q: got %q, want %q", target, got, want)
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, seed := range []string{"a:1,b:2", "dns://1.1.1.1:53/auth:1", "etcd://a:1,b:2/c/d", "[::1%25lo]:1", "://,:/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if discovery.Check(text) != nil {
			return
		}
		conn, err := discovery.Dial(text, discovery.Config{}) // connects with the first call, which never comes
		if err != nil {
			t.Fatalf("%q is good, and can not be dialled: %v", text, err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// repeatable lets calls be tried again.
var repeatable = discovery.Config{Repeatable: []string{service}}

func TestList(t *testing.T) {
	a, stopA := serve(t, "127.0.0.1:0")
	b, _ := serve(t, "127.0.0.1:0")
	conn := dial(t, a+", "+b+","+a, repeatable)
	shared(t, conn, a, b)
	stopA()
	for range 50 { // none fails
		if who := answer(t, conn); who != b {
			t.Errorf("answered by %s", who)
		}
	}
	serve(t, a)
	shared(t, conn, a, b)
}

// TestWaits: a call waits for a replica until its context ends, and then says what
// was wrong.
func TestWaits(t *testing.T) {
	t.Run("calls that are done once", func(t *testing.T) { testWaits(t, discovery.Config{}) })
	t.Run("calls that may be repeated", func(t *testing.T) { testWaits(t, repeatable) })
}

func testWaits(t *testing.T, cfg discovery.Config) {
	address, stop := serve(t, "127.0.0.1:0")
	stop()
	conn := dial(t, address, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := ask(ctx, conn)
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	answered := make(chan string, 1)
	go func() {
		who, err := ask(t.Context(), conn)
		if err != nil {
			who = err.Error()
		}
		answered <- who
	}()
	serve(t, address)
	if who := <-answered; who != address {
		t.Errorf("answered by %s", who)
	}
}
