package settings

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Set declares settings as flags. Each method writes the default into *v at
// once, and later whatever the setting is given; usage is one line for people,
// to which the values that are taken are added.
type Set struct{ *pflag.FlagSet }

// value is a setting whose parse says what it wants.
type value struct {
	text  string
	want  string // "a duration from 1s to 1h"
	kind  string // for the help: "duration"
	parse func(string) error
}

func (v *value) String() string { return v.text }
func (v *value) Type() string   { return v.kind }

func (v *value) Set(s string) error {
	if err := v.parse(s); err != nil {
		return fmt.Errorf("got %q, want %s", s, v.want)
	}
	v.text = s
	return nil
}

func (s Set) add(name, usage, text, kind, want string, parse func(string) error) {
	s.Var(&value{text: text, want: want, kind: kind, parse: parse}, name, usage+" ("+want+")")
}

var errRange = fmt.Errorf("out of range")

// Duration declares a duration in Go's notation, for example 30s.
func (s Set) Duration(v *time.Duration, name string, def, low, high time.Duration, usage string) {
	*v = def
	s.add(name, usage, def.String(), "duration", fmt.Sprintf("a duration from %v to %v", low, high), func(text string) error {
		d, err := time.ParseDuration(text)
		if err == nil && (d < low || d > high) {
			err = errRange
		}
		if err != nil {
			return err
		}
		*v = d
		return nil
	})
}

// Int declares a whole number.
func (s Set) Int(v *int, name string, def, low, high int, usage string) {
	*v = def
	s.add(name, usage, strconv.Itoa(def), "number", fmt.Sprintf("a whole number from %d to %d", low, high), func(text string) error {
		n, err := strconv.Atoi(text)
		if err == nil && (n < low || n > high) {
			err = errRange
		}
		if err != nil {
			return err
		}
		*v = n
		return nil
	})
}

// Bytes declares a number of bytes, for example 65536, 64KiB or 1MiB.
func (s Set) Bytes(v *int, name string, def, low, high int, usage string) {
	*v = def
	want := fmt.Sprintf("bytes from %s to %s, such as 65536 or 64KiB", FormatBytes(low), FormatBytes(high))
	s.add(name, usage, FormatBytes(def), "size", want, func(text string) error {
		n, err := ParseBytes(text)
		if err == nil && (n < low || n > high) {
			err = errRange
		}
		if err != nil {
			return err
		}
		*v = n
		return nil
	})
}

// Bool declares a switch.
func (s Set) Bool(v *bool, name string, def bool, usage string) {
	*v = def
	s.add(name, usage, strconv.FormatBool(def), "bool", "true or false", func(text string) error {
		b, err := strconv.ParseBool(text)
		if err != nil {
			return err
		}
		*v = b
		return nil
	})
	s.Lookup(name).NoOptDefVal = "true"
}

// Text declares a text; allowed, if any, are the only ones taken.
func (s Set) Text(v *string, name, def, usage string, allowed ...string) {
	*v = def
	want := "text"
	if len(allowed) > 0 {
		want = "one of " + strings.Join(allowed, ", ")
	}
	s.add(name, usage, def, "text", want, func(text string) error {
		if len(allowed) > 0 && !slices.Contains(allowed, text) {
			return errRange
		}
		*v = text
		return nil
	})
}

// Address declares a host:port; optional ones may be empty.
func (s Set) Address(v *string, name, def string, optional bool, usage string) {
	*v = def
	want := "host:port"
	if optional {
		want += " or nothing"
	}
	s.add(name, usage, def, "address", want, func(text string) error {
		if text != "" || !optional {
			if err := checkAddress(text); err != nil {
				return err
			}
		}
		*v = text
		return nil
	})
}

// Addresses declares a list of host:port, with commas between.
func (s Set) Addresses(v *[]string, name string, def []string, usage string) {
	*v = def
	s.add(name, usage, strings.Join(def, ","), "addresses", "host:port,host:port…", func(text string) error {
		var list []string
		for part := range strings.SplitSeq(text, ",") {
			part = strings.TrimSpace(part)
			if err := checkAddress(part); err != nil {
				return err
			}
			list = append(list, part)
		}
		*v = list
		return nil
	})
}

// Secret declares a text that is not shown once it is set. Its default is: it
// stands in the program, and who is to set it wants to know what it is.
func (s Set) Secret(v *string, name, def, usage string) {
	*v = def
	s.Var(&secret{v}, name, usage+" (text; not shown)")
	s.Lookup(name).DefValue = def // for the help, which does not ask secret.String
}

type secret struct{ v *string }

func (s *secret) Set(text string) error { *s.v = text; return nil }
func (s *secret) Type() string          { return "secret" }

// String does not say what the secret is, but whether there is one.
func (s *secret) String() string {
	if s.v == nil || *s.v == "" {
		return ""
	}
	return "***"
}

func checkAddress(text string) error {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return errRange
	}
	return nil
}

var units = []struct {
	name  string
	bytes int
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// ParseBytes reads 65536, 64KiB, 1MiB or 2GiB, and the same in B.
func ParseBytes(text string) (int, error) {
	number, unit := text, 1
	for _, u := range units {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("bytes: %w", err)
	}
	if n < 0 || n > (1<<62)/int64(unit) {
		return 0, errRange
	}
	return int(n) * unit, nil
}

// FormatBytes writes what ParseBytes reads, in the largest unit that is exact.
func FormatBytes(n int) string {
	for _, u := range units {
		if n != 0 && n%u.bytes == 0 {
			if u.bytes == 1 {
				break
			}
			return strconv.Itoa(n/u.bytes) + u.name
		}
	}
	return strconv.Itoa(n)
}
