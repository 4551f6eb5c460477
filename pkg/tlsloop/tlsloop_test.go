package tlsloop

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/certificates/certtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestBuffersAreFound: where this fails, crypto/tls has changed, and buffers.go has
// to be looked at: what it finds must still be empty between two calls.
func TestBuffersAreFound(t *testing.T) {
	if !records.found || !messages.found {
		t.Errorf("the buffers of a tls.Conn are not where they were: %v, %v", records, messages)
	}
}

// TestBuffersAreOwn: a buffer that was given back has one new owner.
func TestBuffersAreOwn(t *testing.T) {
	serverConfig, _ := configs(t)
	a, b := Server(serverConfig), Server(serverConfig)
	for range 100 {
		borrow(a.tls).giveBack()
		one, two := borrow(a.tls), borrow(b.tls)
		if one.room == two.room {
			t.Fatal("two connections have one buffer")
		}
		one.giveBack()
		two.giveBack()
	}
}

// held is what a connection holds in buffers.
func held(c *Conn) int {
	return records.of(c.tls).Cap() + messages.of(c.tls).Cap() + cap(c.in) + cap(c.out)
}

// serve accepts one connection on a real socket, feeds it with what comes in pieces
// of a size that piece says, and sends back what it reads, until the client ends.
func serve(t *testing.T, cfg *tls.Config, piece func() int) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- echo(l, cfg, piece) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func echo(l net.Listener, cfg *tls.Config, piece func() int) error {
	socket, err := l.Accept()
	if err != nil {
		return err
	}
	defer socket.Close()
	c := Server(cfg)
	defer c.Close(nil)
	read := make([]byte, 1<<16)
	var plain, out []byte
	for {
		n, err := socket.Read(read)
		if err != nil {
			return err
		}
		for in := read[:n]; len(in) > 0; {
			size := min(piece(), len(in))
			var failed error
			plain, out, failed = c.Feed(plain[:0], out[:0], in[:size])
			in = in[size:]
			if len(plain) > 0 {
				if out, err = c.Write(out, plain); err != nil {
					return err
				}
			}
			if errors.Is(failed, io.EOF) {
				out = c.Close(out)
			}
			if _, err := socket.Write(out); err != nil {
				return err
			}
			if failed != nil {
				if errors.Is(failed, io.EOF) {
					return nil
				}
				return failed
			}
		}
	}
}

