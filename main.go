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
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/workers"
)

//go:embed schema.sql
var schema string

// version is set when a release is built.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := newRoot().ExecuteContext(ctx); err != nil {
		if !errors.As(err, new(logged)) {
			fmt.Fprintln(os.Stderr, "minigate:", err)
		}
		os.Exit(1)
	}
}

// logged is an error that its reader has seen in the log.
type logged struct{ error }

func (l logged) Unwrap() error { return l.error }

// options are the settings of all commands; each command declares those it has.
type options struct {
	config, prefix, rabbitmq, redis, database string
	log                                       logging.Config
	gate                                      gate.Config
	authAddresses                             []string
	process                                   workers.Process
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
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if bad := new(pflag.InvalidValueError); errors.As(err, &bad) {
			return fmt.Errorf("%w: --%s: %w", settings.ErrValue, bad.GetFlag().Name, settings.Cause(err))
		}
		return err
	})
	root.AddCommand(
		command("dev", "Run everything in this process: gate, workers, bus, Redis and SQLite", cobra.NoArgs,
			func(ctx context.Context, _ []string) error { return o.dev(ctx) },
			o.logFlags, o.gate.Settings, o.process.AuthSettings, o.process.WorkerSettings, o.devFlags),
		command("gate", "Run a gate", cobra.NoArgs,
			func(ctx context.Context, _ []string) error { return o.run(ctx, o.connect, nil, true) },
			o.logFlags, o.brokerFlags, o.redisFlags, o.gate.Settings, o.authAddressFlags),
		command("worker NAME…", "Run one or more workers: "+strings.Join(workers.Names(), ", "),
			cobra.ArbitraryArgs, o.workers,
			o.logFlags, o.brokerFlags, o.redisFlags, o.databaseFlags, o.process.WorkerSettings, o.process.AuthSettings, o.authAddressFlags, o.process.EmailSettings),
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

// defaultGate is where clients look for a gate.
const defaultGate = "ws://127.0.0.1:7080/ws"

// greeting says what to try next.
const greeting = `
minigate is ready. It keeps its data in %s; Ctrl-C ends it.

Try, each in a terminal of its own:

  %[2]s chat%[3]s --register --account alice --password alice-secret --email alice@example.org --to bob
  %[2]s chat%[3]s --register --account bob --password bob-secret --email bob@example.org --to alice

or send one request:

  %[2]s call%[3]s echo.echo '{"hello":"world"}'

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
	db := &cobra.Command{Use: "db", Short: "Manage the database", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return errors.New("db: want a command: init")
	}}
	db.AddCommand(command("init", "Create the database and its tables, where they are missing", cobra.NoArgs,
		func(ctx context.Context, _ []string) error {
			d, err := sqldb.Open(ctx, sqldb.Config{Address: o.database})
			if err != nil {
				return err
			}
			if err := errors.Join(sqldb.Init(ctx, d, schema), d.Close()); err != nil {
				return err
			}
			fmt.Println("The database has its tables.")
			return nil
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

func (o *options) authAddressFlags(s settings.Set) {
	s.Addresses(&o.authAddresses, "auth-address", []string{"127.0.0.1:7102"}, "gRPC addresses of the auth workers")
}

func (o *options) devFlags(s settings.Set) {
	s.Text(&o.data, "data", ".dev", "folder that keeps users, messages and logins")
}

func (o *options) clientFlags(s settings.Set) {
	s.Text(&o.server, "gate", defaultGate, "the gate, ws://HOST:PORT/ws or tcp://HOST:PORT")
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
	if len(names) == 0 {
		return fmt.Errorf("worker: want the name of one or more of %s", strings.Join(workers.Names(), ", "))
	}
	if err := workers.Check(names); err != nil {
		return err
	}
	return o.run(ctx, o.connect, names, false)
}

func (o *options) dev(ctx context.Context) error {
	if o.log.File == "" {
		o.log.File = filepath.Join(o.data, "minigate.log")
	}
	o.authAddresses = []string{o.process.AuthGRPC}
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
	p := &process{Process: o.process, options: o, log: log, topology: bus.NewTopology(o.prefix)}
	p.Parts = parts.New()
	p.stores = slices.Contains(names, "auth") || slices.Contains(names, "chat")
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
		err = logged{err}
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
	stores   bool // has a worker with a database and ids of its own
}

// connect opens the services that a production process talks to; none of them has
// to be there yet.
func (o *options) connect(ctx context.Context, p *process) (err error) {
	if p.Redis, err = redisdb.Open(redisdb.Config{URL: o.redis}); err != nil {
		return err
	}
	p.Parts.Closing("Redis", p.Redis)
	if p.stores {
		if p.DB, err = sqldb.Open(ctx, sqldb.Config{Address: o.database}); err != nil {
			return err
		}
		p.Parts.Closing("the database", p.DB)
	}
	b, err := rabbit.Open(rabbit.Config{
		URL: o.rabbitmq, Topology: p.topology, Name: "minigate " + strings.Join(os.Args[1:min(len(os.Args), 3)], " "),
		Report: func(err error) { p.log.WithError(err).Warn("RabbitMQ can not be used; trying again") },
		Back:   func(outage time.Duration) { p.log.Infof("RabbitMQ is back after %v", outage.Round(time.Millisecond)) },
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
	if p.stores {
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

	p.Log, p.Mails = p.log, os.Stdout
	p.Worker.Bus, p.Worker.Topology, p.Worker.Presence, p.Worker.Log = p.bus, p.topology, present, p.log
	p.Auth.Prefix = p.prefix
	if err := p.Process.Start(names...); err != nil {
		return err
	}
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
			where := ""
			if url := "ws://" + g.WebSocketAddress() + "/ws"; p.options.gate.WebSocket != "" && url != defaultGate {
				where = " --gate " + url
			}
			fmt.Printf(greeting, p.options.data, os.Args[0], where)
		}
	case <-p.Parts.Failed():
	case <-ctx.Done():
	}
	return nil
}
