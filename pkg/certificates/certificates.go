// Package certificates makes TLS configurations of files: a certificate, its key,
// and the authorities that are trusted. It reads the files again while they are in
// use, so that a renewed certificate serves the next connection without a restart
// and without an end to those that are open. What can not be used keeps the last
// that could, and is logged.
//
// It refuses to make certificates, to ask an authority for one, and to listen:
// who accepts connections takes a *tls.Config.
package certificates

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/settings"
)

// Config names the files, which are PEM. Cert and Key go together; a server needs
// them, and a client that shows who it is. At least one file must be named.
type Config struct {
	// Cert is the certificate, followed by those between it and its authority.
	Cert string
	// Key is its key: PKCS #8, PKCS #1 or SEC 1.
	Key string
	// CA has the authorities that peers' certificates must come from, one or more;
	// those of the system where it is empty.
	CA string

	// Every is how often the files are read; 2 s where it is 0.
	Every time.Duration
	// WarnBefore is how long before a certificate expires the log begins to say
	// so; 14 days where it is 0.
	WarnBefore time.Duration
	// Log gets what happens to the files; logrus' standard logger where it is nil.
	Log logrus.FieldLogger

	now func() time.Time // of tests
}

// Settings declares the certificate that clients see.
func (c *Config) Settings(s settings.Set) {
	s.Text(&c.Cert, "tls-cert", "", "PEM file with the certificate that clients see, and those between it and its authority; read again when it is renewed")
	s.Text(&c.Key, "tls-key", "", "PEM file with the key of tls-cert")
}

// Errors that New wraps.
var (
	// ErrFile: a file can not be read, or has not in it what it should.
	ErrFile = errors.New("unusable file")
	// ErrDate: a certificate has expired, or is not valid yet.
	ErrDate = errors.New("outside of its dates")
)

// Files are certificates that follow their files while Run runs. Its methods are
// safe to call at once.
type Files struct {
	cfg    Config
	loaded atomic.Pointer[loaded]

	reading sync.Mutex   // guards what follows; held while files are read
	failure string       // that was logged last, so that it is logged once
	warned  [2]time.Time // when the end of certificate and authorities was logged last
}

// New reads the files, and starts nothing.
func New(cfg Config) (*Files, error) {
	if (cfg.Cert == "") != (cfg.Key == "") {
		return nil, fmt.Errorf("certificates: got certificate %q with key %q, want both or none", cfg.Cert, cfg.Key)
	}
	if cfg.Cert == "" && cfg.CA == "" {
		return nil, errors.New("certificates: no file is named")
	}
	if cfg.Every == 0 {
		cfg.Every = 2 * time.Second
	}
	if cfg.WarnBefore == 0 {
		cfg.WarnBefore = 14 * 24 * time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	f := &Files{cfg: cfg}
	c, err := f.contents()
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	first, err := f.parse(c)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	f.loaded.Store(first)
	f.warn()
	return f, nil
}

// Run reads the files again and again until ctx ends. It compares what is in them:
// that is true on every file system, with renamed files, symbolic links that are
// swapped as Kubernetes does, and two changes within one tick of a clock; and it
// costs three small reads.
func (f *Files) Run(ctx context.Context) error {
	tick := time.NewTicker(f.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.Reload()
		}
	}
}

// Reload reads the files now, and takes what is in them if it can be used. Run
// calls it; whoever is told of a renewal may, too.
func (f *Files) Reload() {
	f.reading.Lock()
	defer f.reading.Unlock()
	defer f.warn()
	renewed := f.loaded.Load()
	c, err := f.contents()
	if err == nil && !c.equal(renewed.contents) {
		renewed, err = f.parse(c)
	}
	if err != nil {
		// A file that is half written is one of these for a moment.
		if f.failure != err.Error() {
			f.failure = err.Error()
			f.cfg.Log.WithError(err).Error("certificates were not renewed; those from before stay in use")
		}
		return
	}
	if f.failure != "" {
		f.failure = ""
		f.cfg.Log.WithFields(f.names()).Info("certificates can be read again")
	}
	if f.loaded.Swap(renewed) == renewed {
		return
	}
	f.warned = [2]time.Time{}
	log := f.cfg.Log.WithFields(f.names())
	if end := renewed.end(); !end.IsZero() {
		log = log.WithField("until", end.UTC().Format(time.RFC3339))
	}
	log.Info("certificates were renewed")
}

