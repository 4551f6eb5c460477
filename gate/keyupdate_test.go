package gate

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/unix"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/certificates/certtest"
)

// sealer writes the records of a TLS 1.3 client by itself (RFC 8446, 5.2): crypto/tls
// has no way to ask for an update of the keys.
type sealer struct {
	suite    uint16
	secret   []byte
	aead     cipher.AEAD
	iv       []byte
	sequence uint64
}

// expand is HKDF-Expand-Label without a context: RFC 8446, 7.1.
func expand(secret []byte, label string, n int) ([]byte, error) {
	info := append([]byte{byte(n >> 8), byte(n), byte(len("tls13 ") + len(label))}, "tls13 "+label...)
	return hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
}

// use makes the keys of a secret: RFC 8446, 7.3.
func (s *sealer) use(secret []byte) error {
	s.secret, s.sequence = secret, 0
	size, newAEAD := 16, func(key []byte) (cipher.AEAD, error) {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		return cipher.NewGCM(block)
	}
	if s.suite == tls.TLS_CHACHA20_POLY1305_SHA256 {
		size, newAEAD = chacha20poly1305.KeySize, chacha20poly1305.New
	}
	key, err := expand(secret, "key", size)
	if err != nil {
		return err
	}
	if s.iv, err = expand(secret, "iv", 12); err != nil {
		return err
	}
	s.aead, err = newAEAD(key)
	return err
}

const (
	recordHandshake   = 22
	recordApplication = 23
)

// append appends one record.
func (s *sealer) append(b []byte, kind byte, content []byte) []byte {
	inner := append(bytes.Clone(content), kind)
	start := len(b)
	b = append(b, recordApplication, 3, 3)
	b = binary.BigEndian.AppendUint16(b, uint16(len(inner)+s.aead.Overhead()))
	nonce := bytes.Clone(s.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(s.sequence >> (56 - 8*i))
	}
	s.sequence++
	return s.aead.Seal(b, nonce, inner, bytes.Clone(b[start:]))
}

// appendUpdate appends a KeyUpdate that asks the other side for one, and takes the
// next keys: RFC 8446, 4.6.3 and 7.2.
func (s *sealer) appendUpdate(b []byte) ([]byte, error) {
	b = s.append(b, recordHandshake, []byte{24, 0, 0, 1, 1})
	next, err := expand(s.secret, "traffic upd", sha256.Size)
	if err == nil {
		err = s.use(next)
	}
	return b, err
}

// narrow has little fit into the kernels' buffers between client and gate.
func narrow(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1000))
	})
	return errors.Join(err, set)
}

// handshaken is a client after its TLS handshake and that of the gate, whose records
// the test writes from now on. It has read nothing of the second.
func (r *rig) handshaken(t *testing.T, cfg *tls.Config, dialer net.Dialer) (net.Conn, *sealer) {
	t.Helper()
	conn, err := dialer.DialContext(t.Context(), "tcp", r.gate.TCPAddress())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(4 * patience))
	var keys bytes.Buffer
	cfg = cfg.Clone()
	cfg.KeyLogWriter, cfg.MinVersion = &keys, tls.VersionTLS13
	client := tls.Client(conn, cfg)
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	s := &sealer{suite: client.ConnectionState().CipherSuite}
	_, line, _ := strings.Cut(keys.String(), "CLIENT_TRAFFIC_SECRET_0 ")
	secret, err := hex.DecodeString(strings.Fields(line)[1])
	if err == nil {
		err = s.use(secret)
	}
	if err != nil {
		t.Fatal(err)
	}
	before := r.gate.stats.Handshakes.Load()
	if _, err := conn.Write(s.append(nil, recordApplication, packet(codec.Handshake, 0, []byte(hi(""))))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the gate has read it", func() bool { return r.gate.stats.Handshakes.Load() > before })
	return conn, s
}

// update writes a KeyUpdate behind each byte of what it writes: crypto/tls ends a
// connection on which nothing but them comes.
func (s *sealer) update(to io.Writer, plain []byte) error {
	var b []byte
	var err error
	for i := range plain {
		b = s.append(b, recordApplication, plain[i:i+1])
		if b, err = s.appendUpdate(b); err != nil {
			return err
		}
		if len(b) > 16<<10 || i == len(plain)-1 {
			if _, err := to.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	return nil
}

// TestKeyUpdates: who has keys updated again and again, which the gate has to answer,
// and does not read the answers is as slow as any other who does not read.
func TestKeyUpdates(t *testing.T) {
	const queue = 100_000
	a := certtest.NewAuthority(t, "authority")
	cfg := &tls.Config{RootCAs: a.Pool(t), ServerName: "gate"}
	r := start(t, secured(t, a, t.TempDir()), func(c *Config) { c.Limits.WriteQueue = queue })

	part := packet(codec.Data, 0x80, make([]byte, 60_000)) // of a message

	conn, s := r.handshaken(t, cfg, net.Dialer{Timeout: patience, Control: narrow})
	var running sync.WaitGroup
	running.Go(func() { _ = s.update(conn, part) }) // until it is cut off
	eventually(t, "the client is kicked", func() bool { return r.gate.stats.KickedSlow.Load() == 1 })
	if waits := r.gate.unsent.Load(); waits > queue+readBytes {
		t.Errorf("%d bytes wait for it", waits)
	}
	_ = conn.Close()
	running.Wait()
	eventually(t, "it is gone", func() bool { return r.gate.stats.Connections.Load() == 0 && r.gate.unsent.Load() == 0 })

	// One who reads may do so.
	conn, s = r.handshaken(t, cfg, net.Dialer{Timeout: patience})
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(io.Discard, conn) // until the end of the test
	}()
	const some = 5000
	if err := s.update(conn, part[:some]); err != nil {
		t.Fatal(err)
	}
	for rest := part[some:]; len(rest) > 0; {
		n := min(len(rest), 16<<10)
		if _, err := conn.Write(s.append(nil, recordApplication, rest[:n])); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	eventually(t, "the gate has read all of it", func() bool { return r.gate.unfinished.Load() == 60_000 })
	if r.gate.stats.KickedSlow.Load() != 1 {
		t.Error("a client that reads is cut off")
	}
	_ = conn.Close()
	<-read
}
