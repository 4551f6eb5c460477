// Package settings gives a setting one name wherever it is set: the flag
// --request-timeout, the environment variable MINIGATE_REQUEST_TIMEOUT and the
// key request-timeout of a YAML file are the same, and win over each other in
// that order. A bad value says where it came from, what it is, and what is
// wanted.
//
// It refuses to know any setting: commands declare theirs with the methods of
// Set, which write into the configuration of whoever owns it.
package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// EnvPrefix begins the environment variables of settings.
const EnvPrefix = "MINIGATE_"

// Errors that Apply wraps.
var (
	// ErrValue: a value is not what its setting wants.
	ErrValue = errors.New("bad value")
	// ErrUnknown: a name that no setting has.
	ErrUnknown = errors.New("unknown setting")
	// ErrFile: the file can not be read, or is not YAML of names and values.
	ErrFile = errors.New("bad settings file")
)

// Source says where a setting's value came from.
type Source struct {
	Kind string `json:"kind"`           // "default", "flag", "environment" or "file"
	Name string `json:"name,omitempty"` // of the variable or file; empty for the others
}

func (s Source) String() string {
	if s.Name == "" {
		return s.Kind
	}
	return s.Kind + " " + s.Name
}

// Apply gives each flag that is not on the command line its value from the
// environment, or else from the file, which may be empty for none. environ is as
// os.Environ has it. known are the names of settings that other commands have:
// they may be set, too, and are not looked at. All that is wrong is in the error,
// a line each; the sources are there anyway.
func Apply(fs *pflag.FlagSet, file string, environ []string, known []string) (map[string]Source, error) {
	fromEnv, problems := fromEnvironment(environ, func(name string) bool { return fs.Lookup(name) != nil })
	fromFile, err := read(file)
	if err != nil {
		problems = append(problems, err)
	}

	sources := make(map[string]Source)
	fs.VisitAll(func(f *pflag.Flag) {
		known = append(known, f.Name)
		source, value, set := Source{Kind: "default"}, "", false
		if v, ok := fromFile[f.Name]; ok {
			source, value, set = Source{"file", file}, v, true
		}
		if v, ok := fromEnv[f.Name]; ok {
			source, value, set = Source{"environment", v.name}, v.value, true
		}
		if f.Changed {
			source, set = Source{Kind: "flag"}, false
		}
		sources[f.Name] = source
		if !set {
			return
		}
		if err := fs.Set(f.Name, value); err != nil {
			problems = append(problems, fmt.Errorf("%w: %s, from %v: %w", ErrValue, f.Name, source, Cause(err)))
			sources[f.Name] = Source{Kind: "default"} // which it still has
		} else if f.Annotations != nil {
			f.Annotations[keyGiven] = []string{source.Kind}
		}
		f.Changed = false // it was not on the command line
	})

	for name, v := range fromEnv {
		if !slices.Contains(known, name) && !serviceLink(v) {
			problems = append(problems, unknown(v.name, EnvName(nearest(name, known))))
		}
	}
	for name := range fromFile {
		if !slices.Contains(known, name) {
			problems = append(problems, fmt.Errorf("%s: %w", file, unknown(name, nearest(name, known))))
		}
	}
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return sources, errors.Join(problems...)
}

// Cause is what a value's own Set said, without what pflag puts around it.
func Cause(err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return invalid.Unwrap()
	}
	return err
}

func unknown(name, near string) error {
	if near == "" || near == EnvPrefix {
		return fmt.Errorf("%w: %s", ErrUnknown, name)
	}
	return fmt.Errorf("%w: %s; did you mean %s?", ErrUnknown, name, near)
}

