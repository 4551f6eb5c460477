package settings

import (
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Setting is what is known of a setting, whatever it is set to.
type Setting struct {
	Name    string   `json:"name"`
	Group   string   `json:"group,omitempty"`   // its heading
	Of      []string `json:"of,omitempty"`      // the arguments of the command that alone have it; nil is all
	Usage   string   `json:"usage"`             // what it is for
	Kind    string   `json:"kind"`              // "duration", "number", "size", "bool", "text", "address", "addresses", "secret" or of a type of its own
	Default string   `json:"default,omitempty"` // as it is written
	Wants   string   `json:"wants,omitempty"`   // in words; empty where Usage says it
	Low     string   `json:"low,omitempty"`     // the least that is taken; empty where there is no range
	High    string   `json:"high,omitempty"`    // the most
	Allowed []string `json:"allowed,omitempty"` // nil is any
}

// The keys under which a flag keeps what pflag has no place for.
const (
	keyUsage   = "minigate usage"
	keyGroup   = "minigate group"
	keyOf      = "minigate of"
	keyWants   = "minigate wants"
	keyRange   = "minigate range"
	keyAllowed = "minigate allowed"
	keyGiven   = "minigate given"
)

// declare makes a flag that Describe knows.
func (s Set) declare(v pflag.Value, name, usage string, f form) {
	text := usage
	if f.want != "" {
		text += " (" + f.want + ")"
	}
	s.FlagSet.Var(v, name, text)
	kept := map[string][]string{keyUsage: {usage}, keyGroup: {s.group}, keyOf: s.of, keyWants: {f.want}, keyAllowed: f.allowed}
	if f.low != "" {
		kept[keyRange] = []string{f.low, f.high}
	}
	s.Lookup(name).Annotations = kept
}

// Given reports whether somebody has set a setting, on the command line, in the
// environment or in the file, if only to its default.
func (s Set) Given(name string) bool {
	f := s.Lookup(name)
	return f != nil && (f.Changed || len(f.Annotations[keyGiven]) > 0)
}

// Describe tells what is known of a flag; false where no Set has declared it.
func Describe(f *pflag.Flag) (Setting, bool) {
	usage, ok := f.Annotations[keyUsage]
	if !ok || len(usage) != 1 {
		return Setting{}, false
	}
	first := func(key string) string {
		if v := f.Annotations[key]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	s := Setting{
		Name: f.Name, Usage: usage[0], Group: first(keyGroup), Of: f.Annotations[keyOf], Kind: f.Value.Type(),
		Default: f.DefValue, Wants: first(keyWants), Allowed: f.Annotations[keyAllowed],
	}
	if r := f.Annotations[keyRange]; len(r) == 2 {
		s.Low, s.High = r[0], r[1]
	}
	return s, true
}

// has reports whether a command that is called with arguments has the setting.
func (s Setting) has(arguments []string) bool {
	return len(s.Of) == 0 || len(arguments) == 0 || slices.ContainsFunc(s.Of, func(of string) bool { return slices.Contains(arguments, of) })
}

// hidden stands for what is not shown.
const hidden = "***"

// maskURL hides the password in a URL, and all of what it can not be sure about:
// a password with a sign that ends a host or a path is in none of a URL's parts
// where one would look for it.
func maskURL(text string) string {
	if !strings.Contains(text, "://") {
		if strings.Contains(text, "@") {
			return hidden
		}
		return text
	}
	u, err := url.Parse(text)
	if err != nil {
		return hidden
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	if strings.Contains(shown.String(), "@") || u.Opaque != "" || u.Fragment != "" || strings.Contains(u.RawQuery, "@") {
		return hidden
	}
	rest, user := strings.TrimPrefix(shown.String(), u.Scheme+"://"), ""
	if u.User != nil {
		user = url.User(u.User.Username()).String()
		if _, ok := u.User.Password(); ok {
			user += ":" + hidden
		}
		user += "@"
	}
	if u.RawQuery != "" {
		rest += "?" + maskQuery(u.RawQuery)
	}
	return u.Scheme + "://" + user + rest
}

// maskQuery hides the values of parameters, except where their names say that
// they are no secret.
func maskQuery(query string) string {
	parameters := strings.Split(query, "&")
	for i, p := range parameters {
		name, value, ok := strings.Cut(p, "=")
		open := slices.Contains([]string{"tls", "timeout", "readTimeout", "writeTimeout", "heartbeat", "charset", "collation", "parseTime", "loc", "db", "protocol"}, name)
		if ok && value != "" && !open {
			parameters[i] = name + "=" + hidden
		}
	}
	return strings.Join(parameters, "&")
}
