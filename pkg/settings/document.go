package settings

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// documented is a setting and the commands that have it.
type documented struct {
	Setting
	commands []string
}

const documentHead = `<!-- Generated from the settings in the code by "make docs-configuration"; do not edit. -->

# Configuration

Every setting has one name in three places: the flag ` + "`--request-timeout 5s`" + `, the environment variable
` + "`MINIGATE_REQUEST_TIMEOUT=5s`" + ` and the key ` + "`request-timeout: 5s`" + ` of the YAML file that ` + "`--config`" + ` or
` + "`MINIGATE_CONFIG`" + ` names. The flag wins over the variable, and that over the file. In the file, ` + "`gate: {tcp: …}`" + ` is the
same as ` + "`gate-tcp: …`" + `, and a list is a value with commas.

Any setting can be read from a file of its own, as container secrets are: ` + "`MINIGATE_DATABASE_FILE=/run/secrets/database`" + `.
One file and one environment may serve all commands: each takes what it has. A bad value or an unknown name ends
the process, with all that is wrong. ` + "`minigate config COMMAND`" + ` prints what is in force, and where each value came from.

`

// Document writes what a person may set, in Markdown: each setting once, under
// its heading, with the commands that have it.
func Document(w io.Writer, root *cobra.Command) error {
	var groups []string
	of := make(map[string][]*documented)
	for _, path := range paths(root) {
		c, _, err := root.Find(strings.Fields(path))
		if err != nil {
			return err
		}
		for _, s := range settingsOf(c) {
			names := []string{path}
			if len(s.Of) > 0 {
				names = nil
				for _, argument := range s.Of {
					names = append(names, path+" "+argument)
				}
			}
			if d := same(of, &s); d != nil {
				d.commands = append(d.commands, names...)
				continue
			}
			s.Group = cmp.Or(s.Group, "Of "+path)
			if !slices.Contains(groups, s.Group) {
				groups = append(groups, s.Group)
			}
			of[s.Group] = append(of[s.Group], &documented{s, names})
		}
	}
	var b strings.Builder
	b.WriteString(documentHead)
	for i, group := range groups {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "## %s\n\n| flag | environment variable | key in the file | unless set | takes | what for | commands |\n"+
			"| --- | --- | --- | --- | --- | --- | --- |\n", group)
		for _, d := range of[group] {
			cells := []string{code("--" + d.Name), code(EnvName(d.Name)), code(d.Name), code(d.Default), d.takes(), d.Usage, codes(d.commands)}
			for i, c := range cells {
				cells[i] = escape.Replace(c)
			}
			fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// escape keeps what people wrote from being a table's or HTML's.
var escape = strings.NewReplacer("|", `\|`, "<!--", "&lt;!--")

// same finds the setting that another command has too.
func same(of map[string][]*documented, s *Setting) *documented {
	for _, group := range of {
		for _, d := range group {
			if d.Name == s.Name && d.Kind == s.Kind && d.Usage == s.Usage && d.Default == s.Default && d.Wants == s.Wants {
				return d
			}
		}
	}
	return nil
}

// takes says which values are taken.
func (s Setting) takes() string {
	switch {
	case s.Low != "":
		return s.Low + " to " + s.High
	case len(s.Allowed) > 0:
		return codes(s.Allowed)
	}
	return s.Wants
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

func codes(all []string) string {
	quoted := make([]string, len(all))
	for i, text := range all {
		quoted[i] = code(text)
	}
	return strings.Join(quoted, ", ")
}
