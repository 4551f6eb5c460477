package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// composed is what compose.yaml says, as far as it is looked at here.
type composed struct {
	Services map[string]struct {
		Image       string
		Command     []string
		Profiles    []string
		Environment map[string]string
		StopAfter   string `yaml:"stop_grace_period"`
		Healthcheck struct {
			Test    []string
			Disable bool
		}
	}
}

func composeFile(t *testing.T) (c composed) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(built.root, "compose.yaml"))
	if err == nil {
		err = yaml.Unmarshal(b, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Services) < 10 {
		t.Fatalf("compose.yaml has %d services", len(c.Services))
	}
	return c
}

// TestComposeHealth: each service that goes on has a health check that stands in the
// file, or in our own Dockerfile; what an image brings along is its maker's affair.
func TestComposeHealth(t *testing.T) {
	t.Parallel()
	dockerfile, err := os.ReadFile(filepath.Join(built.root, "deploy", "Dockerfile"))
	if err != nil || !strings.Contains(string(dockerfile), "\nHEALTHCHECK ") {
		t.Errorf("the image has no health check: %v", err)
	}
	for name, s := range composeFile(t).Services {
		ours := strings.HasPrefix(s.Image, "${MINIGATE_DEPLOY_IMAGE")
		if check := s.Healthcheck; len(check.Test) == 0 && !ours || check.Disable && name != "schema" {
			t.Errorf("service %s has no health check", name)
		}
	}
}

// TestComposeWaits: what ends gracefully is given the time for it that
// docs/operations.md says, and production is refused nothing that is not looked at.
func TestComposeWaits(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(built.root, "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	told := regexp.MustCompile("`stop_grace_period: (\\w+)` of Docker Compose").FindStringSubmatch(string(b))
	sums := regexp.MustCompile("(\\d+) s for a gate, (\\d+) s for a worker and (\\d+) s for `auth` while what they talk to answers, and (\\d+) s, (\\d+) s and (\\d+) s where").FindStringSubmatch(string(b))
	if told == nil || sums == nil {
		t.Fatal("docs/operations.md does not say how long to wait")
	}
	wait, err := time.ParseDuration(told[1])
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range tableOfEnds(t, string(b)) {
		if got := sums[i+1]; got != strconv.Itoa(want) {
			t.Errorf("docs/operations.md says %s s where its table has %d s", got, want)
		}
		if least := time.Duration(want) * time.Second; wait < least {
			t.Errorf("docs/operations.md waits %v for what takes %v", wait, least)
		}
	}
	compose := composeFile(t)
	for _, name := range []string{"gate", "auth", "chat", "email", "echo"} {
		if got := compose.Services[name].StopAfter; got != told[1] {
			t.Errorf("service %s is given %q, docs/operations.md says %s", name, got, told[1])
		}
	}
	for _, name := range []string{"gate", "auth", "chat", "email", "echo", "schema"} {
		if compose.Services[name].Environment["MINIGATE_PRODUCTION"] == "" {
			t.Errorf("service %s does not hear of MINIGATE_DEPLOY_PRODUCTION", name)
		}
	}
}

// tableOfEnds sums up the limits of the ends of a gate, a worker and auth in a page:
// while all answers, and then where nothing does.
func tableOfEnds(t *testing.T, page string) (sums [6]int) {
	t.Helper()
	of, rows := "", 0
	_, table, _ := strings.Cut(page, "| of | what is waited for |")
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 6 {
			if rows > 0 {
				break
			}
			continue
		}
		if c := strings.TrimSpace(cells[1]); c != "" {
			of = c
		}
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(cells[4]), " s"))
		if err != nil || strings.Contains(of, "handlers do not return") {
			continue // the line below the head, and what no handler here is
		}
		rows++
		away := strings.Contains(of, ", where ")
		both := strings.HasPrefix(of, "both")
		for i, is := range []bool{strings.HasPrefix(of, "a gate"), strings.HasPrefix(of, "a worker"), strings.HasPrefix(of, "a worker") || strings.HasPrefix(of, "`auth`")} {
			if is || both {
				sums[i+3] += n
				if !away {
					sums[i] += n
				}
			}
		}
	}
	if rows < 10 {
		t.Fatalf("the table of docs/operations.md has %d limits", rows)
	}
	return sums
}

// TestRolloutSaysItsOrder: the order in its help is the one that it takes.
func TestRolloutSaysItsOrder(t *testing.T) {
	t.Parallel()
	script := filepath.Join(built.root, "deploy", "rollout.sh")
	help, err := exec.CommandContext(t.Context(), script, "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, help)
	}
	b, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	said := regexp.MustCompile(`rollout\.sh +# ([\w, ]+)`).FindSubmatch(help)
	takes := regexp.MustCompile(`(?m)\|\| set -- ([\w ]+)$`).FindSubmatch(b)
	if said == nil || takes == nil || !slices.Equal(strings.Split(string(said[1]), ", "), strings.Fields(string(takes[1]))) {
		t.Errorf("the help says %q, the script takes %q", said, takes)
	}
}
