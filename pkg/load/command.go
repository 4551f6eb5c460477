package load

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/term"

	"github.com/motto123/minigate/pkg/settings"
)

// Command is minigate load.
type Command struct {
	Config
	JSON bool
}

// Settings declares the settings of the command.
func (c *Command) Settings(s settings.Set) {
	c.Config.Settings(s)
	s.Bool(&c.JSON, "json", false, "print the result as JSON")
}

// Run runs the load and prints its result; progress goes to the error output. It
// returns an error also for what a correct gate would not have done.
func (c *Command) Run(ctx context.Context, _ []string) error {
	cfg := c.Config
	cfg.Progress, cfg.Terminal = os.Stderr, term.IsTerminal(int(os.Stderr.Fd()))
	l, err := New(cfg)
	if err != nil {
		return err
	}
	result, err := l.Run(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		err = out.Encode(result)
	} else {
		err = result.Print(os.Stdout)
	}
	if err != nil {
		return fmt.Errorf("load: print the result: %w", err)
	}
	return result.Failed()
}
