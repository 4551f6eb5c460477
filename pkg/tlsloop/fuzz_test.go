package tlsloop

import (
	"bytes"
	"crypto/tls"
	"testing"
)

// FuzzCuts: what two ends say to each other arrives whole and in order, however it
// is cut. Each byte of cuts is the size of a piece, and of a message.
func FuzzCuts(f *testing.F) {
	serverConfig, clientConfig := configs(f)
	f.Add([]byte{1, 200, 0, 3}, false)
	f.Add([]byte{255}, true)
	f.Add([]byte{0}, false)
	f.Fuzz(func(t *testing.T, cuts []byte, old bool) {
		if len(cuts) == 0 || len(cuts) > 64 {
			return
		}
		cfg := clientConfig
		if old {
			cfg = cfg.Clone()
			cfg.MaxVersion = tls.VersionTLS12
		}
		i := 0
		next := func() int { i++; return int(cuts[i%len(cuts)]) }
		type side struct {
			*Conn
			sent, got, wire []byte
		}
		sides := [2]*side{{Conn: Client(cfg)}, {Conn: Server(serverConfig)}}
		for _, s := range sides {
			defer s.Close(nil)
		}
		for round := 0; round < 1<<17; round++ {
			quiet := true
			for j, s := range sides {
				peer := sides[1-j]
				n := min(1+next(), len(peer.wire))
				var err error
				if s.got, s.wire, err = s.Feed(s.got, s.wire, peer.wire[:n]); err != nil {
					t.Fatal(err)
				}
				peer.wire = peer.wire[n:]
				if s.Established() && len(s.sent) < 500 {
					b := bytes.Repeat([]byte{byte(round)}, next()+1)
					if s.wire, err = s.Write(s.wire, b); err != nil {
						t.Fatal(err)
					}
					s.sent = append(s.sent, b...)
					quiet = false
				}
				quiet = quiet && s.Established() && len(peer.wire) == 0
			}
			if quiet && len(sides[0].wire)+len(sides[1].wire) == 0 {
				break
			}
		}
		for j, s := range sides {
			if !bytes.Equal(s.got, sides[1-j].sent) || len(s.got) == 0 {
				t.Errorf("got %d bytes, want %d", len(s.got), len(sides[1-j].sent))
			}
			if held(s.Conn) != 0 {
				t.Errorf("%d bytes are held", held(s.Conn))
			}
		}
	})
}

// FuzzGarbage: whatever a client sends, before and after a good handshake, is
// refused or waited for, and never more is said than it sent.
func FuzzGarbage(f *testing.F) {
	serverConfig, clientConfig := configs(f)
	c := Client(clientConfig)
	_, hello, err := c.Feed(nil, nil, nil)
	c.Close(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(hello, byte(5))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), byte(1))
	f.Add([]byte{23, 3, 3, 0, 5, 1, 2, 3, 4, 5}, byte(3))
	f.Add([]byte{22, 3, 1, 255, 255, 1}, byte(6))
	f.Fuzz(func(t *testing.T, b []byte, cut byte) {
		fresh, met, peer := Server(serverConfig), Server(serverConfig), Client(clientConfig)
		meet(t, met, peer)
		peer.Close(nil)
		for _, s := range []*Conn{fresh, met} {
			for in := b; len(in) > 0; {
				n := min(1+int(cut), len(in))
				plain, _, err := s.Feed(nil, nil, in[:n])
				if len(plain) > 0 {
					t.Errorf("it says %q", plain)
				}
				if in = in[n:]; err != nil && s.Established() {
					t.Errorf("established after %v", err)
				}
			}
			if most := 2*(len(b)+1<<15) + 1024; held(s) > most {
				t.Errorf("%d bytes are held of %d", held(s), len(b))
			}
			s.Close(nil)
		}
	})
}