func (f *Files) names() logrus.Fields {
	names := logrus.Fields{}
	for name, file := range map[string]string{"certificate": f.cfg.Cert, "ca": f.cfg.CA} {
		if file != "" {
			names[name] = file
		}
	}
	return names
}

// warn logs what expires soon, once a day, and on the last day and afterwards once
// an hour. f.reading is held, or f is new.
func (f *Files) warn() {
	l, now := f.loaded.Load(), f.cfg.now()
	for _, what := range []struct {
		file   string
		end    time.Time
		warned *time.Time
	}{{f.cfg.Cert, l.end(), &f.warned[0]}, {f.cfg.CA, l.lastAuthority(), &f.warned[1]}} {
		left, again := what.end.Sub(now), 24*time.Hour
		if left <= again {
			again = time.Hour
		}
		if what.end.IsZero() || left > f.cfg.WarnBefore || now.Sub(*what.warned) < again {
			continue
		}
		*what.warned = now
		log := f.cfg.Log.WithField("until", what.end.UTC().Format(time.RFC3339))
		if left > 0 {
			log.Warnf("the certificate in %s expires in %v, and was not renewed yet", what.file, left.Round(time.Minute))
		} else {
			log.Errorf("the certificate in %s has expired", what.file)
		}
	}
}

// Server returns a configuration for servers that always shows the certificate of
// now, and has the authorities as ClientCAs. base, which may be nil, has the rest,
// for example ClientAuth; TLS 1.2 is the least. Session tickets are as crypto/tls
// has them, and stay good when a certificate is renewed. Without a certificate,
// handshakes fail.
func (f *Files) Server(base *tls.Config) *tls.Config {
	// One configuration for all connections between two renewals: each connection
	// keeps a pointer to it.
	type made struct {
		of     *loaded
		config *tls.Config
	}
	var latest atomic.Pointer[made]
	outer := atLeast12(base)
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := f.loaded.Load()
		if m := latest.Load(); m != nil && m.of == now {
			return m.config, nil
		}
		inner := atLeast12(base)
		inner.ClientCAs = now.authorities
		if now.pair != nil {
			inner.Certificates = []tls.Certificate{*now.pair}
		}
		latest.Store(&made{now, inner})
		return inner, nil
	}
	return outer
}

// Client returns a configuration for one connection to a server of this name, with
// the authorities of now: a caller that connects again asks again. A certificate,
// if there is one, is shown to servers that want it.
func (f *Files) Client(server string) *tls.Config {
	now := f.loaded.Load()
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: server, RootCAs: now.authorities}
	if now.pair != nil {
		// And not Certificates, which says nothing to a server that names other
		// authorities: it is to hear of a wrong certificate, not of none.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return now.pair, nil }
	}
	return c
}

// Authorities are those of the CA file, or nil for those of the system.
func (f *Files) Authorities() *x509.CertPool { return f.loaded.Load().authorities }

func atLeast12(base *tls.Config) *tls.Config {
	c := base.Clone()
	if c == nil {
		c = new(tls.Config)
	}
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	return c
}

// loaded is what the files had in them; it is not changed.
type loaded struct {
	contents    contents // to see a change
	pair        *tls.Certificate
	chain, ca   []*x509.Certificate
	authorities *x509.CertPool
}

// end is when the first of the chain expires; zero without one.
func (l *loaded) end() (end time.Time) {
	for _, c := range l.chain {
		if end.IsZero() || c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// lastAuthority is when the last authority expires; zero without one. Old ones
// stay in such files for a while.
func (l *loaded) lastAuthority() (end time.Time) {
	for _, c := range l.ca {
		if c.NotAfter.After(end) {
			end = c.NotAfter
		}
	}
	return end
}
