package settings

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

type values struct {
	heartbeat time.Duration
	inFlight  int
	message   int
	tcp, data string
	auth      []string
	verbose   bool
	part      float64
	password  string
}

func declare() (*values, Set) {
	v, s := new(values), Set{FlagSet: pflag.NewFlagSet("test", pflag.ContinueOnError)}
	s.Duration(&v.heartbeat, "heartbeat", 30*time.Second, time.Second, time.Hour, "how often")
	s.Int(&v.inFlight, "in-flight", 64, 1, 1000, "requests")
	s.Bytes(&v.message, "max-message", 1<<20, 1, 8<<20, "of one message")
	s.Address(&v.tcp, "gate-tcp", "127.0.0.1:7001", true, "where to listen")
	s.Addresses(&v.auth, "auth-address", []string{"127.0.0.1:7102"}, "the auth service")
	s.Text(&v.data, "log-format", "text", "form of the log", "text", "json")
	s.Share(&v.part, "part", 0.01, "of all")
	s.Bool(&v.verbose, "verbose", false, "more")
	s.Secret(&v.password, "password", "from-the-manual", "of the database")
	return v, s
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "minigate.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAFlagWinsOverTheEnvironmentAndThatOverTheFile(t *testing.T) {
	v, s := declare()
	if err := s.Parse([]string{"--in-flight", "10", "--verbose"}); err != nil {
		t.Fatal(err)
	}
	file := write(t, "in-flight: 1\nheartbeat: 5s\ngate: {tcp: \"0.0.0.0:1\"}\nauth-address: [\"a:1\", \"b:2\"]\nmax-message: 64KiB\n")
	secret := write(t, "s3cret\n")
	sources, err := Apply(s.FlagSet, file, []string{
		"MINIGATE_IN_FLIGHT=2", "MINIGATE_HEARTBEAT=7s", "MINIGATE_PASSWORD_FILE=" + secret, "MINIGATE_PART=.5", "MINIGATE_TEST_REDIS=x", "MINIGATE_DEPLOY_TCP=1", "HOME=/",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.part != 0.5 || v.inFlight != 10 || v.heartbeat != 7*time.Second || v.tcp != "0.0.0.0:1" || len(v.auth) != 2 ||
		v.auth[1] != "b:2" || v.message != 65536 || !v.verbose || v.password != "s3cret" || v.data != "text" {
		t.Errorf("got %+v", v)
	}
	for name, want := range map[string]string{
		"in-flight": "flag", "heartbeat": "environment MINIGATE_HEARTBEAT", "gate-tcp": "file " + file, "log-format": "default",
		"password": "environment MINIGATE_PASSWORD_FILE",
	} {
		if got := sources[name].String(); got != want {
			t.Errorf("%s came from %q, want %q", name, got, want)
		}
	}
}

func TestABadValueNamesItselfWhatItGotAndWhatItWants(t *testing.T) {
	for _, c := range []struct {
		env, file string
		is        error
		says      []string
	}{
		{env: "MINIGATE_HEARTBEAT=abc", is: ErrValue, says: []string{"heartbeat", "MINIGATE_HEARTBEAT", `"abc"`, "a duration from 1s to 1h"}},
		{env: "MINIGATE_HEARTBEAT=2h", is: ErrValue, says: []string{`"2h"`}},
		{env: "MINIGATE_IN_FLIGHT=0", is: ErrValue, says: []string{`"0"`, "from 1 to 1000"}},
		{env: "MINIGATE_MAX_MESSAGE=9MiB", is: ErrValue, says: []string{`"9MiB"`, "8MiB"}},
		{env: "MINIGATE_PART=1.1", is: ErrValue, says: []string{`"1.1"`, "a number from 0 to 1"}},
		{env: "MINIGATE_PART=-0.1", is: ErrValue},
		{env: "MINIGATE_PART=NaN", is: ErrValue},
		{env: "MINIGATE_PART=1%", is: ErrValue},
		{env: "MINIGATE_GATE_TCP=nowhere", is: ErrValue, says: []string{`"nowhere"`, "host:port"}},
		{env: "MINIGATE_AUTH_ADDRESS=a:1,b", is: ErrValue, says: []string{`"a:1,b"`}},
		{env: "MINIGATE_LOG_FORMAT=xml", is: ErrValue, says: []string{`"xml"`, "one of text, json"}},
		{env: "MINIGATE_HEARTBAET=5s", is: ErrUnknown, says: []string{"MINIGATE_HEARTBAET", "MINIGATE_HEARTBEAT"}},
		{env: "MINIGATE_PASSWORD_FILE=/nonexistent/secret", is: ErrValue, says: []string{"MINIGATE_PASSWORD_FILE"}},
		{file: "in-fligth: 1", is: ErrUnknown, says: []string{"in-fligth", "did you mean in-flight"}},
		{file: "heartbeat: soon", is: ErrValue, says: []string{"heartbeat", "file", `"soon"`}},
		{file: "- a\n- b", is: ErrFile},
		{file: "gate: {tcp: \"a:1\"}\ngate-tcp: \"b:1\"", is: ErrFile, says: []string{"gate-tcp is there twice"}},
	} {
		_, s := declare()
		file := ""
		if c.file != "" {
			file = write(t, c.file)
		}
		_, err := Apply(s.FlagSet, file, []string{c.env}, nil)
		if !errors.Is(err, c.is) {
			t.Errorf("%s%s: got %v, want %v", c.env, c.file, err, c.is)
			continue
		}
		for _, part := range c.says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s%s: %q does not say %q", c.env, c.file, err, part)
			}
		}
	}
}

