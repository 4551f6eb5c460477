// Package workers puts the shipped services together: which parts each has, and
// what of a process it needs.
//
// It refuses to open anything: connections come from whoever runs the process.
package workers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"

	"github.com/motto123/minigate/pkg/admin"
	"github.com/motto123/minigate/pkg/authrpc"
	"github.com/motto123/minigate/pkg/events"
	"github.com/motto123/minigate/pkg/grpcserver"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/snowflakes"
	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/workers/auth"
	"github.com/motto123/minigate/workers/chat"
	"github.com/motto123/minigate/workers/echo"
	"github.com/motto123/minigate/workers/email"
)

// Process is what the services of one process share.
type Process struct {
	Parts  *parts.Parts
	Admin  *admin.Server // is told how the workers are; nil for none
	Log    logrus.Ext1FieldLogger
	Worker worker.Config // of every worker
	Events *events.Events
	Redis  redis.UniversalClient
	DB     *sqldb.DB
	IDs    *snowflakes.Generator
	Users  *authrpc.Client

	Auth     auth.Config         // its settings; what stands above is filled in
	AuthGRPC string              // host:port on which the Auth service is called
	GRPC     []grpc.ServerOption // of the Auth service, for example its credentials
	Etcd     Etcd                // that it is registered with
	Email    email.Config
	Mails    io.Writer // takes mails for people where no mail server is named
}

// callsTime is what running calls of the auth service get at its end.
const callsTime = 10 * time.Second

// Names are the services that Start knows.
func Names() []string { return []string{"auth", "chat", "echo", "email"} }

// Start starts services, and events behind them: those end after the services that
// publish them. auth ends after chat, which asks it.
func (p *Process) Start(names ...string) error {
	if err := Check(names); err != nil {
		return err
	}
	prepare := map[string]func() (start func(), err error){
		"auth": p.prepareAuth, "chat": p.prepareChat, "echo": p.prepareEcho, "email": p.prepareEmail,
	}
	var starts []func()
	for _, name := range Names() {
		if !slices.Contains(names, name) {
			continue
		}
		start, err := prepare[name]()
		if err != nil {
			return err
		}
		starts = append(starts, start)
	}
	p.Parts.Start("events", p.Events.Run) // now that all have subscribed
	for _, start := range starts {
		start()
	}
	return nil
}

// Check says which of names is no service.
func Check(names []string) error {
	for _, name := range names {
		if !slices.Contains(Names(), name) {
			return fmt.Errorf("worker: got %q, want one of %s", name, strings.Join(Names(), ", "))
		}
	}
	return nil
}

func (p *Process) prepareEcho() (start func(), err error) {
	w := echo.New(p.Worker)
	return func() { p.Parts.Start("echo", w.Run) }, p.observe(w)
}

func (p *Process) prepareAuth() (start func(), err error) {
	cfg := p.Auth
	cfg.DB, cfg.Redis, cfg.IDs, cfg.Events, cfg.Log = p.DB, p.Redis, p.IDs, p.Events, p.Log.WithField("service", "auth")
	s, err := auth.New(cfg)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", p.AuthGRPC)
	if err != nil {
		return nil, fmt.Errorf("auth: listen for gRPC (--auth-grpc): %w", err)
	}
	registered, err := p.registration("auth", listener.Addr())
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	w := worker.New("auth", p.Worker)
	s.Register(w)
	events.Subscribe(p.Events, "auth", "session.closed", s.SessionClosed)
	// A code that is sent before the first e-mail worker ever ran waits for it.
	for _, name := range []string{email.VerificationEvent, email.PasswordResetEvent} {
		p.Events.Reserve(email.Group, name)
	}
	return func() {
		p.Parts.Start("auth, in the background", s.Run)
		p.Parts.Start("auth gRPC", func(ctx context.Context) error {
			return grpcserver.Serve(ctx, grpcserver.Config{
				Name: "auth gRPC", Listener: listener, Options: p.GRPC, Register: s.RegisterGRPC,
				Limit: callsTime, Ending: p.Worker.Ending,
			})
		})
		if registered != nil { // until gRPC ends, and not longer
			p.Parts.Start("auth in etcd", registered.Run)
		}
		p.Parts.Start("auth", whenReady(p.DB, cfg.Log, w.Run, "users"))
	}, p.observe(w)
}

func (p *Process) prepareChat() (start func(), err error) {
	w := worker.New("chat", p.Worker)
	log := p.Log.WithField("service", "chat")
	s, err := chat.New(chat.Config{DB: p.DB, IDs: p.IDs, Users: p.Users, Push: chat.PushBy(w), Log: log})
	if err != nil {
		return nil, err
	}
	s.Register(w)
	return func() { p.Parts.Start("chat", whenReady(p.DB, log, w.Run, "conversations", "messages")) }, p.observe(w)
}

// observe registers what a worker counts, and how it is.
func (p *Process) observe(w *worker.Worker) error {
	name := "worker " + w.Service()
	p.Admin.Ready(name, func(context.Context) error { return w.Health() })
	p.Admin.Live(name, func(context.Context) error { return w.Live() })
	return p.Admin.Measure(w)
}

func (p *Process) prepareEmail() (start func(), err error) {
	cfg := p.Email
	cfg.Out, cfg.Log = p.Mails, p.Log.WithField("service", "email")
	s, err := email.New(cfg)
	if err != nil {
		return nil, err
	}
	s.Register(p.Events)
	if cfg.SMTP.Address == "" {
		return func() { cfg.Log.Info("mails are printed: no mail server is named") }, nil
	}
	p.Admin.Ready("smtp", func(context.Context) error { return s.Health() })
	return func() {
		cfg.Log.Info("mails are sent by SMTP through " + cfg.SMTP.Address)
		p.Parts.Start("the mail server", s.Run)
	}, nil
}
