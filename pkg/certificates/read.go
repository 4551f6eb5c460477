package certificates

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"time"
)

// maxFile bounds a file, in bytes: the largest there are have the hundreds of
// authorities of a system.
const maxFile = 1 << 20

// contents are what is in the files of certificate, key and authorities.
type contents [3][]byte

func (f *Files) contents() (c contents, err error) {
	for i, file := range []string{f.cfg.Cert, f.cfg.Key, f.cfg.CA} {
		if file == "" {
			continue
		}
		if c[i], err = readFile(file); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c contents) equal(other contents) bool {
	return bytes.Equal(c[0], other[0]) && bytes.Equal(c[1], other[1]) && bytes.Equal(c[2], other[2])
}

// parse returns what the contents are, if all of them can be used.
func (f *Files) parse(c contents) (*loaded, error) {
	l := &loaded{contents: c}
	if f.cfg.Cert != "" {
		if err := f.parsePair(l); err != nil {
			return nil, err
		}
	}
	if f.cfg.CA == "" {
		return l, nil
	}
	var err error
	if l.ca, err = certificates(f.cfg.CA, l.contents[2]); err != nil {
		return nil, err
	}
	l.authorities = x509.NewCertPool()
	for _, c := range l.ca {
		l.authorities.AddCert(c)
	}
	return l, nil
}

// parsePair takes certificate and key, and keeps the dates: a renewal that has
// expired, or is for later, is worse than what it would replace. One for later is
// taken when its time has come, since the files are read on.
func (f *Files) parsePair(l *loaded) (err error) {
	if l.chain, err = certificates(f.cfg.Cert, l.contents[0]); err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(l.contents[0], l.contents[1])
	if err != nil {
		return fmt.Errorf("%w: key %s for certificate %s: %w", ErrFile, f.cfg.Key, f.cfg.Cert, err)
	}
	l.pair = &pair
	now, leaf := f.cfg.now(), l.chain[0]
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("%w: %s: expired %s", ErrDate, f.cfg.Cert, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if now.Before(leaf.NotBefore) {
		return fmt.Errorf("%w: %s: not valid before %s", ErrDate, f.cfg.Cert, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFile, name, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%w: %s: over %d bytes", ErrFile, name, maxFile)
	}
	return b, nil
}

// begin is how a certificate begins in a PEM file.
const begin = "-----BEGIN CERTIFICATE-----"

// certificates returns those of a PEM file, which may have other blocks, too.
// One that was not written to its end is an error: package pem would skip it, and
// leave a chain that is too short.
func certificates(name string, b []byte) (all []*x509.Certificate, err error) {
	blocks := bytes.Count(b, []byte(begin))
	for len(b) > 0 {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: certificate %d: %w", ErrFile, name, len(all)+1, err)
		}
		all = append(all, c)
	}
	if len(all) != blocks || len(all) == 0 {
		return nil, fmt.Errorf("%w: %s: got %d whole certificates, want %d", ErrFile, name, len(all), max(blocks, 1))
	}
	return all, nil
}
