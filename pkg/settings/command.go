package settings

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// configFlag names the settings file.
const configFlag = "config"

// Prepare gives a program's root the flag --config, and has every command's
// settings filled in before it runs. Commands are listed in the order in which
// they are added.
func Prepare(root *cobra.Command) {
	cobra.EnableCommandSorting = false
	Set{FlagSet: root.PersistentFlags()}.Text(new(string), configFlag, "", "YAML file with settings")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		_, err := Apply(cmd.Flags(), fileOf(cmd, os.Environ()), os.Environ(), known(cmd.Root()))
		return err
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
	root.SetUsageFunc(usage)
}

// PrepareBeside is Prepare for a program that shares its environment and its file with
// others, whose settings it does not know: what is none of its own is left alone.
func PrepareBeside(root *cobra.Command) {
	Prepare(root)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		environ, file := os.Environ(), fileOf(cmd, os.Environ())
		variables, _ := fromEnvironment(environ, func(string) bool { return false })
		values, _ := read(file)
		others := slices.AppendSeq(slices.Collect(maps.Keys(variables)), maps.Keys(values))
		_, err := Apply(cmd.Flags(), file, environ, others)
		return err
	}
}

// flagError says of a bad flag what Apply says of a bad variable.
func flagError(err error) error {
	if bad := new(pflag.InvalidValueError); errors.As(err, &bad) {
		return fmt.Errorf("%w: --%s: %w", ErrValue, bad.GetFlag().Name, Cause(err))
	}
	return err
}

// fileOf is the settings file that a command was given, by flag or else by environment.
func fileOf(cmd *cobra.Command, environ []string) string {
	if f := cmd.Flags().Lookup(configFlag); f != nil && f.Changed {
		return f.Value.String()
	}
	found, _ := fromEnvironment(environ, func(name string) bool { return name == configFlag }) // Apply says what is wrong
	return found[configFlag].value
}

// known are the settings of a command and all below it: one environment may
// serve them all.
func known(c *cobra.Command) (all []string) {
	c.LocalFlags().VisitAll(func(f *pflag.Flag) { all = append(all, f.Name) })
	for _, child := range c.Commands() {
		all = append(all, known(child)...)
	}
	return all
}

// inForce is what minigate config prints, as JSON too.
type inForce struct {
	Command  string   `json:"command,omitempty"`
	Settings []row    `json:"settings"`
	Problems []string `json:"problems,omitempty"`
}

type row struct {
	Setting
	Value    string   `json:"value"`
	From     Source   `json:"from"`
	Commands []string `json:"commands,omitempty"` // that have it, where all commands are shown
}

// Command is minigate config. root makes the program's root; a new one for each
// command that is shown, whose settings are then set. A command's PreRunE is
// asked what is wrong with settings that are each right by themselves.
func Command(root func() *cobra.Command) *cobra.Command {
	var asJSON, markdown bool
	c := &cobra.Command{
		Use:   "config [COMMAND…] [FLAG…]",
		Short: "Print the settings in force, and where each comes from",
		Long: "Prints the settings of a command as it would run with the same arguments, flags, environment and file,\n" +
			"or those of all commands; where each value comes from; and all that is wrong with them, which makes\n" +
			"the exit code 1. Secrets are masked. --json may stand anywhere.",
		Example:               "  minigate config gate --gate-tcp :7001\n  minigate config worker auth email --json",
		DisableFlagsInUseLine: true,
		// Not the root's: what is wrong is a result.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
	}
	c.Flags().SetInterspersed(false) // what follows COMMAND is COMMAND's
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON (true or false)")
	c.Flags().BoolVar(&markdown, "markdown", false, "print docs/configuration.md instead: all settings, whatever they are set to (true or false)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if markdown {
			return Document(cmd.OutOrStdout(), root())
		}
		if f := cmd.Flags().Lookup(configFlag); f != nil && f.Changed {
			args = append(args, "--"+configFlag+"="+f.Value.String())
		}
		shown, err := show(root, args, os.Environ(), &asJSON)
		if errors.Is(err, pflag.ErrHelp) {
			return cmd.Help()
		} else if err != nil {
			return err
		}
		if err := shown.print(cmd.OutOrStdout(), asJSON); err != nil {
			return fmt.Errorf("config: print: %w", err)
		}
		switch n := len(shown.Problems); {
		case n == 0:
			return nil
		case asJSON:
			return fmt.Errorf("config: problems found: %d", n)
		}
		return fmt.Errorf("config: problems found:\n  %s", strings.Join(shown.Problems, "\n  "))
	}
	return c
}

