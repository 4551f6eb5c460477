package settings

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usage prints how a command is used, with its settings under their headings.
// Behind arguments, as in "worker auth --help", it leaves out what they do not
// have.
func usage(c *cobra.Command) error {
	var b strings.Builder
	b.WriteString("Usage:\n")
	if c.Runnable() {
		fmt.Fprintf(&b, "  %s\n", c.UseLine())
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s [command]\n", c.CommandPath())
	}
	if c.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", c.Example)
	}
	if c.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, child := range c.Commands() {
			if child.IsAvailableCommand() || child.Name() == "help" {
				fmt.Fprintf(&b, "  %-*s %s\n", child.NamePadding(), child.Name(), child.Short)
			}
		}
	}
	b.WriteString(headings(c.LocalFlags(), c.Flags().Args(), c.HasParent()))
	if c.HasAvailableInheritedFlags() {
		fmt.Fprintf(&b, "\nGlobal Flags:\n%s", c.InheritedFlags().FlagUsages())
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n\"%s [command] --help\" says more of a command.\n", c.CommandPath())
	}
	_, err := fmt.Fprint(c.OutOrStderr(), b.String())
	return err
}

// headings are the flags of a command in the order of their declaration, each
// group under its heading; those without one are just flags.
func headings(fs *pflag.FlagSet, arguments []string, grouped bool) string {
	type flag struct {
		*pflag.Flag
		group string
	}
	var flags []flag
	var groups []string
	fs.VisitAll(func(f *pflag.Flag) {
		s, ok := Describe(f)
		if f.Hidden || ok && !s.has(arguments) {
			return
		}
		group := cmp.Or(s.Group, "Flags")
		if !grouped {
			group = "Flags"
		}
		if !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
		flags = append(flags, flag{f, group})
	})
	slices.SortStableFunc(flags, func(a, b flag) int {
		return cmp.Compare(slices.Index(groups, a.group), slices.Index(groups, b.group))
	})
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	all.SortFlags = false
	for _, f := range flags {
		all.AddFlag(f.Flag)
	}
	// One line a flag, which begin in one column over all groups.
	var b strings.Builder
	group := ""
	for i, line := range strings.Split(strings.TrimSuffix(all.FlagUsages(), "\n"), "\n") {
		if i < len(flags) && flags[i].group != group {
			group = flags[i].group
			fmt.Fprintf(&b, "\n%s:\n", group)
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}
