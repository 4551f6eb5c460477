package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// program has two commands that share a setting, and a third without any.
func program() *cobra.Command {
	root := &cobra.Command{Use: "minigate", SilenceErrors: true, SilenceUsage: true}
	Prepare(root)
	add := func(to *cobra.Command, use string, declare func(Set), run func(*cobra.Command, []string) error) *cobra.Command {
		c := &cobra.Command{Use: use, Short: "does something", RunE: run}
		c.Flags().SortFlags = false
		if declare != nil {
			declare(Set{FlagSet: c.Flags()})
		}
		to.AddCommand(c)
		return c
	}
	var level, database, smtp string
	var number int
	shared := func(s Set) { s.Group("Log").Text(&level, "log-level", "info", "what is logged", "info", "debug") }
	none := func(*cobra.Command, []string) error { return nil }
	noSlash := func(url string) error {
		if !strings.Contains(url, "/") {
			return errors.New("not a URL")
		}
		return nil
	}
	add(root, "gate", func(s Set) {
		shared(s)
		s.Group("Gate").Int(&number, "loops", 0, 0, 256, "event loops; 0 is one a processor")
	}, none)
	worker := add(root, "worker NAME…", func(s Set) {
		s.Group("Stores").Of("auth", "chat").SecretURL(&database, "database", "mysql://root@h/n", "where | it is", noSlash)
		shared(s)
		s.Group("Mail").Of("email").Address(&smtp, "smtp", "", true, "mail server")
	}, none)
	worker.PreRunE = func(_ *cobra.Command, names []string) error {
		if level == "debug" {
			return errors.Join(errors.New("too loud"), errors.New("for "+strings.Join(names, " and ")))
		}
		return nil
	}
	db := add(root, "db", nil, none)
	add(db, "init", func(s Set) {
		s.Group("Stores").SecretURL(&database, "database", "mysql://root@h/n", "where | it is", noSlash)
	}, none)
	add(root, "version", nil, none)
	root.AddCommand(Command(program))
	return root
}

// said runs the program.
func said(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := program()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func wantLines(t *testing.T, got string, lines ...string) {
	t.Helper()
	for _, want := range lines {
		found := false
		for line := range strings.Lines(got) {
			found = found || strings.Join(strings.Fields(line), " ") == want
		}
		if !found {
			t.Errorf("there is no line %q in\n%s", want, got)
		}
	}
}

func TestConfigShowsWhatIsInForceAndWhereItCameFrom(t *testing.T) {
	file := write(t, "database: mysql://me:hidden@db:3306/n\nlog-level: debug\n")
	t.Setenv("MINIGATE_CONFIG", file)
	t.Setenv("MINIGATE_LOG_LEVEL", "info")
	got, err := said(t, "config", "worker", "auth", "email", "--smtp", "h:25")
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, got, "SETTING VALUE FROM", "database mysql://me:***@db:3306/n file "+file,
		"log-level info environment MINIGATE_LOG_LEVEL", "smtp h:25 flag", "config "+file+" environment MINIGATE_CONFIG")
	if strings.Contains(got, "hidden") || strings.Contains(got, "loops") {
		t.Errorf("it shows a secret, or what a worker has not:\n%s", got)
	}
	columns := strings.Split(got, "\n")
	for _, line := range columns[1:4] {
		if strings.Index(columns[0], "VALUE") > len(line) || line[strings.Index(columns[0], "VALUE")-1] != ' ' {
			t.Errorf("the columns are not aligned:\n%s", got)
		}
	}

	got, err = said(t, "config", "worker", "email")
	if err != nil || strings.Contains(got, "database") || !strings.Contains(got, "smtp") {
		t.Errorf("the e-mail worker has no database, and a mail server: %v\n%s", err, got)
	}
	got, err = said(t, "--config", "", "config", "--config", file, "worker")
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, got, "config "+file+" flag")
	got, err = said(t, "config", "db", "init")
	if err != nil || !strings.Contains(got, "mysql://me:***@db:3306/n") {
		t.Errorf("got %v\n%s", err, got)
	}
}

func TestConfigOfAllCommandsHasEachSettingOnce(t *testing.T) {
	t.Setenv("MINIGATE_LOG_LEVEL", "debug")
	t.Setenv("MINIGATE_LOOPS", "257")
	got, err := said(t, "config")
	wantLines(t, got, "SETTING VALUE FROM COMMANDS", "log-level debug environment MINIGATE_LOG_LEVEL gate, worker",
		"loops 0 default gate", "database mysql://root@h/n default worker, db init")
	if err == nil || strings.Count(err.Error(), "loops") != 1 || !strings.Contains(err.Error(), "too loud") {
		t.Errorf("got %v, want each problem once", err)
	}
}

