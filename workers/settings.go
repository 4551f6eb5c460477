package workers

import (
	"strings"
	"time"

	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/workers/email"
)

// WorkerSettings declares the settings of every worker.
func (p *Process) WorkerSettings(s settings.Set) {
	s.Int(&p.Worker.Concurrency, "worker-concurrency", 256, 1, 65536, "handlers of a worker that run at once")
	s.Int(&p.Worker.Prefetch, "worker-prefetch", 64, 1, 65535, "envelopes that a worker takes at once")
	s.Duration(&p.Worker.DrainTimeout, "worker-drain", 10*time.Second, time.Second, 10*time.Minute, "how long a worker may finish what it has taken")
}

// AuthSettings declares the settings of the auth worker.
func (p *Process) AuthSettings(s settings.Set) {
	s.Address(&p.AuthGRPC, "auth-grpc", "127.0.0.1:7102", false, "where the auth worker is called by gRPC")
	s.Addresses(&p.Etcd.Servers, "etcd", nil, "etcd servers that the auth worker registers auth-grpc with, as PREFIX/auth; none where empty")
	s.Address(&p.Etcd.Advertise, "auth-advertise", "", true, "where others reach auth-grpc, as registered; nothing is where it listens, or the machine's address as etcd sees it")
	s.Duration(&p.Etcd.Lease, "etcd-lease", 10*time.Second, 2*time.Second, time.Hour, "how long an auth worker that was killed stays registered, in whole seconds")
	s.Duration(&p.Auth.TokenLife, "token-life", 30*24*time.Hour, time.Minute, 10*365*24*time.Hour, "how long a login lasts")
	s.Duration(&p.Auth.CodeLife, "code-life", 15*time.Minute, time.Minute, 24*time.Hour, "how long a mailed code is good for")
	l := &p.Auth.Limits
	s.Int(&l.LoginAddress.Burst, "login-burst", 20, -1, 1_000_000, "logins of one address at once; -1 is no limit")
	s.Duration(&l.LoginAddress.Every, "login-every", 3*time.Second, time.Millisecond, 24*time.Hour, "how long until one more login")
	s.Int(&l.RegisterAddress.Burst, "register-burst", 10, -1, 1_000_000, "registrations of one address at once; -1 is no limit")
	s.Duration(&l.RegisterAddress.Every, "register-every", time.Minute, time.Millisecond, 24*time.Hour, "how long until one more registration")
}

// EmailSettings declares the settings of the email worker.
func (p *Process) EmailSettings(s settings.Set) {
	smtp := &p.Email.SMTP
	s.Address(&smtp.Address, "smtp", "", true, "mail server; nothing prints the mails instead")
	s.Text((*string)(&smtp.TLS), "smtp-tls", string(email.StartTLS), "encryption to the mail server",
		string(email.StartTLS), string(email.Opportunistic), string(email.Implicit), string(email.NoTLS))
	s.Text(&smtp.Username, "smtp-username", "", "login at the mail server, if it wants one")
	s.Secret(&smtp.Password, "smtp-password", "", "password at the mail server")
	s.Text(&p.Email.From, "mail-from", "minigate <no-reply@localhost>", "sender of the mails")
}

// catcher is what compose.yaml has for a mail server.
const catcher = "mail:1025"

// InsecureEmail says which settings of the email worker are for development only,
// and what to do. A mail server on this machine needs neither encryption nor a
// login: nobody else hears, or could answer in its place.
func (p *Process) InsecureEmail() (all []string) {
	smtp := &p.Email.SMTP
	switch smtp.Address {
	case "":
		all = append(all, "smtp: mails would be printed; name a mail server")
	case catcher:
		all = append(all, "smtp: it is the catcher of compose.yaml, which shows all mails to everybody and delivers none; name a mail server")
	}
	if smtp.Address != "" && !settings.Loopback(smtp.Address) {
		if smtp.TLS == email.NoTLS || smtp.TLS == email.Opportunistic {
			all = append(all, "smtp-tls: codes, and the password, could go over the network in plain text; set starttls or implicit")
		}
		if smtp.Username == "" || smtp.Password == "" {
			all = append(all, "smtp-username: the mail server would take mails from anybody; set smtp-username and smtp-password")
		}
	}
	if strings.HasSuffix(strings.TrimRight(p.Email.From, "> "), "@localhost") {
		all = append(all, "mail-from: nobody can answer "+p.Email.From+", and servers refuse it; name an address of yours")
	}
	return all
}