// TestCuts: crypto/tls at the other end of a socket understands, however what it
// sends is cut.
func TestCuts(t *testing.T) {
	serverConfig, clientConfig := configs(t)
	message := bytes.Repeat([]byte("0123456789abcdef"), 5000)
	for name, piece := range map[string]func() int{
		"bytes": func() int { return 1 }, "five": func() int { return 5 }, "whole": func() int { return 1 << 16 },
		"at random": func() int { return 1 + rand.IntN(3000) },
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(name+" "+tls.VersionName(version), func(t *testing.T) {
				t.Parallel() // connections share nothing, not even a buffer
				cfg := clientConfig.Clone()
				cfg.MaxVersion = version
				c, err := tls.Dial("tcp", serve(t, serverConfig, piece), cfg)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
				sent := make(chan error, 1)
				go func() {
					_, err := c.Write(message)
					sent <- err
				}()
				got := make([]byte, len(message))
				if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, message) {
					t.Errorf("what came back is not what was sent: %v", err)
				}
				if err := <-sent; err != nil {
					t.Error(err)
				}
				if err := c.CloseWrite(); err != nil {
					t.Error(err)
				}
				if n, err := c.Read(got); n != 0 || !errors.Is(err, io.EOF) {
					t.Errorf("at the end: got %d, %v", n, err)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestNothingIsHeldWhileIdle: and of a record that has begun nothing but it.
func TestNothingIsHeldWhileIdle(t *testing.T) {
	serverConfig, clientConfig := configs(t)
	s, c := Server(serverConfig), Client(clientConfig)
	defer c.Close(nil)
	defer s.Close(nil)
	for out := []byte(nil); !s.Established(); {
		var err error
		if _, out, err = c.Feed(nil, nil, out); err != nil {
			t.Fatal(err)
		}
		if _, out, err = s.Feed(nil, nil, out); err != nil {
			t.Fatal(err)
		}
	}
	if held(s)+held(c) != 0 {
		t.Errorf("after the handshake %d and %d bytes are held", held(s), held(c))
	}
	out, err := c.Write(nil, make([]byte, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	plain, _, err := s.Feed(nil, nil, out)
	if err != nil || len(plain) != 1<<20 || held(s)+held(c) != 0 {
		t.Errorf("got %d bytes, %v; %d are held by their reader, %d by their writer", len(plain), err, held(s), held(c))
	}

	if out, err = c.Write(nil, make([]byte, 3000)); err != nil { // in records of 16 KiB after so many bytes
		t.Fatal(err)
	}
	for i := range out {
		if plain, _, err = s.Feed(plain[:0], nil, out[i:i+1]); err != nil {
			t.Fatal(err)
		}
		if most := 2*(len(out)+bytes.MinRead) + 64; held(s) > most {
			t.Fatalf("for %d of %d bytes of a record %d are held", i, len(out), held(s))
		}
		if got, want := s.Buffered(), (i+1)%len(out); got != want {
			t.Fatalf("after %d of %d bytes of a record it has %d, want %d", i+1, len(out), got, want)
		}
	}
	if len(plain) != 3000 || held(s) != 0 {
		t.Errorf("got %d bytes, and %d are held", len(plain), held(s))
	}
	if n := testing.AllocsPerRun(100, func() {
		if plain, _, err = s.Feed(plain[:0], nil, nil); err != nil || len(plain) > 0 {
			t.Error(err)
		}
	}); n > 2 { // of crypto/tls
		t.Errorf("nothing to read costs %v allocations", n)
	}
}

// TestEnds: what each side hears of the end of the other.
func TestEnds(t *testing.T) {
	serverConfig, clientConfig := configs(t)
	s, c := Server(serverConfig), Client(clientConfig)
	if s.Established() {
		t.Error("established without a handshake")
	}
	if out, err := s.Write([]byte("x"), []byte("hello")); !errors.Is(err, ErrHandshake) || string(out) != "x" {
		t.Errorf("a write before the handshake: got %q, %v", out, err)
	}
	meet(t, s, c)
	if !s.State().HandshakeComplete || s.State().Version != tls.VersionTLS13 {
		t.Errorf("got %+v", s.State())
	}
	last, err := c.Write([]byte("before"), []byte("last words"))
	if err != nil || !bytes.HasPrefix(last, []byte("before")) {
		t.Fatalf("got %q, %v", last, err)
	}
	last = c.Close(last[len("before"):])
	plain, out, err := s.Feed([]byte("plain: "), nil, last)
	if string(plain) != "plain: last words" || len(out) != 0 || !errors.Is(err, io.EOF) || s.Established() {
		t.Errorf("got %q, %q, %v", plain, out, err)
	}
	if _, _, err := s.Feed(nil, nil, last); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: got %v", err)
	}
	if _, err := s.Write(nil, []byte("x")); !errors.Is(err, io.EOF) {
		t.Errorf("a write after the end: got %v", err)
	}
	if out := s.Close(nil); len(out) == 0 {
		t.Error("the end is not answered")
	}
	if out := s.Close(nil); len(out) != 0 {
		t.Errorf("the second Close says %q", out)
	}
	if _, _, err := s.Feed(nil, nil, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: got %v", err)
	}
	if _, err := s.Write(nil, []byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after Close: got %v", err)
	}
}

// TestHandshakesEnd: one that is not over leaves nothing behind; TestMain looks for
// its coroutine.
func TestHandshakesEnd(t *testing.T) {
	serverConfig, clientConfig := configs(t)
	s, c := Server(serverConfig), Client(clientConfig)
	_, hello, err := c.Feed(nil, nil, nil)
	if err != nil || len(hello) == 0 {
		t.Fatal(len(hello), err)
	}
	for _, part := range [][]byte{hello[:7], hello[7:]} {
		if _, _, err := s.Feed(nil, nil, part); err != nil || s.Established() {
			t.Fatal(err)
		}
		if _, err := s.Write(nil, []byte("x")); !errors.Is(err, ErrHandshake) {
			t.Errorf("a write in the handshake: got %v", err)
		}
	}
	for name, end := range map[string]*Conn{"server": s, "client": c, "one that never began": Server(serverConfig)} {
		if out := end.Close([]byte("x")); string(out) != "x" {
			t.Errorf("%s: Close says %q", name, out)
		}
		if _, _, err := end.Feed(nil, nil, hello); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestRefusals: a handshake that fails says why, to both.
func TestRefusals(t *testing.T) {
	serverConfig, clientConfig := configs(t)
	other := clientConfig.Clone()
	other.RootCAs = certtest.NewAuthority(t, "two").Pool(t)
	s, c := Server(serverConfig), Client(other)
	var toServer, toClient []byte
	var failed error
	for range 5 {
		if _, toServer, failed = c.Feed(nil, nil, toClient); failed != nil {
			break
		}
		_, toClient, _ = s.Feed(nil, nil, toServer)
	}
	if failed == nil || !strings.Contains(failed.Error(), "unknown authority") || len(toServer) == 0 {
		t.Fatalf("the client: got %v, and says %d bytes", failed, len(toServer))
	}
	if _, _, err := s.Feed(nil, nil, toServer); err == nil || !strings.Contains(err.Error(), "bad certificate") {
		t.Errorf("the server: got %v", err)
	}
	for _, end := range []*Conn{s, c} {
		if out := end.Close(nil); len(out) != 0 || end.Established() {
			t.Errorf("after the error it says %q", out)
		}
	}

	plain := Server(serverConfig)
	_, out, err := plain.Feed(nil, nil, []byte("GET / HTTP/1.1\r\n"))
	if notTLS := (tls.RecordHeaderError{}); !errors.As(err, &notTLS) {
		t.Errorf("plain text: got %v", err)
	}
	if _, _, again := plain.Feed(nil, nil, nil); !errors.Is(again, err) {
		t.Errorf("plain text, again: got %v, said %q", again, out)
	}
	plain.Close(nil)
}

// TestForgery: a record that was changed on its way is the end, and the peer is told.
func TestForgery(t *testing.T) {
	serverConfig, clientConfig := configs(t)
	s, c := Server(serverConfig), Client(clientConfig)
	meet(t, s, c)
	out, err := c.Write(nil, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	out[len(out)-1]++
	plain, alert, err := s.Feed(nil, nil, out)
	if len(plain) != 0 || err == nil || len(alert) == 0 {
		t.Fatalf("got %q, %q, %v", plain, alert, err)
	}
	if _, _, err := c.Feed(nil, nil, alert); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
		t.Errorf("the peer: got %v", err)
	}
	for _, end := range []*Conn{s, c} {
		if out := end.Close(nil); len(out) != 0 {
			t.Errorf("after the error it says %q", out)
		}
	}
}

// TestHalfARecordIsTold: what a connection holds of a record that has only begun is
// what it tells, however large that record says it will be.
func TestHalfARecordIsTold(t *testing.T) {
	serverConfig, clientConfig := configs(t)
	s, c := Server(serverConfig), Client(clientConfig)
	meet(t, s, c)
	exchange(t, c, s, make([]byte, 1<<20)) // after so many bytes records are of 16 KiB
	out, err := c.Write(nil, make([]byte, 16<<10))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, _, err := s.Feed(nil, nil, out[i:i+1]); err != nil {
			t.Fatal(err)
		}
		if told := s.Buffered(); told != i+1 || held(s) > 2*told+64 {
			t.Fatalf("of %d bytes of a record %d are told, and %d held", i+1, told, held(s))
		}
	}
}
