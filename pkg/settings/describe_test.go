package settings

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestWhatIsKnownOfASettingIsWhatItTakes(t *testing.T) {
	s := Set{FlagSet: pflag.NewFlagSet("test", pflag.ContinueOnError)}
	var (
		d    time.Duration
		n    int
		part float64
		text string
	)
	s.Group("Limits").Of("auth", "chat").Duration(&d, "life", 720*time.Hour, time.Second, 90*time.Minute, "how long")
	s.Bytes(&n, "size", 1<<20, 1, 8<<20, "how much")
	s.Share(&part, "part", 0.01, "of all")
	s.Text(&text, "form", "a", "how", "a", "b")
	s.SecretURL(&text, "url", "redis://:known@h:1", "where", anything)
	for _, want := range []Setting{
		{
			Name: "life", Group: "Limits", Of: []string{"auth", "chat"}, Usage: "how long", Kind: "duration", Default: "720h",
			Wants: "a duration from 1s to 1h30m", Low: "1s", High: "1h30m",
		},
		{Name: "size", Usage: "how much", Kind: "size", Default: "1MiB", Wants: "bytes from 1 to 8MiB, such as 65536 or 64KiB", Low: "1", High: "8MiB"},
		{Name: "part", Usage: "of all", Kind: "share", Default: "0.01", Wants: "a number from 0 to 1", Low: "0", High: "1"},
		{Name: "form", Usage: "how", Kind: "text", Default: "a", Wants: "one of a, b", Allowed: []string{"a", "b"}},
		{Name: "url", Usage: "where", Kind: "secret", Default: "redis://:known@h:1", Wants: "text; its password is not shown"},
	} {
		got, ok := Describe(s.Lookup(want.Name))
		if !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v, %v\nwant %+v", got, ok, want)
		}
		for _, end := range []string{got.Low, got.High} {
			if err := s.FlagSet.Set(want.Name, end); end != "" && err != nil {
				t.Errorf("%s does not take the end %s of its range: %v", want.Name, end, err)
			}
		}
	}
	plain := pflag.NewFlagSet("plain", pflag.ContinueOnError)
	plain.String("other", "", "of somebody else")
	if _, ok := Describe(plain.Lookup("other")); ok {
		t.Error("a flag that no Set has declared is known")
	}
}

func TestAMaskedURLShowsAllButItsSecrets(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "",
		"127.0.0.1:6379":                    "127.0.0.1:6379",
		"sqlite:/var/lib/minigate.db":       "sqlite:/var/lib/minigate.db",
		"amqp://guest:guest@[::1]:5672/":    "amqp://guest:***@[::1]:5672/",
		"amqp://a%2Fb:p%40w@h/%2Fv":         "amqp://a%2Fb:***@h/%2Fv",
		"redis://:pw@h:6379/2":              "redis://:***@h:6379/2",
		"mysql://root@h:3306/minigate":      "mysql://root@h:3306/minigate",
		"mysql://u:pw@h/n?tls=true&x=pw2":   "mysql://u:***@h/n?tls=true&x=***",
		"mysql://u:12/34@h/n":               hidden, // the password ends the host
		"mysql://u:12?34@h/n":               hidden,
		"mysql://u:12#34@h/n":               hidden,
		"mysql://u:pw/34@h/n":               hidden, // a port that is no number
		"user:password@tcp(127.0.0.1)/name": hidden,
	} {
		var v string
		s := Set{FlagSet: pflag.NewFlagSet("test", pflag.ContinueOnError)}
		s.SecretURL(&v, "url", "", "where", anything)
		if err := s.FlagSet.Set("url", text); err != nil {
			t.Fatal(err)
		}
		if got := s.Lookup("url").Value.String(); got != want || v != text {
			t.Errorf("%s is shown as %s, want %s (and used as %s)", text, got, want, v)
		}
	}
}

// Whatever signs a password has, and whether they are escaped or not, it is not
// in what is shown.
func FuzzMaskURL(f *testing.F) {
	for _, seed := range []string{"secret99", "12/3456", "12#3456", "12?3456", "a@b:c/d", "%zz9999", "[::1]:99", "9999&tls=x", "://://99"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, password string) {
		if len(password) < 5 {
			return
		}
		for _, written := range []string{password, url.QueryEscape(password), url.PathEscape(password)} {
			text := "amqp://me:" + written + "@host:5672/v?x=" + url.QueryEscape(password)
			shown := maskURL(text)
			if rest := strings.NewReplacer("amqp://", "", "me:", "", "@host:5672/v", "", "?x=", "", hidden, "").Replace(shown); rest != "" {
				t.Errorf("%s is shown as %s: %q is left", text, shown, rest)
			}
		}
	})
}
