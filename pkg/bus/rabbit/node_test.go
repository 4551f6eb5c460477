package rabbit

import (
	"bytes"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

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

// proxy stands between a bus and its broker.
type proxy struct {
	url      string
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu     sync.Mutex
	resume chan struct{} // closed while bytes pass
	conns  map[net.Conn]struct{}
	hidden bool // connections are closed as soon as they come
	denied int  // of them
	closed bool
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
	p := &proxy{listener: listener, target: u.Host, resume: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	close(p.resume)
	u.Host = listener.Addr().String()
	p.url = u.String()
	p.running.Add(1)
	go p.accept()
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.pass()
		p.cut()
		p.running.Wait()
	})
	return p
}

func (p *proxy) accept() {
	defer p.running.Done()
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
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		if p.closed || p.hidden {
			p.denied++
			_ = client.Close()
			_ = server.Close()
		}
		p.mu.Unlock()
		p.running.Add(2)
		go p.copy(client, server)
		go p.copy(server, client)
	}
}

func (p *proxy) copy(to, from net.Conn) {
	defer p.running.Done()
	defer func() {
		_ = to.Close()
		_ = from.Close()
		p.mu.Lock()
		delete(p.conns, from)
		p.mu.Unlock()
	}()
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		resume := p.resume
		p.mu.Unlock()
		<-resume
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// deny waits until so many more connections were closed at once.
func (p *proxy) deny(t testing.TB, n int) {
	t.Helper()
	count := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.denied
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	before := count()
	for end := time.Now().Add(patience); count() < before+n; <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%d connections in %v, want %d", count()-before, patience, n)
		}
	}
}

func (p *proxy) hide() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hidden = true
}

func (p *proxy) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hidden = false
}

// cut closes all connections; new ones are let through.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// stall lets nothing pass, and closes nothing.
func (p *proxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resume = make(chan struct{})
}

func (p *proxy) pass() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.resume:
	default:
		close(p.resume)
	}
}
