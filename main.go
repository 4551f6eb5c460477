// minigate serves long connections for chat, games and devices: gates hold the
// clients, RabbitMQ carries their requests, and small workers answer them.
//
// This file declares the commands and their settings, and wires the parts of a
// process together; everything else is in the packages.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/gate"
	"github.com/motto123/minigate/pkg/authrpc"
	"github.com/motto123/minigate/pkg/bench"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/pkg/events"
	"github.com/motto123/minigate/pkg/load"
	"github.com/motto123/minigate/pkg/logging"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/presence"
	"github.com/motto123/minigate/pkg/redisdb"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/snowflakes"
	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/terminal"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/workers"
	"github.com/motto123/minigate/workers/auth"
	"github.com/motto123/minigate/workers/email"
)

//go:embed schema.sql
var schema string

// version is set when a release is built.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "minigate:", err)
		os.Exit(1)
	}
}

// options are the settings of all commands; each command declares those it has.
type options struct {
	config, prefix, rabbitmq, redis, database string
	log                                       logging.Config
	gate                                      gate.Config
	authAddresses                             []string
	authGRPC                                  string
	worker                                    worker.Config
	auth                                      auth.Config
	email                                     email.Config
	smtpTLS                                   string
	data                                      string
	server, token, account, password          string
	timeout                                   time.Duration
	chat                                      terminal.Config
	load                                      load.Command
	bench                                     bench.Command
}

func newRoot() *cobra.Command {
	o := new(options)
	root := &cobra.Command{
		Use:   "minigate",
		Short: "Long connections for chat, games and devices, over RabbitMQ",
		Long: "minigate holds clients' connections in gates and passes their requests to workers over RabbitMQ.\n" +
			"Each setting is a flag, an environment variable (--gate-tcp is MINIGATE_GATE_TCP) and a key\nof the file that --config names (gate-tcp).",
		SilenceErrors: true, SilenceUsage: true,
	}
	file := settings.Set{FlagSet: root.PersistentFlags()}
	file.Text(&o.config, "config", os.Getenv("MINIGATE_CONFIG"), "YAML file with settings")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		_, err := settings.Apply(cmd.Flags(), o.config, os.Environ(), names(root))
		return err
	}
	root.AddCommand(
		command("dev", "Run everything in this process: gate, workers, bus, Redis and SQLite", cobra.NoArgs,
			func(ctx context.Context, _ []string) error { return o.dev(ctx) },
			o.logFlags, o.gateFlags, o.authFlags, o.workerFlags, o.devFlags),
		command("gate", "Run a gate", cobra.NoArgs,
			func(ctx context.Context, _ []string) error { return o.run(ctx, o.connect, nil, true) },
			o.logFlags, o.brokerFlags, o.redisFlags, o.gateFlags, o.authAddressFlags),
		command("worker NAME…", "Run one or more workers: "+strings.Join(workers.Names(), ", "),
			cobra.MinimumNArgs(1), o.workers,
			o.logFlags, o.brokerFlags, o.redisFlags, o.databaseFlags, o.workerFlags, o.authFlags, o.authAddressFlags, o.emailFlags),
		command("call ROUTE [JSON]", "Send one request and print its answer", cobra.RangeArgs(1, 2), o.call, o.clientFlags),
		command("chat", "Chat in the terminal", cobra.NoArgs,
			func(ctx context.Context, _ []string) error {
				o.chat.Gate, o.chat.Account, o.chat.Password, o.chat.Token = o.server, o.account, o.password, o.token
				return terminal.Run(ctx, o.chat)
			}, o.clientFlags, o.chatFlags),
		databaseCommand(o),
		command("load", "Drive a gate with many connections, and say how it answers", cobra.NoArgs, o.load.Run, o.load.Settings),
		command("bench", "Measure this machine: RabbitMQ and the event loop alone, and the whole path", cobra.NoArgs, o.bench.Run, o.bench.Settings),
		bench.ServeCommand(newRoot),
		command("version", "Print the version", cobra.NoArgs, func(context.Context, []string) error {
			fmt.Println("minigate", buildVersion(), runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
			return nil
		}),
	)
	return root
}

// greeting says what to try next.
const greeting = `
minigate is ready. It keeps its data in %s; Ctrl-C ends it.

Try, each in a terminal of its own:

  %[2]s chat --register --account alice --password alice-secret --email alice@example.org --to bob
  %[2]s chat --register --account bob --password bob-secret --email bob@example.org --to alice

or send one request:

  %[2]s call echo.echo '{"hello":"world"}'

`

