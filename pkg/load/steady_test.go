package load

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/motto123/minigate/codec"
)

// steady is a connection with requests in flight, over a pair of sockets whose
// other end is the test's. turn has all of them answered, and the next ones sent.
func steady(t testing.TB, webSocket bool, cfg Config) (l *loop, turn func()) {
	t.Helper()
	cfg.Gates, cfg.Bare = []string{"tcp://127.0.0.1:1"}, true
	load, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if l, err = newLoop(load, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.poller.Close() })
	load.stopped.Store(true) // the connection is made here
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(pair[1]) })
	if err := unix.SetNonblock(pair[0], true); err != nil {
		t.Fatal(err)
	}
	c := &conn{loop: l, fd: int32(pair[0]), target: &target{webSocket: webSocket}}
	l.keep(c)
	c.establish(l.text, 0)
	l.begin()
	l.now = int64(step)
	l.sendDue()

	in := make([]byte, 64<<10)
	out := make([]byte, 0, 64<<10)
	return l, func() {
		n, err := unix.Read(pair[1], in)
		if err != nil {
			t.Fatal(err)
		}
		out = out[:0]
		for b := in[:n]; len(b) > 0; {
			// A frame of 200 bytes and some has a header of 4 bytes and a mask of 4.
			if webSocket {
				out = append(out, b[0], b[1]&0x7f, b[2], b[3])
				b = b[8:]
			}
			_, size, err := codec.DecodePacket(b)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b[:size]...)
			b = b[size:]
		}
		if _, err := unix.Write(pair[1], out); err != nil {
			t.Fatal(err)
		}
		if err := l.event(int(c.fd), 0, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestARequestAllocatesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		webSocket bool
		cfg       Config
	}{
		"tcp": {false, Config{InFlight: 8}}, "websocket": {true, Config{InFlight: 8}},
		"rate": {true, Config{InFlight: 8, Rate: 10_000_000}},
	} {
		l, turn := steady(t, c.webSocket, c.cfg)
		turn()
		before := l.answers
		if n := testing.AllocsPerRun(200, turn); n != 0 {
			t.Errorf("%s: %v allocations a turn of eight requests", name, n)
		}
		if n := l.answers - before; n != 201*8 || l.wrong != 0 {
			t.Errorf("%s: %d answers, %d wrong", name, n, l.wrong)
		}
	}
}

// BenchmarkLoad is the generator's cost of a request and its answer, with the
// system's for both ends of the socket.
func BenchmarkLoad(b *testing.B) {
	for name, inFlight := range map[string]int{"1": 1, "8": 8} {
		b.Run(name, func(b *testing.B) {
			_, turn := steady(b, true, Config{InFlight: inFlight})
			b.ReportAllocs()
			for i := 0; i < b.N; i += inFlight {
				turn()
			}
		})
	}
}

// A machine that holds a million sessions has their clients on it too.
func TestAnIdleConnectionIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(conn{}); n > 80 {
		t.Errorf("a connection has %d bytes, want 80 at the most", n)
	}
}

// What came in part is kept by its connection, and taken away when it is whole.
func TestWhatIsPartialIsKeptAndLetGo(t *testing.T) {
	for _, webSocket := range []bool{false, true} {
		l, turn := steady(t, webSocket, Config{InFlight: 1})
		turn()
		c := l.conns[0]
		if c.partial != nil {
			t.Fatalf("between messages there is %+v", c.partial)
		}
		packet, err := codec.AppendPacket(nil, codec.Heartbeat, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if webSocket {
			packet = append([]byte{0x82, byte(len(packet))}, packet...)
		}
		for i := range packet {
			if err := c.received(packet[i : i+1]); err != nil {
				t.Fatal(err)
			}
			c.settle()
			if whole := i == len(packet)-1; whole != (c.partial == nil) {
				t.Errorf("websocket %v, after %d of %d bytes: %+v", webSocket, i+1, len(packet), c.partial)
			}
		}
		if l.spare == nil {
			t.Error("nothing is kept for the next one")
		}
	}
}