func TestConfigListsAllProblems(t *testing.T) {
	t.Setenv("MINIGATE_LOGLEVEL", "info")
	t.Setenv("MINIGATE_DATABASE_FILE", "/nonexistent/secret")
	args := []string{"config", "worker", "chat", "--smtp", "nowhere", "--log-level=debug", "--config", write(t, "- a"), "--json"}
	got, err := said(t, args...)
	if err == nil {
		t.Fatal("no error")
	}
	var shown struct {
		Command  string
		Settings []struct{ Name, Value string }
		Problems []string
	}
	if err := json.Unmarshal([]byte(got), &shown); err != nil {
		t.Fatalf("%v:\n%s", err, got)
	}
	all := strings.Join(shown.Problems, "\n")
	for _, want := range []string{
		`--smtp: got "nowhere", want host:port`, "MINIGATE_LOGLEVEL; did you mean MINIGATE_LOG_LEVEL?", "MINIGATE_DATABASE_FILE",
		"bad settings file", "too loud", "for chat",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("the problems do not say %q:\n%s", want, all)
		}
	}
	if len(shown.Problems) != 6 || shown.Command != "worker" || len(shown.Settings) != 3 {
		t.Errorf("got %+v", shown)
	}
	if _, err = said(t, args[:len(args)-1]...); err == nil || !strings.Contains(err.Error(), "\n  too loud\n") {
		t.Errorf("got %v, want the problems in it", err)
	}
	for _, args := range [][]string{{"config", "nothing"}, {"config", "gate", "--what"}, {"config", "--what"}} {
		if _, err := said(t, args...); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
	t.Setenv("MINIGATE_LOGLEVEL", "")
	if got, err := said(t, "config", "gate", "--help"); err != nil || !strings.Contains(got, "minigate config [COMMAND…]") {
		t.Errorf("got %v\n%s", err, got)
	}
}

func TestHelpHasHeadingsAndOnlyWhatTheArgumentsHave(t *testing.T) {
	got, err := said(t, "worker", "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nStores:\n      --database secret", "\nLog:\n      --log-level text", "\nMail:\n      --smtp address", "\nFlags:\n  -h, --help", "\nGlobal Flags:\n      --config text"} {
		if !strings.Contains(got, want) {
			t.Errorf("the help has no %q:\n%s", want, got)
		}
	}
	got, err = said(t, "worker", "email", "--help")
	if err != nil || strings.Contains(got, "database") || !strings.Contains(got, "--smtp") || !strings.Contains(got, "--log-level") {
		t.Errorf("the help of the e-mail worker: %v\n%s", err, got)
	}
}

func TestTheDocumentHasEachSettingOnceAndOnlyWhatTheCodeSays(t *testing.T) {
	t.Setenv("MINIGATE_LOOPS", "7")
	t.Setenv("MINIGATE_CONFIG", "/nonexistent")
	got, err := said(t, "config", "--markdown")
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, got,
		"| `--database` | `MINIGATE_DATABASE` | `database` | `mysql://root@h/n` | text; its password is not shown | where \\| it is | `worker auth`, `worker chat`, `db init` |",
		"| `--loops` | `MINIGATE_LOOPS` | `loops` | `0` | 0 to 256 | event loops; 0 is one a processor | `gate` |",
		"| `--log-level` | `MINIGATE_LOG_LEVEL` | `log-level` | `info` | `info`, `debug` | what is logged | `gate`, `worker` |",
		"## Mail", "## Stores")
	if n := strings.Count(got, "\n| `--"); n != 4 || !strings.HasPrefix(got, "<!-- Generated") {
		t.Errorf("%d settings, want 4:\n%s", n, got)
	}
}

// The settings file, too, can be named in a file of its own, and by a flag also where the
// environment names another one, or none is wanted.
func TestTheSettingsFileIsNamedAsAnySettingIs(t *testing.T) {
	file, other := write(t, "log-level: debug\n"), write(t, "loops: 7\n")
	t.Setenv("MINIGATE_CONFIG_FILE", write(t, file+"\n"))
	got, err := said(t, "config", "gate")
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, got, "log-level debug file "+file, "config "+file+" environment MINIGATE_CONFIG_FILE")
	if got, err = said(t, "config", "gate", "--config", other); err != nil {
		t.Fatal(err)
	}
	wantLines(t, got, "log-level info default", "loops 7 file "+other)
	if got, err = said(t, "config", "gate", "--config", ""); err != nil {
		t.Fatal(err)
	}
	wantLines(t, got, "log-level info default", "loops 0 default")
	t.Setenv("MINIGATE_CONFIG_FILE", file) // whose settings nobody is to leave out in silence
	if got, err = said(t, "config", "gate"); err == nil || !strings.Contains(err.Error(), "bad settings file") || strings.Contains(err.Error(), "debug") {
		t.Errorf("got %v\n%s", err, got)
	}
}
