package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// dockerStandIn is as much of docker as deploy/rollout.sh asks for. Its containers are
// files; each that is called …-bad ends with exit code 3.
const dockerStandIn = `#!/usr/bin/env bash
set -euo pipefail
cd "$STAND_IN"
id=${!#}
case "$*" in
'compose config --services') printf 'chat\necho\n' ;;
'compose ps --quiet --no-trunc '*) for f in "$id"-*; do echo "$f"; done ;;
'compose --progress quiet up '*) mktemp "$id-new-XXXXXX" >/dev/null ;;
'inspect --format {{.Created}} '*) for id in "${@:4}"; do echo "$(stat -c %.9Y "$id") $id"; done ;;
*State.Health*) echo healthy ;;
*'slice .Name'*) echo "$id" ;;
*ExitCode*) [[ $id == *-bad ]] && echo 3 || echo 0 ;;
'stop '* | 'logs '*) ;;
'rm '*) rm "$id" ;;
*)
	echo "what is $*?" >&2
	exit 9
	;;
esac
`

// TestRolloutSaysWhoDidNotFinish: whoever rolls out, by hand or by a script, learns
// that an old container was cut off; what was to be rolled out is, all the same.
func TestRolloutSaysWhoDidNotFinish(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		old      []string
		finished bool
	}{
		{"all finish", []string{"chat-1", "echo-1", "echo-2"}, true},
		{"one does not", []string{"chat-1-bad", "chat-2", "echo-1"}, false},
		{"the last does not", []string{"chat-1", "echo-1-bad"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bin, containers := t.TempDir(), t.TempDir()
			if err := os.WriteFile(filepath.Join(bin, "docker"), []byte(dockerStandIn), 0o700); err != nil {
				t.Fatal(err)
			}
			for _, name := range c.old {
				if err := os.WriteFile(filepath.Join(containers, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), filepath.Join(built.root, "deploy", "rollout.sh"), "chat", "echo")
			cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "STAND_IN="+containers)
			out, err := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); (code == 0) != c.finished || code > 1 {
				t.Errorf("exit code %d, %v: %s", code, err, out)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			for _, name := range c.old {
				if bad := strings.HasSuffix(name, "-bad"); bad != strings.Contains(lines[len(lines)-1], name+" (3)") {
					t.Errorf("the last line is %q", lines[len(lines)-1])
				}
			}
			left, err := filepath.Glob(filepath.Join(containers, "*"))
			if err != nil {
				t.Fatal(err)
			}
			if len(left) != len(c.old) || slices.ContainsFunc(left, func(name string) bool { return !strings.Contains(name, "-new-") }) {
				t.Errorf("there are %q in the end, of %q; it said %s", left, c.old, out)
			}
		})
	}
}
