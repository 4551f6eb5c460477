package stream

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/proto/tapepb"
)

const patience = 60 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// broker is the URL of the broker that the tests share.
func broker(t testing.TB) string {
	t.Helper()
	url := os.Getenv("MINIGATE_TEST_RABBITMQ")
	if url == "" {
		t.Fatal("MINIGATE_TEST_RABBITMQ is not set: it names a RabbitMQ, as 'deploy/services.sh run go test ./pkg/tape/...' does")
	}
	return url
}

// unused is a topology that no other test has.
func unused() bus.Topology { return bus.NewTopology("test-" + rand.Text()[:10]) }

// own is one whose stream is gone afterwards.
func own(t testing.TB, url string) bus.Topology {
	t.Helper()
	topology := unused()
	t.Cleanup(func() { remove(t, url, topology) })
	return topology
}

func remove(t testing.TB, url string, topology bus.Topology) {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Errorf("connect: %v", err)
		return
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err == nil {
		_, err = ch.QueueDelete(topology.TapeStream(), false, false, false)
	}
	if err != nil {
		t.Errorf("delete the stream: %v", err)
	}
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// writer is a store that runs, and numbers what it writes.
type writer struct {
	*Store
	t    testing.TB
	log  *test.Hook
	next int
	stop func()
}

func newWriter(t testing.TB, url string, topology bus.Topology, bound int64) *writer {
	t.Helper()
	log, hook := test.NewNullLogger()
	s, err := NewStore(Config{URL: url, Topology: topology, MaxBytes: bound, MaxAge: time.Hour, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	w := &writer{Store: s, t: t, log: hook}
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

// batch has two entries, of these numbers, with some bytes besides.
func batch(t testing.TB, first, size int) tape.Batch {
	t.Helper()
	all := new(tapepb.Batch)
	at := time.Now()
	for n := first; n < first+2; n++ {
		all.Entries = append(all.Entries, &tapepb.Entry{
			Kind: uint32(tape.Requests), Time: at.UnixNano(), Worker: strconv.Itoa(n), Envelope: make([]byte, size/2),
		})
	}
	b, err := proto.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return tape.Batch{Body: b, Entries: 2, Last: at}
}

// write writes so many batches, and returns when the broker has them.
func (w *writer) write(batches, size int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	outcomes := make(chan error, batches)
	for range batches {
		w.Write(ctx, batch(w.t, w.next, size), func(err error) { outcomes <- err })
		w.next += 2
	}
	for range batches {
		if err := <-outcomes; err != nil {
			w.t.Fatalf("write: %v", err)
		}
	}
}

func open(t testing.TB, url string, topology bus.Topology) *Source {
	t.Helper()
	s, err := Open(url, topology)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func number(e *tape.Entry) int {
	n, err := strconv.Atoi(e.Worker)
	if err != nil {
		return -1
	}
	return n
}

// readAll is what is there from a start, each with its place.
func readAll(t testing.TB, s *Source, start tape.Start) (numbers []int, places []tape.Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Read(ctx, start, false, func(e *tape.Entry) error {
		numbers, places = append(numbers, number(e)), append(places, e.Position)
		return nil
	}); err != nil || ctx.Err() != nil {
		t.Fatalf("read from %+v: %v, %v", start, err, ctx.Err())
	}
	return numbers, places
}

func wantRange(t testing.TB, what string, got []int, from, to int) {
	t.Helper()
	for i, n := range got {
		if n != from+i {
			t.Errorf("%s: entry %d is %d, want %d", what, i, n, from+i)
			return
		}
	}
	if len(got) != to-from {
		t.Errorf("%s: %d entries from %d on, want those to %d", what, len(got), from, to-1)
	}
}

// following is a Read that follows.
type following struct{ got chan int }

func follow(t testing.TB, s *Source, start tape.Start) *following {
	t.Helper()
	f := &following{got: make(chan int, 1<<16)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Read(ctx, start, true, func(e *tape.Entry) error { f.got <- number(e); return nil })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("follow: %v", err)
		}
	})
	return f
}

// want waits for the entries from one number to another.
func (f *following) want(t testing.TB, from, to int) {
	t.Helper()
	deadline := time.After(patience)
	for n := from; n < to; n++ {
		select {
		case got := <-f.got:
			if got != n {
				t.Fatalf("got %d, want %d", got, n)
			}
		case <-deadline:
			t.Fatalf("%d does not come within %v", n, patience)
		}
	}
}

// node is a broker of a test's own, which it may restart and kill.
type node struct {
	t   testing.TB
	dir string
}

func newNode(t testing.TB) *node {
	t.Helper()
	if os.Getenv("MINIGATE_TEST_RABBITMQ_CTL") == "" {
		t.Fatal("MINIGATE_TEST_RABBITMQ_CTL is not set: it is what 'deploy/services.sh run' sets it to, the script itself")
	}
	n := &node{t, t.TempDir()}
	t.Cleanup(func() { n.do("remove") })
	return n
}

// do runs `services.sh rabbit DIR action…` and returns what it prints.
func (n *node) do(action ...string) string {
	n.t.Helper()
	cmd := exec.Command(os.Getenv("MINIGATE_TEST_RABBITMQ_CTL"), append([]string{"rabbit", n.dir}, action...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		n.t.Fatalf("rabbit %s: %v\n%s", action, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// proxy stands between a store and its broker.
type proxy struct {
	url      string
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
	muted chan struct{} // closed while the broker's answers pass
}

func newProxy(t testing.TB, broker string) *proxy {
	t.Helper()
	u, err := url.Parse(broker)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: u.Host, muted: make(chan struct{})}
	close(p.muted)
	u.Host = listener.Addr().String()
	p.url = u.String()
	p.running.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.cut()
		p.running.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		p.running.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
		p.running.Go(func() { p.answer(client, server) })
	}
}

// answer passes on what the broker says, while it may.
func (p *proxy) answer(client, server net.Conn) {
	defer client.Close()
	b := make([]byte, 4096)
	for {
		n, err := server.Read(b)
		p.mu.Lock()
		muted := p.muted
		p.mu.Unlock()
		<-muted
		if _, failed := client.Write(b[:n]); err != nil || failed != nil {
			return
		}
	}
}

// mute lets nothing through that the broker says.
func (p *proxy) mute() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muted = make(chan struct{})
}

// cut closes all connections; new ones are let through.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
	select {
	case <-p.muted:
	default:
		close(p.muted)
	}
}
