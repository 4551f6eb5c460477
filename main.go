// minigate serves long connections for chat, games and devices: gates hold the
// clients, RabbitMQ carries their requests, and small workers answer them.
//
// This file declares the commands; what they do and their settings are in the
// packages.
package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/motto123/minigate/pkg/bench"
	"github.com/motto123/minigate/pkg/dead"
	"github.com/motto123/minigate/pkg/health"
	"github.com/motto123/minigate/pkg/load"
	"github.com/motto123/minigate/pkg/process"
	"github.com/motto123/minigate/pkg/replay"
	"github.com/motto123/minigate/pkg/service"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/tail"
	"github.com/motto123/minigate/pkg/terminal"
	"github.com/motto123/minigate/workers"
)

//go:embed schema.sql
var schema string

// version and commit are set when a release is built.
var version, commit string

func main() {
	ctx, stop := service.Interrupted()
	defer stop()
	err := newRoot().ExecuteContext(ctx)
	if differ := new(replay.DifferError); errors.As(err, &differ) {
		os.Exit(differ.ExitCode()) // it has said in what
	}
	os.Exit(service.ExitCode("minigate", err))
}

func newRoot() *cobra.Command {
	var (
		served   = process.Config{Schema: schema, DefaultGate: terminal.DefaultGate, Version: service.Version(version, commit)}
		client   terminal.Command
		tailed   tail.Command
		replayed replay.Command
		loaded   load.Command
		measured bench.Command
		asked    health.Command
		letters  dead.Command
	)
	root := &cobra.Command{
		Use:   "minigate",
		Short: "Long connections for chat, games and devices, over RabbitMQ",
		Long: "minigate holds clients' connections in gates and passes their requests to workers over RabbitMQ.\n" +
			"Each setting is a flag, an environment variable (--gate-tcp is MINIGATE_GATE_TCP) and a key\nof the file that --config names (gate-tcp).",
		SilenceErrors: true, SilenceUsage: true,
	}
	settings.Prepare(root)
	db := &cobra.Command{Use: "db", Short: "Manage the database", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return errors.New("db: want a command: init")
	}}
	initDB := command("init", "Create the database and its tables, where they are missing", cobra.NoArgs, served.InitDatabase, served.InitSettings)
	initDB.PreRunE = check(served.CheckInit)
	db.AddCommand(initDB)
	died := &cobra.Command{Use: "dead", Short: "See what became a dead letter, and put it back or away", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return errors.New("dead: want a command: list, show, requeue or discard")
	}}
	died.AddCommand(
		command("list", "Print a line for each dead letter", cobra.NoArgs, letters.List, letters.FilterSettings, letters.Settings),
		command("show ID…", "Print all that is known of dead letters, with what is in them", cobra.MinimumNArgs(1), letters.Show, letters.ShowSettings, letters.Settings),
		command("requeue [ID…]", "Put dead letters back into the queues where they were", cobra.ArbitraryArgs, letters.Requeue, letters.FilterSettings, letters.MoveSettings, letters.Settings),
		command("discard [ID…]", "Throw dead letters away", cobra.ArbitraryArgs, letters.Discard, letters.FilterSettings, letters.MoveSettings, letters.Settings),
	)
	gate := command("gate", "Run a gate", cobra.NoArgs, graceful(&served, (*process.Config).RunGate), served.GateSettings)
	gate.PreRunE = check(served.CheckGate)
	worker := command("worker NAME…", "Run one or more workers: "+strings.Join(workers.Names(), ", "), cobra.ArbitraryArgs, graceful(&served, (*process.Config).RunWorkers), served.WorkerSettings)
	worker.PreRunE = check(served.CheckWorkers)
	root.AddCommand(
		command("dev", "Run everything in this process: gate, workers, bus, Redis and SQLite", cobra.NoArgs, graceful(&served, (*process.Config).RunDev), served.DevSettings),
		gate,
		worker,
		db,
		died,
		command("call ROUTE [JSON]", "Send one request and print its answer", cobra.RangeArgs(1, 2), client.Call, client.ClientSettings, client.CallSettings),
		command("chat", "Chat in the terminal", cobra.NoArgs, client.Chat, client.ClientSettings, client.ChatSettings),
		example(tail.Examples, command("tail [FILE]", "Show requests and their answers, as they come or from the tape", cobra.MaximumNArgs(1), tailed.Run, tailed.Settings)),
		example(replay.Examples, command("replay [FILE]", "Send requests of the tape to another worker, and compare its answers", cobra.MaximumNArgs(1), replayed.Run, replayed.Settings)),
		settings.Command(newRoot),
		command("load", "Drive a gate with many connections, and say how it answers", cobra.NoArgs, loaded.Run, under("Load", loaded.Settings)),
		command("bench", "Measure this machine: RabbitMQ and the event loop alone, and the whole path", cobra.NoArgs, measured.Run, under("Bench", measured.Settings)),
		bench.ServeCommand(newRoot),
		command("health", "Ask the process in this container whether it is ready", cobra.NoArgs, asked.Run, under("Health", asked.Settings)),
		command("version", "Print the version", cobra.NoArgs, func(context.Context, []string) error {
			fmt.Println("minigate", service.Version(version, commit), runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
			return nil
		}),
	)
	return root
}

func command(use, short string, args cobra.PositionalArgs, run func(context.Context, []string) error, flags ...func(settings.Set)) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args) }}
	c.Flags().SortFlags = false
	for _, declare := range flags {
		declare(settings.Set{FlagSet: c.Flags()})
	}
	return c
}

func example(text string, c *cobra.Command) *cobra.Command {
	c.Example = text
	return c
}

// graceful has a process that is told to stop finish what it has begun.
func graceful(c *process.Config, run func(*process.Config, context.Context, []string) error) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		return service.Graceful(ctx, c, func(ctx context.Context) error { return run(c, ctx, args) })
	}
}

// under declares settings under a heading.
func under(heading string, declare func(settings.Set)) func(settings.Set) {
	return func(s settings.Set) { declare(s.Group(heading)) }
}

// check has a command refuse settings that do not go together.
func check(f func(names []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, names []string) error { return f(names) }
}
