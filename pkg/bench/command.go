package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"

	"github.com/spf13/cobra"

	"github.com/motto123/minigate/pkg/settings"
)

// Command is minigate bench.
type Command struct {
	Config
	JSON     bool
	Document string
}

// Settings declares the settings of the command.
func (c *Command) Settings(s settings.Set) {
	c.Config.Settings(s)
	s.Bool(&c.JSON, "json", false, "print the report as JSON")
	s.Text(&c.Document, "document", "", "Markdown file that gets the report, between its lines <!-- bench:begin --> and <!-- bench:end -->, and the plots beside it")
}

// Run measures, and prints each line when it is there.
func (c *Command) Run(ctx context.Context, _ []string) error {
	cfg := c.Config
	cfg.Progress = os.Stdout
	if c.JSON {
		cfg.Progress = os.Stderr
	}
	report, err := Run(ctx, cfg)
	if err != nil {
		return err
	}
	if c.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		if err := out.Encode(report); err != nil {
			return fmt.Errorf("bench: print the report: %w", err)
		}
	}
	if c.Document != "" {
		return report.Into(c.Document)
	}
	return nil
}

// serveName is the command by which a bench starts its children that are no
// command of their own.
const serveName = "bench-serve"

// ServeCommand is that command. root
// makes the program's root, to run any other of its commands under a profile.
func ServeCommand(root func() *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: serveName, Hidden: true, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && (args[0] == "tcp" || args[0] == "websocket"):
				return serveBare(cmd.Context(), args[0] == "websocket", os.Stdin)
			case len(args) == 3 && args[0] == quorumName:
				return serveQuorum(cmd.Context(), args[1], args[2])
			case len(args) == 3 && args[0] == holdName:
				return serveHold(cmd.Context(), args[1], args[2], os.Stdin, os.Stdout)
			case len(args) > 2 && args[0] == "profiled":
				return profiled(args[1], func() error {
					other := root()
					other.SetArgs(args[2:])
					return other.ExecuteContext(cmd.Context())
				})
			}
			return fmt.Errorf("%s: got %q, want tcp, websocket, quorum URL PREFIX, hold ADDRESS CONNECTIONS or profiled FILE COMMAND…", serveName, args)
		},
	}
}

// profiled runs f, and leaves a profile of the processor and one of the heap.
func profiled(file string, f func() error) (err error) {
	cpu, err := os.Create(file + ".cpu")
	if err != nil {
		return fmt.Errorf("bench: profile: %w", err)
	}
	defer func() { err = errors.Join(err, cpu.Close()) }()
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return fmt.Errorf("bench: profile: %w", err)
	}
	err = f()
	pprof.StopCPUProfile()
	heap, created := os.Create(file + ".heap")
	if created != nil {
		return errors.Join(err, fmt.Errorf("bench: profile: %w", created))
	}
	return errors.Join(err, pprof.Lookup("allocs").WriteTo(heap, 0), heap.Close())
}
