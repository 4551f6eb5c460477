package settings

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Set declares settings as flags. Each method writes the default into *v at
// once, and later whatever the setting is given; usage is one line for people,
// to which the values that are taken are added. What Describe tells of a setting
// is kept with its flag, so that it is said once.
type Set struct {
	*pflag.FlagSet
	group string
	of    []string
}

// Group returns a Set that declares its settings under a heading.
func (s Set) Group(heading string) Set {
	s.group = heading
	return s
}

// Of returns a Set whose settings only some of a command's arguments have, such
// as one of the workers that a command can run.
func (s Set) Of(arguments ...string) Set {
	s.of = arguments
	return s
}

const kindBool = "bool"

// form is what a setting takes.
type form struct {
	kind      string // for the help: "duration"
	want      string // "a duration from 1s to 1h"
	low, high string // both empty where there is no range
	allowed   []string
}

func ranged(kind, want, low, high string) form {
	return form{kind: kind, want: fmt.Sprintf(want, low, high), low: low, high: high}
}

// value is a setting whose parse says what it wants.
type value struct {
	text  string
	form  form
	parse func(string) error
}

func (v *value) String() string { return v.text }
func (v *value) Type() string   { return v.form.kind }

func (v *value) Set(s string) error {
	if err := v.parse(s); err != nil {
		return fmt.Errorf("got %q, want %s", s, v.form.want)
	}
	v.text = s
	if b, err := strconv.ParseBool(s); v.form.kind == kindBool && err == nil {
		v.text = strconv.FormatBool(b) // of the many ways to write it
	}
	return nil
}

func (s Set) add(name, usage, text string, f form, parse func(string) error) {
	s.declare(&value{text: text, form: f, parse: parse}, name, usage, f)
}

// Var declares a setting of any type. What it takes is to stand in usage.
func (s Set) Var(v pflag.Value, name, usage string) { s.declare(v, name, usage, form{}) }

var errRange = fmt.Errorf("out of range")

// Duration declares a duration in Go's notation, for example 30s.
func (s Set) Duration(v *time.Duration, name string, def, low, high time.Duration, usage string) {
	*v = def
	f := ranged("duration", "a duration from %s to %s", formatDuration(low), formatDuration(high))
	s.add(name, usage, formatDuration(def), f, func(text string) error {
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

// formatDuration leaves out what is zero: 1h, and not 1h0m0s.
func formatDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Int declares a whole number.
func (s Set) Int(v *int, name string, def, low, high int, usage string) {
	*v = def
	f := ranged("number", "a whole number from %s to %s", strconv.Itoa(low), strconv.Itoa(high))
	s.add(name, usage, strconv.Itoa(def), f, func(text string) error {
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

// Share declares a part of a whole, from 0 to 1.
func (s Set) Share(v *float64, name string, def float64, usage string) {
	*v = def
	f := ranged("share", "a number from %s to %s", "0", "1")
	s.add(name, usage, strconv.FormatFloat(def, 'g', -1, 64), f, func(text string) error {
		share, err := strconv.ParseFloat(text, 64)
		if err == nil && !(share >= 0 && share <= 1) { // NaN is neither
			err = errRange
		}
		if err != nil {
			return err
		}
		*v = share
		return nil
	})
}

// Bytes declares a number of bytes, for example 65536, 64KiB or 1MiB.
func (s Set) Bytes(v *int, name string, def, low, high int, usage string) {
	*v = def
	f := ranged("size", "bytes from %s to %s, such as 65536 or 64KiB", FormatBytes(low), FormatBytes(high))
	s.add(name, usage, FormatBytes(def), f, func(text string) error {
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
	s.add(name, usage, strconv.FormatBool(def), form{kind: kindBool, want: "true or false"}, func(text string) error {
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
	f := form{kind: "text", want: "text", allowed: allowed}
	if len(allowed) > 0 {
		f.want = "one of " + strings.Join(allowed, ", ")
	}
	s.add(name, usage, def, f, func(text string) error {
		if len(allowed) > 0 && !slices.Contains(allowed, text) {
			return errRange
		}
		*v = text
		return nil
	})
}

// Checked declares a text that check takes. kind is for the help, and want says
// what is taken.
func (s Set) Checked(v *string, name, def, kind, want, usage string, check func(string) error) {
	*v = def
	s.add(name, usage, def, form{kind: kind, want: want}, func(text string) error {
		if err := check(text); err != nil {
			return err
		}
		*v = text
		return nil
	})
}

// Address declares a host:port; optional ones may be empty.
func (s Set) Address(v *string, name, def string, optional bool, usage string) {
	*v = def
	f := form{kind: "address", want: "host:port"}
	if optional {
		f.want += " or nothing"
	}
	s.add(name, usage, def, f, func(text string) error {
		if text != "" || !optional {
			if err := checkAddress(text); err != nil {
				return err
			}
		}
		*v = text
		return nil
	})
}

// Loopback reports whether who listens at host:port, or is called there, is reached
// from this machine only.
func Loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Addresses declares a list of host:port, with commas between.
func (s Set) Addresses(v *[]string, name string, def []string, usage string) {
	*v = def
	s.add(name, usage, strings.Join(def, ","), form{kind: "addresses", want: "host:port,host:port…"}, func(text string) error {
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
	s.secret(v, name, def, usage, "text; not shown", func(string) string { return hidden }, anything)
}

// SecretURL declares a Secret that is a URL, or a plain host:port. What is not
// secret in it is shown: user, host and path. check says what is wrong with one, and
// does not repeat its password.
func (s Set) SecretURL(v *string, name, def, usage string, check func(string) error) {
	s.secret(v, name, def, usage, "text; its password is not shown", maskURL, check)
}

func anything(string) error { return nil }

func (s Set) secret(v *string, name, def, usage, want string, mask func(string) string, check func(string) error) {
	*v = def
	s.declare(&secret{v, mask, check}, name, usage, form{want: want})
	s.Lookup(name).DefValue = def // for the help, which does not ask secret.String
}

// secret is a setting whose String does not tell it.
type secret struct {
	v     *string
	mask  func(string) string
	check func(string) error
}

func (s *secret) Set(text string) error {
	if err := s.check(text); err != nil {
		return err
	}
	*s.v = text
	return nil
}

func (s *secret) Type() string { return "secret" }

func (s *secret) String() string {
	if s.v == nil || *s.v == "" {
		return ""
	}
	return s.mask(*s.v)
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
