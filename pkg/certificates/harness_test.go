package certificates

import (
	"crypto/tls"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/certificates/certtest"
	"github.com/motto123/minigate/pkg/logging/loggingtest"
)

func open(t *testing.T, cfg Config) (*Files, *loggingtest.Lines) {
	t.Helper()
	log, l := loggingtest.New()
	cfg.Log = log
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f, l
}

// serve echoes over TLS until the test ends.
func serve(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				_, _ = io.Copy(c, c) // ends with its client
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		running.Wait()
	})
	return l.Addr().String()
}

type connection struct{ *tls.Conn }

func dial(t *testing.T, address string, cfg *tls.Config) (connection, error) {
	t.Helper()
	d := net.Dialer{Timeout: 10 * time.Second}
	c, err := tls.DialWithDialer(&d, "tcp", address, cfg)
	if err != nil {
		return connection{}, err
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return connection{c}, nil
}

func (c connection) echo() error {
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 5))
	return err
}

func (c connection) serial() *big.Int { return c.ConnectionState().PeerCertificates[0].SerialNumber }

func must(t *testing.T, c connection, err error) connection {
	t.Helper()
	if err == nil {
		err = c.echo()
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func config(f certtest.Files) Config { return Config{Cert: f.Cert, Key: f.Key, CA: f.CA} }
