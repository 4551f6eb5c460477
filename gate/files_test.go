package gate

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/motto123/minigate/codec"
)

const fewFilesEnv = "MINIGATE_TEST_FEW_FILES"

// TestOutOfFiles: a gate that has no file descriptor left goes on serving whom it
// has, and takes others when it has one again. The gate runs in a process of its
// own, which has few.
func TestOutOfFiles(t *testing.T) {
	if os.Getenv(fewFilesEnv) != "" {
		serveWithFewFiles(t)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestOutOfFiles$", "-test.v")
	child.Env = append(os.Environ(), fewFilesEnv+"=1")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	line := func(prefix string) string {
		t.Helper()
		for said.Scan() {
			if rest, ok := strings.CutPrefix(said.Text(), prefix); ok {
				return rest
			}
		}
		t.Fatalf("the gate's process ended without saying %q", prefix)
		return ""
	}
	tcp := line("tcp ")
	web := line("websocket ")
	r := &rig{t: t, gate: &Gate{cfg: Config{TCP: tcp, WebSocket: web}}}

	first := r.login(t, overTCP, "")
	var crowd []net.Conn
	for range 200 {
		c, err := net.DialTimeout("tcp", tcp, patience)
		if err != nil {
			t.Fatal(err) // the kernel's queue holds them all
		}
		crowd = append(crowd, c)
	}
	line("accept failed")
	if m := first.call(request(1, "echo.echo", "still here")); string(m.Body) != "still here" {
		t.Errorf("got %q", m.Body)
	}
	for _, c := range crowd {
		_ = c.Close()
	}
	for _, over := range []transport{overTCP, overWebSocket} {
		if c := r.login(t, over, ""); string(c.call(request(1, "echo.echo", "again")).Body) != "again" {
			t.Errorf("no echo over %v", over)
		}
	}
	_ = in.Close()
	line("connections")
	if err := child.Wait(); err != nil {
		t.Errorf("the gate's process: %v", err)
	}
}

func serveWithFewFiles(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.Connections = 1000 })
	serve(t, r.bus, "echo", echo)
	// Loops and listeners are there; from now on the process may open 20 more.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	limit.Cur = uint64(len(open) + 20)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("tcp %s\nwebsocket %s\n", r.gate.TCPAddress(), r.gate.WebSocketAddress())
	end := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(end)
	}()
	eventually(t, "accept fails", func() bool { return r.gate.stats.AcceptsFailed.Load() > 0 })
	fmt.Println("accept failed")
	select {
	case <-end:
	case <-time.After(time.Minute):
		t.Error("nobody ends this process")
	}
	fmt.Println("connections", r.gate.stats.Connections.Load())
}

// TestFileLimit: the default limit of connections, those over it included, leaves
// descriptors for the rest of the process.
func TestFileLimit(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	g, err := New(Config{TCP: "127.0.0.1:0", Bus: start(t).bus})
	if err != nil {
		t.Fatal(err)
	}
	l := g.cfg.Limits
	if n := uint64(l.Connections + l.overLimit()); n >= limit.Cur || l.Connections > 10_000 || l.Connections < 16 {
		t.Errorf("%d connections and %d over that, of %d files", l.Connections, l.overLimit(), limit.Cur)
	}
}

// TestManyAtOnce: connections that come all at once are spread over the loops, and
// none is lost.
func TestManyAtOnce(t *testing.T) {
	r := start(t)
	serve(t, r.bus, "echo", echo)
	const n = 300
	clients := make([]*wire, n)
	for i := range clients {
		clients[i] = r.connect(t, overTCP)
		clients[i].packet(codec.Handshake, 0, []byte(hi("")))
	}
	for i, c := range clients {
		if a := c.answer(); a.Code != 200 {
			t.Fatalf("client %d: %+v", i, a)
		}
	}
	if n := r.gate.stats.Connections.Load(); n != int64(len(clients)) {
		t.Errorf("%d connections, want %d", n, len(clients))
	}
	loops := r.gate.loops
	if len(loops) != 2 {
		t.Fatalf("%d loops have sessions, want 2", len(loops))
	}
}