// show looks at the command that args name, or at all.
func show(root func() *cobra.Command, args, environ []string, asJSON *bool) (inForce, error) {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		return showOne(root(), args, environ, asJSON)
	}
	var all inForce
	of := make(map[string]int) // rows, by what tells settings of one name apart
	for _, path := range paths(root()) {
		one, err := showOne(root(), append(strings.Fields(path), args...), environ, asJSON)
		if err != nil {
			return all, err
		}
		for _, r := range one.Settings {
			key := strings.Join([]string{r.Name, r.Usage, r.Default, r.Wants}, "\x00")
			if _, ok := of[key]; !ok {
				of[key] = len(all.Settings)
				all.Settings = append(all.Settings, r)
			}
			at := &all.Settings[of[key]]
			at.Commands = append(at.Commands, path)
		}
		for _, p := range one.Problems {
			if !slices.Contains(all.Problems, p) {
				all.Problems = append(all.Problems, p)
			}
		}
	}
	return all, nil
}

// paths are the commands that have settings, such as "db init".
func paths(root *cobra.Command) (all []string) {
	for _, c := range root.Commands() {
		all = append(all, paths(c)...)
		if !c.Hidden && c.Runnable() && len(settingsOf(c)) > 0 {
			all = append(all, pathOf(c))
		}
	}
	return all
}

// settingsOf are a command's own settings, in the order of their declaration.
func settingsOf(c *cobra.Command) (all []Setting) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if s, ok := Describe(f); ok && f.Name != configFlag {
			all = append(all, s)
		}
	})
	return all
}

// pathOf is a command's name without the program's.
func pathOf(c *cobra.Command) string {
	_, path, _ := strings.Cut(c.CommandPath(), " ")
	return path
}

func showOne(root *cobra.Command, args, environ []string, asJSON *bool) (shown inForce, err error) {
	c, rest, err := root.Find(args)
	if err != nil {
		return shown, err
	}
	_ = c.InheritedFlags() // which has the root's flags among the command's
	fs := c.Flags()
	if fs.Lookup("json") == nil {
		fs.BoolVar(asJSON, "json", *asJSON, "")
	}
	shown.Command = pathOf(c)
	problem := func(err error) {
		if err != nil { // each in a line of its own
			shown.Problems = append(shown.Problems, strings.Split(err.Error(), "\n")...)
		}
	}
	err = fs.ParseAll(rest, func(f *pflag.Flag, value string) error {
		if err := fs.Set(f.Name, value); err != nil {
			problem(flagError(err))
		}
		return nil
	})
	if errors.Is(err, pflag.ErrHelp) {
		return shown, err
	}
	problem(err)
	sources, err := Apply(c.Flags(), fileOf(c, environ), environ, known(c.Root()))
	problem(err)
	if c.PreRunE != nil {
		problem(c.PreRunE(c, fs.Args()))
	}
	fs.VisitAll(func(f *pflag.Flag) {
		if s, ok := Describe(f); ok && s.has(fs.Args()) {
			shown.Settings = append(shown.Settings, row{Setting: s, Value: f.Value.String(), From: sources[f.Name]})
		}
	})
	return shown, nil
}

// widest bounds the column of values: a longer one pushes what is right of it.
const widest = 44

func (i inForce) print(w io.Writer, asJSON bool) error {
	if asJSON {
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		out.SetEscapeHTML(false)
		return out.Encode(i)
	}
	name, value, from := len("setting"), len("value"), len("from")
	for _, r := range i.Settings {
		name = max(name, len(r.Name))
		value = max(value, min(widest, len([]rune(shownValue(r)))))
		from = max(from, len(r.From.String()))
	}
	line := func(cells ...string) string {
		return strings.TrimRight(fmt.Sprintf("%-*s  %-*s  %-*s  %s", name, cells[0], value, cells[1], from, cells[2], cells[3]), " ") + "\n"
	}
	last := ""
	if i.Command == "" {
		last = "COMMANDS"
	}
	var text strings.Builder
	text.WriteString(line("SETTING", "VALUE", "FROM", last))
	for _, r := range i.Settings {
		text.WriteString(line(r.Name, shownValue(r), r.From.String(), strings.Join(r.Commands, ", ")))
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func shownValue(r row) string { return cmp.Or(r.Value, `""`) }
