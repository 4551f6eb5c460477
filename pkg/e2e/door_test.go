package e2e_test

import (
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// door stands before a service, and nothing listens there before it is open.
type door struct {
	t               *testing.T
	address, target string
	running         sync.WaitGroup

	mu    sync.Mutex
	done  bool
	conns []net.Conn
}

func newDoor(t *testing.T, target string) *door {
	return &door{t: t, address: freePort(t), target: target}
}

var hostPort = regexp.MustCompile(`127\.0\.0\.1:\d+|localhost:\d+|\[::1\]:\d+`)

// hostOf is the host:port in a URL or a DSN.
func hostOf(t *testing.T, url string) string {
	t.Helper()
	found := hostPort.FindString(url)
	if found == "" {
		t.Fatal("there is no loopback address in what MINIGATE_TEST_… says")
	}
	return found
}

// behind is the URL of a service, by way of the door.
func (d *door) behind(url string) string { return strings.Replace(url, d.target, d.address, 1) }

// open lets everybody through from now on.
func (d *door) open() {
	d.t.Helper()
	l, err := net.Listen("tcp", d.address)
	if err != nil {
		d.t.Fatal(err)
	}
	d.running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", d.target)
			if err != nil {
				_ = near.Close()
				continue
			}
			d.join(near, far)
		}
	})
	d.t.Cleanup(func() {
		_ = l.Close()
		d.mu.Lock()
		d.done = true
		for _, c := range d.conns {
			_ = c.Close()
		}
		d.mu.Unlock()
		d.running.Wait()
	})
}

// join copies both ways until either side ends.
func (d *door) join(near, far net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done {
		_, _ = near.Close(), far.Close()
		return
	}
	d.conns = append(d.conns, near, far)
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		d.running.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_, _ = way[0].Close(), way[1].Close()
		})
	}
}
