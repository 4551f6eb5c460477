package tlsloop

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/certificates/certtest"
)

// configs are those of a server and of its clients.
func configs(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	a := certtest.NewAuthority(t, "one")
	certificate, key := a.Issue(t, certtest.Options{})
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, &tls.Config{RootCAs: a.Pool(t), ServerName: "localhost"}
}

// meet lets two ends shake hands, and returns what time the server took.
func meet(t testing.TB, server, client *Conn) (spent time.Duration) {
	t.Helper()
	var toServer, toClient, plain []byte
	for range 10 {
		var err error
		if plain, toServer, err = client.Feed(plain, toServer[:0], toClient); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if plain, toClient, err = server.Feed(plain, toClient[:0], toServer); err != nil {
			t.Fatal(err)
		}
		spent += time.Since(began)
		if len(toServer)+len(toClient) == 0 && server.Established() && client.Established() {
			return spent // all was said, tickets too
		}
	}
	t.Fatal("the handshake does not come to an end")
	return 0
}

// heap is what is in use.
func heap() uint64 {
	var m runtime.MemStats
	for range 3 { // the first may free what waits in pools, and finalizers
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// measured is how many connections are, to tell one's cost from the rest.
const measured = 100

// TestIdleBytes holds what an idle connection of a server costs.
func TestIdleBytes(t *testing.T) {
	serverConfig, clientConfig := configs(t)
	for version, most := range map[uint16]uint64{tls.VersionTLS12: 4 << 10, tls.VersionTLS13: 4 << 10} {
		clientConfig.MaxVersion = version
		ends := make([]*Conn, measured)
		before := heap()
		for i := range ends {
			ends[i] = Server(serverConfig)
			client := Client(clientConfig)
			meet(t, ends[i], client)
			exchange(t, client, ends[i], make([]byte, 20000)) // what crypto/tls would keep
		}
		each := (heap() - before) / measured
		t.Logf("%s: %d bytes of an idle connection", tls.VersionName(version), each)
		if each > most {
			t.Errorf("%s: got %d bytes of an idle connection, want at most %d", tls.VersionName(version), each, most)
		}
		runtime.KeepAlive(ends)
	}
}

// exchange sends bytes from one end to the other.
func exchange(t testing.TB, from, to *Conn, b []byte) {
	t.Helper()
	out, err := from.Write(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	plain, _, err := to.Feed(nil, nil, out)
	if err != nil || string(plain) != string(b) {
		t.Fatalf("got %d bytes, %v, want %d", len(plain), err, len(b))
	}
}

// BenchmarkIdle compares what an idle connection of a server costs: here, in a
// tls.Conn alone, and in one with a goroutine that reads.
func BenchmarkIdle(b *testing.B) {
	serverConfig, clientConfig := configs(b)
	kinds := map[string]func() any{
		"loop": func() any {
			s, c := Server(serverConfig), Client(clientConfig)
			meet(b, s, c)
			return s
		},
		"handshake that waits": func() any {
			s, c := Server(serverConfig), Client(clientConfig)
			_, hello, err := c.Feed(nil, nil, nil)
			if err != nil {
				b.Fatal(err)
			}
			if _, _, err := s.Feed(nil, nil, hello); err != nil {
				b.Fatal(err)
			}
			c.Close(nil)
			b.Cleanup(func() { s.Close(nil) })
			return s
		},
	}
	for _, large := range []bool{false, true} {
		name := "tls.Conn"
		if large {
			name += " after 16 KiB"
		}
		kinds[name] = func() any {
			there, here := net.Pipe()
			s, c := tls.Server(here, serverConfig), tls.Client(there, clientConfig)
			done := make(chan error, 1)
			n := 1
			if large {
				n = 16384
			}
			go func() {
				_, err := c.Write(make([]byte, n))
				done <- err
			}()
			if _, err := io.ReadFull(s, make([]byte, n)); err != nil {
				b.Fatal(err)
			}
			if err := <-done; err != nil {
				b.Fatal(err)
			}
			// Only the connection, without what is below it.
			s.NetConn().Close()
			return s
		}
	}
	for name, kind := range kinds {
		b.Run(name, func(b *testing.B) {
			ends := make([]any, measured)
			before := heap()
			for i := range ends {
				ends[i] = kind()
			}
			after := heap()
			for b.Loop() {
			}
			b.ReportMetric(float64(after-before)/measured, "B/conn")
			runtime.KeepAlive(ends)
		})
	}
}

// BenchmarkHandshake has both ends on one processor, and counts the server's part.
func BenchmarkHandshake(b *testing.B) {
	serverConfig, clientConfig := configs(b)
	resuming := clientConfig.Clone()
	resuming.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for name, clientConfig := range map[string]*tls.Config{"full": clientConfig, "resumed": resuming} {
		b.Run(name, func(b *testing.B) {
			var spent time.Duration
			b.ReportAllocs()
			for b.Loop() {
				s, c := Server(serverConfig), Client(clientConfig)
				spent += meet(b, s, c)
				s.Close(nil)
				c.Close(nil)
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "server-ns/op")
		})
	}
}

// BenchmarkMessage is 200 bytes to a server and back.
func BenchmarkMessage(b *testing.B) {
	serverConfig, clientConfig := configs(b)
	s, c := Server(serverConfig), Client(clientConfig)
	meet(b, s, c)
	message, plain, out := make([]byte, 200), make([]byte, 0, 4096), make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		out, err := c.Write(out[:0], message)
		if err != nil {
			b.Fatal(err)
		}
		if plain, _, err = s.Feed(plain[:0], nil, out); err != nil {
			b.Fatal(err)
		}
		if out, err = s.Write(out[:0], plain); err != nil {
			b.Fatal(err)
		}
		if plain, _, err = c.Feed(plain[:0], nil, out); err != nil || len(plain) != len(message) {
			b.Fatal(len(plain), err)
		}
	}
}
