package dead

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// tap stands between the command and the broker, and sees each AMQP method that the
// command sends.
type tap struct {
	url      string
	listener net.Listener
	to       string
	wait     sync.WaitGroup

	before func(method) // is called before a method goes on to the broker
	after  func(method) // and after it has, where it is set

	mu   sync.Mutex
	ends []net.Conn
}

// method is class and number of an AMQP method (0-9-1, section 1.3).
type method struct{ class, number uint16 }

var (
	basicPublish = method{60, 40}
	basicGet     = method{60, 70}
	basicAck     = method{60, 80}
	txCommit     = method{90, 20}
)

func newTap(t *testing.T, before, after func(method)) *tap {
	t.Helper()
	u, err := url.Parse(broker(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{listener: l, to: u.Host, before: before, after: after}
	u.Host = l.Addr().String()
	p.url = u.String()
	p.wait.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.wait.Wait()
	})
	return p
}

func (p *tap) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		p.mu.Lock()
		p.ends = append(p.ends, near, far)
		p.mu.Unlock()
		p.wait.Go(func() {
			_, _ = io.Copy(near, far)
			_, _ = near.Close(), far.Close()
		})
		p.wait.Go(func() {
			p.watch(near, far)
			_, _ = near.Close(), far.Close()
		})
	}
}

// cut loses all connections.
func (p *tap) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.ends {
		_ = c.Close()
	}
	p.ends = nil
}

// watch passes on what the command sends, frame by frame: a byte of type, two of the
// channel, four of the size, the payload, and a byte at the end.
func (p *tap) watch(from io.Reader, to io.Writer) {
	in := bufio.NewReader(from)
	protocol := make([]byte, 8) // "AMQP" and the version
	if _, err := io.ReadFull(in, protocol); err != nil {
		return
	}
	if _, err := to.Write(protocol); err != nil {
		return
	}
	for {
		head := make([]byte, 7)
		if _, err := io.ReadFull(in, head); err != nil {
			return
		}
		frame := append(head, make([]byte, int(binary.BigEndian.Uint32(head[3:]))+1)...)
		if _, err := io.ReadFull(in, frame[7:]); err != nil {
			return
		}
		var m method
		if frame[0] == 1 {
			m = method{binary.BigEndian.Uint16(frame[7:]), binary.BigEndian.Uint16(frame[9:])}
			p.before(m)
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
		if frame[0] == 1 && p.after != nil {
			p.after(m)
		}
	}
}
