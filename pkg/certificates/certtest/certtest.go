// Package certtest makes authorities and certificates for tests: real ones, with
// keys of their own, that are good for an hour unless asked for other dates.
//
// It refuses to be part of a program: everything fails the test it is called in.
package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates.
type Authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	// PEM is its own certificate.
	PEM []byte
}

// Options change what Issue makes.
type Options struct {
	Name      string        // DNS name; "localhost", with the loopback addresses, where it is empty
	NotBefore time.Time     // an hour ago where it is zero
	NotAfter  time.Time     // in an hour where it is zero
	Key       crypto.Signer // a new P-256 key where it is nil
	SEC1      bool          // writes the key as EC PRIVATE KEY and not as PKCS #8
	Server    bool          // good for servers only, and not for clients
}

// NewAuthority returns an authority of this name.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	a := &Authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.certificate, a.PEM = sign(t, template, template, a.key.Public(), a.key)
	return a
}

// Issue returns a certificate and its key as PEM.
func (a *Authority) Issue(t testing.TB, o Options) (certificate, key []byte) {
	t.Helper()
	if o.Key == nil {
		o.Key = newKey(t)
	}
	if o.NotBefore.IsZero() {
		o.NotBefore = time.Now().Add(-time.Hour)
	}
	if o.NotAfter.IsZero() {
		o.NotAfter = time.Now().Add(time.Hour)
	}
	template := &x509.Certificate{
		SerialNumber: serial(t), NotBefore: o.NotBefore, NotAfter: o.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if o.Server {
		template.ExtKeyUsage = template.ExtKeyUsage[:1]
	}
	if o.Name == "" {
		o.Name = "localhost"
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	template.Subject.CommonName, template.DNSNames = o.Name, []string{o.Name}
	_, certificate = sign(t, template, a.certificate, o.Key.Public(), a.key)

	der, kind, err := []byte(nil), "PRIVATE KEY", error(nil)
	if ec, ok := o.Key.(*ecdsa.PrivateKey); ok && o.SEC1 {
		kind = "EC PRIVATE KEY"
		der, err = x509.MarshalECPrivateKey(ec)
	} else {
		der, err = x509.MarshalPKCS8PrivateKey(o.Key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return certificate, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Files are the paths of what Write has written.
type Files struct{ Cert, Key, CA string }

// Write issues a certificate and puts it, its key and the authority into dir.
func (a *Authority) Write(t testing.TB, dir string, o Options) Files {
	t.Helper()
	certificate, key := a.Issue(t, o)
	f := Files{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")}
	for name, b := range map[string][]byte{f.Cert: certificate, f.Key: key, f.CA: a.PEM} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		t.Fatal(err)
	}
	return n.Add(n, big.NewInt(1))
}

func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, []byte) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Pool has the authority alone.
func (a *Authority) Pool(t testing.TB) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	p.AddCert(a.certificate)
	return p
}