func TestSettingsOfOtherCommandsAreKnown(t *testing.T) {
	_, s := declare()
	if _, err := Apply(s.FlagSet, "", []string{"MINIGATE_SMTP=a:1"}, []string{"smtp"}); err != nil {
		t.Error(err)
	}
	// A secret of another container is not mounted here.
	if _, err := Apply(s.FlagSet, "", []string{"MINIGATE_SMTP_FILE=/nowhere", "MINIGATE_SMTP=a:1"}, []string{"smtp"}); err != nil {
		t.Error(err)
	}
	if _, err := Apply(s.FlagSet, "", []string{"MINIGATE_SMPT_FILE=/nowhere"}, []string{"smtp"}); !errors.Is(err, ErrUnknown) {
		t.Errorf("a name that nobody has: %v", err)
	}
}

func TestTheHelpSaysUnitsAndDefaultsButNoSecret(t *testing.T) {
	_, s := declare()
	if err := s.Set("password", "hidden"); err != nil {
		t.Fatal(err)
	}
	help := s.FlagUsages()
	for _, part := range []string{"(default 30s)", "(default from-the-manual)", "a duration from 1s to 1h", "(default 1MiB)", "--gate-tcp address"} {
		if !strings.Contains(help, part) {
			t.Errorf("the help does not say %q:\n%s", part, help)
		}
	}
	if strings.Contains(help, "hidden") {
		t.Errorf("the help shows a secret:\n%s", help)
	}
}

func FuzzParseBytes(f *testing.F) {
	for _, seed := range []string{"0", "65536", "64KiB", "1 MiB", "2GiB", "-1", "9223372036854775807GiB"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseBytes(text)
		if err != nil {
			return
		}
		if n < 0 {
			t.Fatalf("%q is %d", text, n)
		}
		if again, err := ParseBytes(FormatBytes(n)); err != nil || again != n {
			t.Fatalf("%d is written %q and read %d, %v", n, FormatBytes(n), again, err)
		}
	})
}

// YAML would make a number of some texts, and another text of the number.
func TestAFilesValuesAreTakenAsTheyAreWritten(t *testing.T) {
	for _, text := range []string{"0123", "1_000", "12345678901234567890123", "1e6", "2026-01-01", "0x1F", "1.10", "yes", "\"null\"", "'a: b'"} {
		v, s := declare()
		if _, err := Apply(s.FlagSet, write(t, "password: "+text+"\n"), nil, nil); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if want := strings.Trim(text, `"'`); v.password != want {
			t.Errorf("%s became %q", text, v.password)
		}
	}
}

func TestAFileWithAnythingButNamesAndValuesIsRefused(t *testing.T) {
	for _, text := range []string{
		"heartbeat: &a 5s\nlog-format: *a", "gate: &g {tcp: \"a:1\"}\nother: *g", "1: {2: 3}\n[a, b]: c",
		"auth-address: [[\"a:1\"]]", "heartbeat: 5s\nheartbeat: 6s", "heartbeat: 5s\n---\nheartbeat: 6s",
	} {
		_, s := declare()
		if _, err := Apply(s.FlagSet, write(t, text), nil, nil); !errors.Is(err, ErrFile) {
			t.Errorf("%q: got %v, want ErrFile", text, err)
		}
	}
}

func TestLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "localhost:1": true,
		":1": false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "localhost.example.org:1": false, "127.0.0.1": false, "": false,
	} {
		if got := Loopback(address); got != want {
			t.Errorf("%q: got %v", address, got)
		}
	}
}
