package e2e_test

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// commands are all that minigate has.
var commands = [][]string{{"dev"}, {"gate"}, {"worker"}, {"call"}, {"chat"}, {"db", "init"}, {"dead", "list"}, {"dead", "requeue"}, {"tail"}, {"replay"}, {"config"}, {"version"}}

// TestHelp: each command says what it is for, and each setting what it is, what
// it takes and what it is unless set.
func TestHelp(t *testing.T) {
	t.Parallel()
	root := command(t, nil, 0, "--help")
	for _, c := range commands {
		if !regexp.MustCompile(`(?m)^  ` + c[0] + ` +\w+`).MatchString(root) {
			t.Errorf("minigate --help does not say what %s is for:\n%s", c[0], root)
		}
	}
	setting := regexp.MustCompile(`(?m)^ +(?:-\w, )?--([\w-]+)\S* ?(\w*) {2,}(.*)$`)
	// What a setting takes stands in its help, in parentheses.
	takes := regexp.MustCompile(`\((?:a duration from \S+ to \S+|a whole number from -?\d+ to \d+|a number from \d+ to \d+|bytes from \S+ to \S+, such as .*|one of .*|addresses and prefixes .*|scheme://host:port .*|host:port.*|text.*|true or false)\)`)
	for _, c := range commands {
		help := command(t, nil, 0, append(c, "--help")...)
		flags, _, _ := strings.Cut(help, "Global Flags:")
		found := setting.FindAllStringSubmatch(flags, -1)
		if len(found) < 2 && c[0] != "version" {
			t.Errorf("minigate %v --help lists no settings:\n%s", c, help)
		}
		for _, s := range found {
			name, kind, text := s[1], s[2], s[3]
			if name == "help" {
				continue
			}
			if kind == "" && !strings.Contains(text, "(true or false)") || !takes.MatchString(text) {
				t.Errorf("minigate %v --help does not say what --%s takes: %s", c, name, s[0])
			}
			switch kind {
			case "duration", "number", "size", "share":
				if !regexp.MustCompile(`\(default \S+\)$|0 is |from 0 `).MatchString(text) {
					t.Errorf("minigate %v --help does not say what --%s is unless set: %s", c, name, s[0])
				}
			}
			if name == "rabbitmq" || name == "redis" || name == "database" {
				if !regexp.MustCompile(`\(default \S*127\.0\.0\.1:\d+\S*\)$`).MatchString(text) {
					t.Errorf("minigate %v --help does not say where it looks for --%s: %s", c, name, s[0])
				}
			}
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	got := command(t, nil, 0, "version")
	if !regexp.MustCompile(`^minigate \S+ ` + regexp.QuoteMeta(runtime.Version()) + ` ` + runtime.GOOS + `/` + runtime.GOARCH + `\n$`).MatchString(got) {
		t.Errorf("minigate version prints %q", got)
	}
}

// TestBadValues: what is wrong with the settings is said at once: which, where
// it was set, what was got, what is wanted.
func TestBadValues(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, strings.Map(func(r rune) rune {
			if 'a' <= r && r <= 'z' {
				return r
			}
			return '_'
		}, text)+".yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, test := range map[string]struct {
		env  []string
		args []string
		want []string
	}{
		"flag": {
			args: []string{"gate", "--heartbeat", "fast"},
			want: []string{"--heartbeat", `"fast"`, "a duration from 1s to 1h"},
		},
		"environment": {
			env: []string{"MINIGATE_MAX_IN_FLIGHT=0"}, args: []string{"gate"},
			want: []string{"max-in-flight", "MINIGATE_MAX_IN_FLIGHT", `"0"`, "a whole number from 1 to 65536"},
		},
		"file": {
			args: []string{"gate", "--config", file("max: {message: huge}")},
			want: []string{"max-message", file("max: {message: huge}"), `"huge"`, "bytes from 1KiB to 8MiB"},
		},
		"file from the environment": {
			env: []string{"MINIGATE_CONFIG=" + file("gate-tcp: 7001")}, args: []string{"dev"},
			want: []string{"gate-tcp", `"7001"`, "host:port"},
		},
		"no such file": {
			args: []string{"gate", "--config", filepath.Join(dir, "absent.yaml")},
			want: []string{"absent.yaml", "no such file"},
		},
		"one of some": {
			args: []string{"worker", "echo", "--log-level", "loud"},
			want: []string{"--log-level", `"loud"`, "one of error, warn, info, debug"},
		},
		"unknown in the environment": {
			env: []string{"MINIGATE_GATE_TPC=127.0.0.1:1"}, args: []string{"gate"},
			want: []string{"MINIGATE_GATE_TPC", "did you mean MINIGATE_GATE_TCP"},
		},
		"unknown in the file": {
			args: []string{"gate", "--config", file("heartbeet: 3s")},
			want: []string{"heartbeet", "did you mean heartbeat"},
		},
		"unknown flag":    {args: []string{"gate", "--heartbeet", "3s"}, want: []string{"--heartbeet"}},
		"unknown command": {args: []string{"gaet"}, want: []string{"gaet", "gate"}},
		"unknown worker":  {args: []string{"worker", "caht"}, want: []string{"worker", `"caht"`, "auth, chat, echo, email"}},
		"no worker":       {args: []string{"worker"}, want: []string{"want the name of one or more of auth, chat, echo, email"}},
		"broker": {
			args: []string{"gate", "--rabbitmq", "http://user:hidden@127.0.0.1"},
			want: []string{"rabbit", "amqp"},
		},
		"database": {
			args: []string{"worker", "chat", "--database", "mysql://root:hidden@127.0.0.1"},
			want: []string{"names no database"},
		},
		"Redis": {
			args: []string{"gate", "--redis", "http://user:hidden@127.0.0.1"},
			want: []string{"redis", "invalid URL scheme", "want HOST:PORT"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said := command(t, test.env, 1, test.args...)
			for _, want := range test.want {
				if !strings.Contains(said, want) {
					t.Errorf("minigate %s, with %v, does not say %s:\n%s", strings.Join(test.args, " "), test.env, want, said)
				}
			}
			if strings.Contains(said, "hidden") {
				t.Errorf("minigate %s shows the password:\n%s", strings.Join(test.args, " "), said)
			}
			if strings.Contains(said, "goroutine") {
				t.Errorf("minigate %s shows a stack:\n%s", strings.Join(test.args, " "), said)
			}
		})
	}
}