// EnvName is the environment variable of a setting.
func EnvName(name string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

type variable struct{ name, value string }

// fileSuffix marks a variable that names a file which holds the value, as
// container secrets are.
const fileSuffix = "_FILE"

// foreign begins, behind EnvPrefix, variables that are no settings: those of the
// tests, of deploy/services.sh, of compose.yaml, of deploy/rollout.sh and of .ci.
var foreign = []string{"TEST_", "SERVICES_", "DEPLOY_", "ROLLOUT_", "CI_"}

// fromEnvironment returns the settings in an environment, by their names. Of those that
// are not its own it has no more than the names: a secret of theirs may not be readable
// here.
func fromEnvironment(environ []string, own func(setting string) bool) (map[string]variable, []error) {
	found := make(map[string]variable)
	var problems []error
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		rest, ok := strings.CutPrefix(name, EnvPrefix)
		if !ok || slices.ContainsFunc(foreign, func(f string) bool { return strings.HasPrefix(rest, f) }) {
			continue
		}
		base, inFile := strings.CutSuffix(rest, fileSuffix)
		if inFile = inFile && base != "LOG"; inFile {
			rest = base
		}
		setting := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		if !own(setting) {
			found[setting] = variable{name, value} // of a file its name
			continue
		}
		if inFile {
			b, err := os.ReadFile(value)
			if err != nil {
				problems = append(problems, fmt.Errorf("%w: %s: %w", ErrValue, name, err))
				continue
			}
			value = strings.TrimRight(string(b), "\r\n")
		}
		if other, twice := found[setting]; twice {
			problems = append(problems, fmt.Errorf("%w: both %s and %s are set", ErrValue, other.name, name))
		}
		found[setting] = variable{name, value}
	}
	return found, problems
}

// maxFile bounds a settings file, in bytes.
const maxFile = 1 << 20

// read returns the settings in a YAML file: "gate-tcp: …", or "gate: {tcp: …}",
// which is the same. A list is a value with commas.
func read(file string) (map[string]string, error) {
	if file == "" {
		return nil, nil
	}
	if strings.Contains(file, ": ") || strings.Contains(file, "\n") { // which may be secrets
		return nil, fmt.Errorf("%w: %s is to be a path, and there are settings in it; %s%s names a file with the path", ErrFile, configFlag, EnvName(configFlag), fileSuffix)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%w: %s: over %d bytes", ErrFile, file, maxFile)
	}
	found := make(map[string]string)
	if err := flatten(found, b); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFile, file, err)
	}
	return found, nil
}

// flatten reads nodes and not values, of which YAML would make numbers and
// dates: a password 0123 is not 83.
func flatten(found map[string]string, b []byte) error {
	documents := yaml.NewDecoder(bytes.NewReader(b))
	var document yaml.Node
	if err := documents.Decode(&document); errors.Is(err, io.EOF) {
		return nil // empty, or nothing but comments
	} else if err != nil {
		return err
	}
	if err := documents.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("more than one document")
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil
	}
	return flattenMap(found, "", root)
}

func flattenMap(found map[string]string, prefix string, m *yaml.Node) error {
	if m.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want names with values", m.Line)
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, value := m.Content[i], m.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			return fmt.Errorf("line %d: want a name", key.Line)
		}
		name := prefix + key.Value
		var text string
		switch value.Kind {
		case yaml.MappingNode:
			if err := flattenMap(found, name+"-", value); err != nil {
				return err
			}
			continue
		case yaml.SequenceNode:
			parts := make([]string, len(value.Content))
			for i, part := range value.Content {
				if part.Kind != yaml.ScalarNode {
					return fmt.Errorf("line %d: %s: want a list of values", part.Line, name)
				}
				parts[i] = part.Value
			}
			text = strings.Join(parts, ",")
		case yaml.ScalarNode:
			if value.Tag != "!!null" {
				text = value.Value
			}
		default:
			return fmt.Errorf("line %d: %s: want a value", value.Line, name)
		}
		if _, twice := found[name]; twice {
			return fmt.Errorf("line %d: %s is there twice", key.Line, name)
		}
		found[name] = text
	}
	return nil
}

// nearest is the known name that takes the fewest edits, if that is few.
func nearest(name string, known []string) string {
	best, fewest := "", len(name)/3+1
	for _, k := range known {
		if d := distance(name, k); d <= fewest {
			best, fewest = k, d-1
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
