package certificates

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/certificates/certtest"
	"github.com/motto123/minigate/pkg/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRenewal: connections stay, and new ones get the new certificate; Run sees it
// by itself.
func TestRenewal(t *testing.T) {
	dir, ca := t.TempDir(), certtest.NewAuthority(t, "one")
	cfg := config(ca.Write(t, dir, certtest.Options{}))
	cfg.Every = time.Millisecond
	f, log := open(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	address := serve(t, f.Server(nil))
	c, err := dial(t, address, f.Client("localhost"))
	before := must(t, c, err)

	ca.Write(t, dir, certtest.Options{})
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := dial(t, address, f.Client("localhost"))
		if after := must(t, c, err); after.serial().Cmp(before.serial()) != 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the new certificate was never shown")
		}
	}
	if err := before.echo(); err != nil {
		t.Errorf("a connection from before the renewal: %v", err)
	}
	log.Want(t, "certificates were renewed", cfg.Cert, "until=")
}

// TestSymbolicLinks are how Kubernetes renews: a folder is swapped below the files.
func TestSymbolicLinks(t *testing.T) {
	dir, ca := t.TempDir(), certtest.NewAuthority(t, "one")
	for _, version := range []string{"v1", "v2"} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		ca.Write(t, filepath.Join(dir, version), certtest.Options{})
	}
	link(t, "v1", filepath.Join(dir, "..data"))
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		link(t, filepath.Join("..data", name), filepath.Join(dir, name))
	}
	f, log := open(t, Config{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")})
	before := f.loaded.Load().chain[0].SerialNumber
	log.Take() // that it expires within the hour
	f.Reload()
	log.Want(t)

	link(t, "v2", filepath.Join(dir, "..new"))
	if err := os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	f.Reload()
	if f.loaded.Load().chain[0].SerialNumber.Cmp(before) == 0 {
		t.Error("the swap was not seen")
	}
	log.Want(t, "certificates were renewed", "expires in") // within the hour, this one too
}

func link(t *testing.T, to, name string) {
	t.Helper()
	if err := os.Symlink(to, name); err != nil {
		t.Fatal(err)
	}
}

// TestBrokenRenewals keep what was there, and are logged once, with the file.
func TestBrokenRenewals(t *testing.T) {
	ca := certtest.NewAuthority(t, "one")
	good, goodKey := ca.Issue(t, certtest.Options{})
	other, otherKey := ca.Issue(t, certtest.Options{})
	expired, expiredKey := ca.Issue(t, certtest.Options{NotAfter: time.Now().Add(-time.Minute)})
	later, laterKey := ca.Issue(t, certtest.Options{NotBefore: time.Now().Add(time.Minute)})
	for name, c := range map[string]struct {
		cert, key, ca []byte
		want          []string
	}{
		"half a certificate": {other[:len(other)/2], otherKey, ca.PEM, []string{"CERT", "got 0 whole certificates, want 1"}},
		"half a chain":       {append(bytes.Clone(other), ca.PEM[:60]...), otherKey, ca.PEM, []string{"CERT", "got 1 whole certificates, want 2"}},
		"an empty file":      {nil, otherKey, ca.PEM, []string{"CERT", "got 0 whole certificates, want 1"}},
		"no certificate":     {[]byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"), otherKey, ca.PEM, []string{"CERT", "certificate 1"}},
		"half a key":         {other, otherKey[:len(otherKey)/2], ca.PEM, []string{"KEY", "CERT"}},
		"another key":        {good, otherKey, ca.PEM, []string{"KEY", "CERT", "does not match"}},
		"expired":            {expired, expiredKey, ca.PEM, []string{"CERT", "expired"}},
		"not valid yet":      {later, laterKey, ca.PEM, []string{"CERT", "not valid before"}},
		"half an authority":  {other, otherKey, ca.PEM[:len(ca.PEM)/2], []string{"CA", "got 0 whole certificates, want 1"}},
		"far too large":      {bytes.Repeat([]byte{'\n'}, maxFile+1), otherKey, ca.PEM, []string{"CERT", "over 1048576 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			files := ca.Write(t, t.TempDir(), certtest.Options{})
			write := func(cert, key, ca []byte) {
				for name, b := range map[string][]byte{files.Cert: cert, files.Key: key, files.CA: ca} {
					if err := os.WriteFile(name, b, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			write(good, goodKey, ca.PEM)
			f, log := open(t, config(files))
			before := f.loaded.Load()
			log.Take()

			write(c.cert, c.key, c.ca)
			f.Reload()
			if f.loaded.Load() != before {
				t.Error("it was taken")
			}
			names := strings.NewReplacer("CERT", files.Cert, "KEY", files.Key, "CA", files.CA)
			for i, part := range c.want {
				c.want[i] = names.Replace(part)
			}
			log.Want(t, append(c.want, "level=error", "those from before stay in use")...)
			f.Reload()
			log.Want(t) // once is enough

			if _, err := New(config(files)); !errors.Is(err, ErrFile) && !errors.Is(err, ErrDate) {
				t.Errorf("at start: got %v", err)
			}
			write(other, otherKey, ca.PEM)
			f.Reload()
			if f.loaded.Load() == before {
				t.Error("what was mended was not taken")
			}
			log.Want(t, "can be read again", "certificates were renewed")
		})
	}
	t.Run("a file that is gone", func(t *testing.T) {
		files := ca.Write(t, t.TempDir(), certtest.Options{})
		f, log := open(t, config(files))
		log.Take()
		if err := os.Remove(files.Key); err != nil {
			t.Fatal(err)
		}
		f.Reload()
		log.Want(t, files.Key, "no such file")
	})
}

// TestRefused: neither side takes what does not come from its authority, or has
// expired.
func TestRefused(t *testing.T) {
	one, two := certtest.NewAuthority(t, "one"), certtest.NewAuthority(t, "two")
	files, log := open(t, config(one.Write(t, t.TempDir(), certtest.Options{})))
	log.Take()
	foreign, _ := open(t, config(two.Write(t, t.TempDir(), certtest.Options{})))
	address := serve(t, files.Server(&tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS10}))

	try := func(cfg *tls.Config) error {
		c, err := dial(t, address, cfg)
		if err == nil {
			err = c.echo() // of TLS 1.3 the refusal of a client's certificate comes here
		}
		return err
	}
	if err := try(files.Client("localhost")); err != nil {
		t.Fatal(err)
	}
	unnamed := files.Client("localhost")
	unnamed.GetClientCertificate = nil
	stranger := files.Client("localhost")
	stranger.GetClientCertificate = foreign.Client("").GetClientCertificate
	old := files.Client("localhost")
	old.MaxVersion, old.MinVersion = tls.VersionTLS11, tls.VersionTLS10
	for name, c := range map[string]struct {
		cfg  *tls.Config
		want string
	}{
		"no certificate":            {unnamed, "certificate required"},
		"a certificate of others":   {stranger, "unknown certificate authority"},
		"another authority":         {foreign.Client("localhost"), "certificate signed by unknown authority"},
		"another name":              {files.Client("example.org"), "not example.org"},
		"a version that is too old": {old, "protocol version not supported"},
	} {
		if err := try(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	old = files.Client("localhost")
	old.MaxVersion = tls.VersionTLS12
	if err := try(old); err != nil {
		t.Errorf("TLS 1.2: %v", err)
	}
}

// TestTickets: a client goes on with its session over a renewal, and a change of
// authorities is in force for the next connection.
func TestTickets(t *testing.T) {
	dir, ca := t.TempDir(), certtest.NewAuthority(t, "one")
	f, _ := open(t, config(ca.Write(t, dir, certtest.Options{})))
	address := serve(t, f.Server(&tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}))
	cfg := f.Client("localhost")
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	c, err := dial(t, address, cfg)
	must(t, c, err)

	certificate, key := ca.Issue(t, certtest.Options{})
	for name, b := range map[string][]byte{f.cfg.Cert: certificate, f.cfg.Key: key} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.Reload()
	c, err = dial(t, address, cfg)
	if c = must(t, c, err); !c.ConnectionState().DidResume {
		t.Error("the ticket from before the renewal was not taken")
	}

	if err := os.WriteFile(f.cfg.CA, certtest.NewAuthority(t, "two").PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	f.Reload()
	c, err = dial(t, address, cfg)
	if err == nil {
		err = c.echo()
	}
	if err == nil {
		t.Error("a ticket outlived the trust in its authority")
	}
}

func TestKeys(t *testing.T) {
	ca := certtest.NewAuthority(t, "one")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]certtest.Options{"PKCS #8": {}, "SEC 1": {SEC1: true}, "RSA": {Key: key}} {
		f, _ := open(t, config(ca.Write(t, t.TempDir(), o)))
		c, err := dial(t, serve(t, f.Server(nil)), f.Client("localhost"))
		if err == nil {
			err = c.echo()
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestExpiry is warned about days before, daily, then hourly.
func TestExpiry(t *testing.T) {
	ca := certtest.NewAuthority(t, "one")
	start := time.Now()
	files := ca.Write(t, t.TempDir(), certtest.Options{NotAfter: start.Add(10 * 24 * time.Hour)})
	now := start
	f, log := open(t, Config{Cert: files.Cert, Key: files.Key, WarnBefore: 9 * 24 * time.Hour, now: func() time.Time { return now }})
	log.Want(t)
	for _, step := range []struct {
		after time.Duration
		want  []string
	}{
		{23 * time.Hour, nil},
		{25 * time.Hour, []string{"level=warning", files.Cert, "expires in 215h0m0s"}},
		{26 * time.Hour, nil},
		{49 * time.Hour, []string{"expires in 191h0m0s"}},
		{10*24*time.Hour - 2*time.Hour, []string{"expires in 2h0m0s"}},
		{10*24*time.Hour - 30*time.Minute, []string{"expires in 30m0s"}},
		{10*24*time.Hour + 40*time.Minute, []string{"level=error", files.Cert, "has expired"}},
	} {
		now = start.Add(step.after)
		f.Reload()
		log.Want(t, step.want...)
	}
	now = start
	ca.Write(t, filepath.Dir(files.Cert), certtest.Options{NotAfter: start.Add(20 * 24 * time.Hour)})
	f.Reload()
	log.Want(t, "certificates were renewed")
}

func TestConfig(t *testing.T) {
	ca := certtest.NewAuthority(t, "one")
	files := ca.Write(t, t.TempDir(), certtest.Options{})
	for name, cfg := range map[string]Config{
		"no file":             {},
		"no key":              {Cert: files.Cert},
		"no certificate":      {Key: files.Key, CA: files.CA},
		"a folder":            {CA: filepath.Dir(files.CA)},
		"a file that is none": {CA: files.CA + "x"},
		"a key as authority":  {CA: files.Key},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	f, log := open(t, Config{CA: files.CA})
	log.Want(t, files.CA, "expires in")
	if f.Client("x").GetClientCertificate != nil || f.Client("x").RootCAs == nil || f.Authorities() == nil {
		t.Error("a client with an authority only is something else")
	}

	var cfg Config
	s := settings.Set{FlagSet: pflag.NewFlagSet("test", pflag.ContinueOnError)}
	cfg.Settings(s)
	if err := s.Parse([]string{"--tls-cert", "c", "--tls-key", "k"}); err != nil || cfg.Cert != "c" || cfg.Key != "k" {
		t.Errorf("got %+v, %v", cfg, err)
	}
}
