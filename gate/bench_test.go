package gate

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
)

// mirror is a broker and a service in one: it answers each envelope of requests
// with one of replies. Its buffers go round, so that what a benchmark counts is the
// gate's.
type mirror struct {
	gate  *Gate
	free  chan *mirrored
	reply bus.Reply
	head  bus.Header
}

type mirrored struct {
	body   []byte
	settle func(bus.Settlement) error
}

func newMirror() *mirror {
	m := &mirror{free: make(chan *mirrored, 16)}
	for range cap(m.free) {
		e := new(mirrored)
		e.settle = func(bus.Settlement) error { m.free <- e; return nil }
		m.free <- e
	}
	return m
}

func (m *mirror) Publish(message bus.Message, done func(error)) {
	e := <-m.free
	e.body = e.body[:0]
	err := bus.ReadRequests(message.Body, &m.head, func(r *bus.Request) error {
		m.reply = bus.Reply{Session: r.Session, Sequence: r.Sequence, DataType: r.DataType, Name: r.Name, Data: r.Data}
		e.body = bus.AppendReply(e.body, &m.reply)
		return nil
	})
	done(err)
	m.gate.deliver(bus.Delivery{Body: e.body, Settle: e.settle})
}

func (m *mirror) Close() error { return nil }

// running is a fake gate whose loop, publisher and acks run.
func running(b *testing.B) (*Gate, *loop) {
	m := newMirror()
	turns := make(chan func(), 1024)
	g, l := newFake(b, m, func(f func()) error { turns <- f; return nil })
	m.gate = g
	if err := g.dictionary.Add("echo.echo"); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() { _ = g.shards[0].Run(ctx) })
	wait.Go(func() { g.ack(ctx) })
	wait.Go(func() {
		for {
			select {
			case f := <-turns:
				f()
			case <-ctx.Done():
				return
			}
		}
	})
	b.Cleanup(func() { cancel(); wait.Wait() })
	return g, l
}

// BenchmarkGate is the gate's part of a request and its reply: packet, message,
// session, envelope, and back. The numbers are of clients that each have so many
// requests in flight.
func BenchmarkGate(b *testing.B) {
	for _, x := range []struct{ clients, each int }{{1, 1}, {256, 1}, {256, 8}} {
		b.Run(fmt.Sprintf("%dx%d", x.clients, x.each), func(b *testing.B) {
			_, l := running(b)
			ms := dataPackets(request(1, "echo.echo", string(make([]byte, 200))))
			burst := bytes.Repeat(ms, x.each)
			left := b.N
			ended := make(chan struct{})
			onLoopWait(l, func() {
				for range x.clients {
					s, c := l.fakeSession()
					s.received(packet(codec.Handshake, 0, []byte(hi(""))))
					answers := 0
					again := func() { s.received(burst) } // the turn ends with one flush
					c.wrote = func(p []byte) {
						for len(p) > 0 && p[0] == byte(codec.Data) {
							_, n, err := codec.DecodePacket(p)
							if err != nil {
								panic(err)
							}
							p = p[n:]
							answers++
							if left--; left == 0 {
								close(ended)
							}
						}
						if answers == x.each && left > 0 {
							answers = 0
							l.post(again)
						}
					}
				}
				l.flush()
			})
			b.ReportAllocs()
			b.ResetTimer()
			onLoopWait(l, func() {
				for _, s := range l.sessions {
					s.received(burst)
				}
				l.flush()
			})
			<-ended
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
	}
}

func onLoopWait(l *loop, f func()) {
	done := make(chan struct{})
	l.post(func() { f(); close(done) })
	<-done
}

func inline(f func()) error { f(); return nil }

// BenchmarkSessionWrite is a reply on its way out: encoded and given to the
// transport.
func BenchmarkSessionWrite(b *testing.B) {
	_, l := newFake(b, nil, inline)
	s, c := l.fakeSession()
	s.received(packet(codec.Handshake, 0, []byte(hi(""))))
	c.wrote = func([]byte) {}
	p := pending{id: 7, route: "echo.echo"}
	body := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		s.respond(&p, codec.Response, codec.Protobuf, nil, body)
		l.flush()
	}
}

// BenchmarkPushFanOut is a push to 10,000 sessions; ns/session is what counts.
func BenchmarkPushFanOut(b *testing.B) {
	const n = 10_000
	_, l := newFake(b, nil, inline)
	for range n {
		s, c := l.fakeSession()
		s.received(packet(codec.Handshake, 0, []byte(hi(""))))
		c.wrote = func([]byte) {}
	}
	l.flush()
	push := &bus.Reply{Everyone: true, Route: "chat.message", Data: make([]byte, 200), JSON: make([]byte, 300)}
	b.ReportAllocs()
	for b.Loop() {
		var cache pushCache
		l.push(push, &cache)
		l.flush()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/session")
}

func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// BenchmarkIdleSession reports what a session holds that has done its handshake,
// without its transport.
func BenchmarkIdleSession(b *testing.B) {
	const n = 10_000
	for b.Loop() {
		_, l := newFake(b, nil, inline)
		conns := make([]fakeConn, n)
		before := memory()
		for i := range conns {
			_, counted := l.gate.admit(netip.Addr{})
			s := newSession(l, &conns[i], overTCP, netip.Addr{})
			s.counted, conns[i].session, conns[i].wrote = counted, s, func([]byte) {}
			s.received(packet(codec.Handshake, 0, []byte(hi(""))))
			l.flush()
		}
		b.ReportMetric(float64(memory()-before)/n, "B/session")
		runtime.KeepAlive(conns)
		runtime.KeepAlive(l)
	}
}

// BenchmarkIdleConnection reports what a connection holds, over a poller and a real
// socket: heap and stacks. Its clients are bare descriptors, which hold nothing.
func BenchmarkIdleConnection(b *testing.B) {
	const n = 4000
	r := start(b, func(c *Config) { c.Limits.Connections = 2 * n })
	address := r.gate.TCPAddress()
	hello := packet(codec.Handshake, 0, []byte(hi("")))
	warm := r.login(b, overTCP, "")
	for b.Loop() {
		before := memory()
		var fds []int
		answer := make([]byte, 4096)
		for range n {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err == nil {
				err = unix.Connect(fd, &unix.SockaddrInet4{Port: portOf(address), Addr: [4]byte{127, 0, 0, 1}})
			}
			if err == nil {
				_, err = unix.Write(fd, hello)
			}
			if err == nil {
				_, err = unix.Read(fd, answer)
			}
			if err != nil {
				b.Fatal(err)
			}
			fds = append(fds, fd)
		}
		b.ReportMetric(float64(memory()-before)/n, "B/connection")
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		end := time.Now().Add(patience)
		for r.gate.stats.Connections.Load() > 1 && time.Now().Before(end) {
			runtime.Gosched()
		}
	}
	warm.close()
}

func portOf(address string) (port int) {
	_, _ = fmt.Sscanf(address, "127.0.0.1:%d", &port)
	return port
}