func command(use, short string, args cobra.PositionalArgs, run func(context.Context, []string) error, flags ...func(settings.Set)) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args) }}
	c.Flags().SortFlags = false
	for _, declare := range flags {
		declare(settings.Set{FlagSet: c.Flags()})
	}
	return c
}

func databaseCommand(o *options) *cobra.Command {
	db := &cobra.Command{Use: "db", Short: "Manage the database"}
	db.AddCommand(command("init", "Create the database and its tables, where they are missing", cobra.NoArgs,
		func(ctx context.Context, _ []string) error {
			d, err := sqldb.Open(ctx, sqldb.Config{Address: o.database})
			if err != nil {
				return err
			}
			return errors.Join(sqldb.Init(ctx, d, schema), d.Close())
		}, o.databaseFlags))
	return db
}

// names are the settings of all commands: one environment may serve them all.
func names(c *cobra.Command) (all []string) {
	c.LocalFlags().VisitAll(func(f *pflag.Flag) { all = append(all, f.Name) })
	for _, child := range c.Commands() {
		all = append(all, names(child)...)
	}
	return all
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// The settings.

func (o *options) logFlags(s settings.Set) {
	s.Text(&o.log.Level, "log-level", "info", "what is logged", "error", "warn", "info", "debug")
	s.Text(&o.log.Format, "log-format", "text", "form of the log on the screen", "text", "json")
	s.Text(&o.log.File, "log-file", "", "file that takes the log too, and is rotated daily")
	s.Int(&o.log.Days, "log-days", 14, 1, 3650, "days that rotated log files are kept")
}

func (o *options) brokerFlags(s settings.Set) {
	s.Secret(&o.rabbitmq, "rabbitmq", "amqp://guest:guest@127.0.0.1:5672/", "URL of RabbitMQ, amqp://USER:PASSWORD@HOST:PORT/VHOST")
	s.Text(&o.prefix, "prefix", bus.DefaultPrefix, "what names in RabbitMQ and Redis begin with; one an installation")
}

func (o *options) redisFlags(s settings.Set) {
	s.Secret(&o.redis, "redis", "127.0.0.1:6379", "Redis, HOST:PORT or redis://:PASSWORD@HOST:PORT/DB")
}

func (o *options) databaseFlags(s settings.Set) {
	s.Secret(&o.database, "database", "mysql://root@127.0.0.1:3306/minigate", "mysql://USER:PASSWORD@HOST:PORT/NAME or sqlite:PATH")
}

func (o *options) gateFlags(s settings.Set) {
	g := &o.gate
	s.Address(&g.WebSocket, "gate-websocket", "127.0.0.1:7080", true, "where clients connect by WebSocket")
	s.Address(&g.TCP, "gate-tcp", "127.0.0.1:7001", true, "where clients connect by TCP")
	s.Address(&g.GRPC, "gate-grpc", "127.0.0.1:7101", false, "where workers call the gate")
	s.Address(&g.AdvertiseGRPC, "gate-advertise", "", true, "where workers reach gate-grpc, if elsewhere")
	s.Int(&g.Loops, "gate-loops", 0, 0, 256, "event loops; 0 is one a processor")
	s.Int(&g.Publishers, "gate-publishers", 1, 1, 64, "publisher shards")
	s.Int(&g.Window, "gate-window", 1, 1, 1024, "unconfirmed batches of a publisher before requests wait")
	s.Duration(&g.Heartbeat, "heartbeat", 30*time.Second, time.Second, time.Hour, "how often clients send a heartbeat, in whole seconds")
	s.Duration(&g.HandshakeTimeout, "handshake-timeout", 5*time.Second, 10*time.Millisecond, time.Minute, "how long a handshake may take")
	s.Duration(&g.RequestTimeout, "request-timeout", 10*time.Second, 10*time.Millisecond, 10*time.Minute, "how long a request may wait for its reply")
	l := &g.Limits
	s.Int(&l.Connections, "max-connections", 10_000, 1, 10_000_000, "connections of a gate")
	s.Int(&l.ConnectionsPerIP, "max-connections-per-ip", 0, 0, 10_000_000, "connections of one client address; 0 is no limit")
	s.Int(&l.InFlight, "max-in-flight", 64, 1, 65536, "unanswered requests of a connection")
	s.Int(&l.RequestsPerSecond, "max-requests-per-second", 0, 0, 1_000_000, "requests of a connection; 0 is no limit")
	s.Bytes(&l.Message, "max-message", 1<<20, 1024, codec.MaxMessage, "one message")
	s.Bytes(&l.WriteQueue, "max-write-queue", 1<<20, 4096, 1<<30, "what may wait for a slow client")
}

func (o *options) authAddressFlags(s settings.Set) {
	s.Addresses(&o.authAddresses, "auth-address", []string{"127.0.0.1:7102"}, "gRPC addresses of the auth workers")
}

func (o *options) authFlags(s settings.Set) {
	s.Address(&o.authGRPC, "auth-grpc", "127.0.0.1:7102", false, "where the auth worker is called by gRPC")
	s.Duration(&o.auth.TokenLife, "token-life", 30*24*time.Hour, time.Minute, 10*365*24*time.Hour, "how long a login lasts")
	s.Duration(&o.auth.CodeLife, "code-life", 15*time.Minute, time.Minute, 24*time.Hour, "how long a mailed code is good for")
}

func (o *options) workerFlags(s settings.Set) {
	s.Int(&o.worker.Concurrency, "worker-concurrency", 256, 1, 65536, "handlers of a worker that run at once")
	s.Int(&o.worker.Prefetch, "worker-prefetch", 64, 1, 65535, "envelopes that a worker takes at once")
	s.Duration(&o.worker.DrainTimeout, "worker-drain", 10*time.Second, time.Second, 10*time.Minute, "how long a worker may finish what it has taken")
}

func (o *options) emailFlags(s settings.Set) {
	s.Address(&o.email.SMTP.Address, "smtp", "", true, "mail server; nothing prints the mails instead")
	s.Text(&o.smtpTLS, "smtp-tls", string(email.StartTLS), "encryption to the mail server", string(email.StartTLS), string(email.Opportunistic), string(email.Implicit), string(email.NoTLS))
	s.Text(&o.email.SMTP.Username, "smtp-username", "", "login at the mail server, if it wants one")
	s.Secret(&o.email.SMTP.Password, "smtp-password", "", "password at the mail server")
	s.Text(&o.email.From, "mail-from", "minigate <no-reply@localhost>", "sender of the mails")
}

func (o *options) devFlags(s settings.Set) {
	s.Text(&o.data, "data", ".dev", "folder that keeps users, messages and logins")
}

func (o *options) clientFlags(s settings.Set) {
	s.Text(&o.server, "gate", "ws://127.0.0.1:7080/ws", "the gate, ws://HOST:PORT/ws or tcp://HOST:PORT")
	s.Text(&o.account, "account", "", "account to log in with")
	s.Secret(&o.password, "password", "", "password to log in with")
	s.Secret(&o.token, "token", "", "token of an earlier login, instead of account and password")
	s.Duration(&o.timeout, "timeout", 15*time.Second, time.Millisecond, time.Hour, "how long connecting and one request may take")
}

func (o *options) chatFlags(s settings.Set) {
	s.Bool(&o.chat.Register, "register", false, "make the account first, if it does not exist")
	s.Text(&o.chat.Email, "email", "", "e-mail address of a new account")
	s.Text(&o.chat.Nickname, "nickname", "", "name of a new account that others see")
	s.Text(&o.chat.To, "to", "", "account to chat with")
}

// The commands.

func (o *options) workers(ctx context.Context, names []string) error {
	if err := workers.Check(names); err != nil {
		return err
	}
	return o.run(ctx, o.connect, names, false)
}

func (o *options) dev(ctx context.Context) error {
	if o.log.File == "" {
		o.log.File = filepath.Join(o.data, "minigate.log")
	}
	o.authAddresses = []string{o.authGRPC}
	return o.run(ctx, o.embed, workers.Names(), true)
}

// call sends one request.
func (o *options) call(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	body := []byte("{}")
	if len(args) > 1 {
		body = []byte(args[1])
		if !json.Valid(body) {
			return fmt.Errorf("call: got %q, want JSON", args[1])
		}
	}
	c, err := client.Dial(ctx, o.server, client.Options{Token: o.token, ClientType: "call"})
	if err != nil {
		return err
	}
	if o.account != "" {
		in := &authpb.LoginRequest{Account: o.account, Password: o.password, Device: "minigate call"}
		if err := c.Call(ctx, "auth.login", in, new(authpb.LoginResponse)); err != nil {
			return errors.Join(fmt.Errorf("log in: %w", err), c.Close())
		}
	}
	reply, err := c.CallRaw(ctx, args[0], codec.JSON, "", body)
	if err == nil {
		_, err = fmt.Printf("%s\n", reply.Body)
	}
	return errors.Join(err, c.Close())
}

// run opens what connect says, starts workers and a gate, and ends everything in
// reverse order when ctx ends or a part fails.
func (o *options) run(ctx context.Context, connect func(context.Context, *process) error, names []string, withGate bool) error {
	log, err := logging.New(o.log)
	if err != nil {
		return err
	}
	p := &process{options: o, log: log, topology: bus.NewTopology(o.prefix)}
	p.Parts = parts.New()
	p.Parts.Start("log", log.Run)
	redisdb.LogTo(log)
	if err = connect(ctx, p); err == nil {
		err = p.start(ctx, names, withGate)
	}
	if err == nil {
		select {
		case <-ctx.Done():
			log.Info("stopping")
		case <-p.Parts.Failed():
		}
	}
	p.Parts.Stop()
	if err = errors.Join(err, p.Parts.Wait()); err != nil {
		log.WithError(err).Error("ended")
	} else {
		log.Info("ended")
	}
	return errors.Join(err, log.Close())
}

// process is what the parts of one process share.
type process struct {
	workers.Process
	*options
	log      *logging.Log
	topology bus.Topology
	bus      bus.Bus
	embedded bool
}

// connect opens the services that a production process talks to; none of them has
// to be there yet.
func (o *options) connect(ctx context.Context, p *process) (err error) {
	if p.Redis, err = redisdb.Open(redisdb.Config{URL: o.redis}); err != nil {
		return err
	}
	p.Parts.Closing("Redis", p.Redis)
	if p.DB, err = sqldb.Open(ctx, sqldb.Config{Address: o.database}); err != nil {
		return err
	}
	p.Parts.Closing("the database", p.DB)
	b, err := rabbit.Open(rabbit.Config{
		URL: o.rabbitmq, Topology: p.topology, Name: "minigate " + strings.Join(os.Args[1:min(len(os.Args), 3)], " "),
		Report: func(err error) { p.log.WithError(err).Warn("RabbitMQ") },
	})
	if err != nil {
		return err
	}
	p.Parts.Closing("RabbitMQ", b)
	p.bus = b
	return nil
}

// embed opens the same in this process, with its data in a folder.
func (o *options) embed(ctx context.Context, p *process) (err error) {
	e, err := redisdb.OpenEmbedded(filepath.Join(o.data, "redis.json"))
	if err != nil {
		return err
	}
	p.Redis = e
	p.Parts.Start("the embedded Redis", e.Run)
	if p.DB, err = sqldb.Open(ctx, sqldb.Config{Address: "sqlite:" + filepath.Join(o.data, "minigate.db")}); err != nil {
		return err
	}
	p.Parts.Closing("the database", p.DB)
	b := mem.New(mem.Config{Topology: p.topology})
	p.Parts.Closing("the bus", b)
	p.bus, p.embedded, o.rabbitmq = b, true, ""
	return sqldb.Init(ctx, p.DB, schema)
}

// start starts the parts: what others need first, the gate last.
func (p *process) start(ctx context.Context, names []string, withGate bool) (err error) {
	if slices.Contains(names, "auth") || slices.Contains(names, "chat") { // a node number is not leased for nothing
		if p.IDs, err = snowflakes.New(snowflakes.Config{Redis: p.Redis, Prefix: p.prefix, Log: p.log}); err != nil {
			return err
		}
		p.Parts.Start("ids", p.IDs.Run)
	}
	present, err := presence.New(presence.Config{Redis: p.Redis, Prefix: p.prefix})
	if err != nil {
		return err
	}
	if p.Events, err = events.New(events.Config{Topology: p.topology, URL: p.rabbitmq}, p.log); err != nil {
		return err
	}
	if p.Users, err = authrpc.New(authrpc.Config{Addresses: p.authAddresses}); err != nil {
		return err
	}
	p.Parts.Closing("calls of the auth service", p.Users)

	p.Log, p.Worker, p.Auth, p.AuthGRPC, p.Email, p.Mails = p.log, p.worker, p.auth, p.authGRPC, p.email, os.Stdout
	p.Worker.Bus, p.Worker.Topology, p.Worker.Presence, p.Worker.Log = p.bus, p.topology, present, p.log
	p.Auth.Prefix, p.Email.SMTP.TLS = p.prefix, email.TLS(p.smtpTLS)
	for _, name := range names {
		if err := p.Process.Start(name); err != nil {
			return err
		}
	}
	p.Parts.Start("events", p.Events.Run) // now that all have subscribed
	if !withGate {
		return nil
	}
	cfg := p.gate
	cfg.Bus, cfg.Topology, cfg.Presence, cfg.Events, cfg.Verify, cfg.Log = p.bus, p.topology, present, p.Events, p.Users, p.log
	g, err := gate.New(cfg)
	if err != nil {
		return err
	}
	p.Parts.Start("gate", g.Run)
	select {
	case <-g.Ready():
		if p.embedded {
			fmt.Printf(greeting, p.options.data, os.Args[0])
		}
	case <-p.Parts.Failed():
	case <-ctx.Done():
	}
	return nil
}
