// Package service makes a process of a worker of one's own. It is all that its main
// has to do:
//
//	func main() {
//		service.Main("game", func(s *service.Service) error {
//			worker.Handle(s.Worker, "game.move", move)
//			return nil
//		})
//	}
//
// The process then has the settings of minigate worker, as flags, variables of the
// environment and in a file; metrics, health and profiles on its admin address; the
// tape and traces; an orderly end; and the same exit codes.
package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/process"
	"github.com/motto123/minigate/pkg/settings"
)

// Service is what define gets: the worker that its routes are for, and what of the
// process it may use.
type Service = process.Service

// Main runs the service until SIGTERM or Ctrl-C, and ends the process. define declares
// its routes and subscribes to events; each of more declares settings of its own.
func Main(name string, define func(*Service) error, more ...func(settings.Set)) {
	os.Exit(run(name, os.Args[1:], define, more))
}

func run(name string, args []string, define func(*Service) error, more []func(settings.Set)) int {
	ctx, stop := Interrupted()
	defer stop()
	cfg := process.Config{Version: Version("", "")}
	root := &cobra.Command{
		Use: name, Short: "Take the requests of " + name + ".* of a minigate", Args: cobra.NoArgs, Version: cfg.Version,
		SilenceErrors: true, SilenceUsage: true,
		PreRunE: func(*cobra.Command, []string) error { return cfg.CheckService() },
		RunE: func(cmd *cobra.Command, _ []string) error {
			return Graceful(cmd.Context(), &cfg, func(ctx context.Context) error { return cfg.RunService(ctx, name, define) })
		},
	}
	settings.PrepareBeside(root) // the environment may be that of all of minigate
	root.SetArgs(args)
	root.Flags().SortFlags = false
	set := settings.Set{FlagSet: root.Flags()}
	cfg.ServiceSettings(set)
	for _, declare := range more {
		declare(set.Group("This service"))
	}
	return ExitCode(name, root.ExecuteContext(ctx))
}

// Interrupted is a context that the first SIGTERM or Ctrl-C ends.
func Interrupted() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once, unless Graceful listens
	return ctx, stop
}

// Graceful has a process that is told to stop finish what it has begun: a second
// signal makes it hurry, a third one ends it at once.
func Graceful(ctx context.Context, c *process.Config, run func(context.Context) error) error {
	c.Ending = parts.NewEnding()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	over := make(chan struct{})
	var listening sync.WaitGroup
	listening.Go(func() {
		for range 2 {
			select {
			case <-signals:
			case <-over:
				return
			}
		}
		// The third has the effect that signals have by themselves, also where they come so
		// fast that Interrupted still listens.
		signal.Reset(os.Interrupt, syscall.SIGTERM)
		c.Ending.Hurry()
	})
	defer listening.Wait()
	defer close(over)
	defer signal.Stop(signals)
	return run(ctx)
}

// ExitCode is how a process ends that has returned err, which is said on stderr unless
// the log has it.
func ExitCode(name string, err error) int {
	if err == nil {
		return 0
	}
	if ended := new(process.Ended); errors.As(err, &ended) {
		return ended.Code
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	return process.ExitFailed
}
