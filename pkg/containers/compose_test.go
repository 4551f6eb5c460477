//go:build containers

package containers

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Ports of the test's project on this machine: none of those that compose.yaml
// has unless told, so that it can run beside.
const (
	websocketPort = 27080
	tcpPort       = 27001
	rabbitPort    = 27672
	mailPort      = 27025
)

// settle is how long anything may take that waits for containers.
const settle = 3 * time.Minute

// project is a Docker Compose project of the test's own.
type project struct {
	t    *testing.T
	root string // of the repository
	env  []string
}

// newProject has no containers and no data yet, and leaves none.
func newProject(t *testing.T, image string) *project {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	p := &project{t: t, root: root}
	p.env = append(os.Environ(),
		"COMPOSE_PROJECT_NAME=minigate-test",
		"COMPOSE_FILE="+strings.Join([]string{"compose.yaml", "pkg/containers/testdata/compose.test.yaml"}, string(os.PathListSeparator)),
		"COMPOSE_PATH_SEPARATOR="+string(os.PathListSeparator),
		fmt.Sprintf("MINIGATE_DEPLOY_WEBSOCKET=%d", websocketPort), fmt.Sprintf("MINIGATE_DEPLOY_TCP=%d", tcpPort),
		fmt.Sprintf("MINIGATE_DEPLOY_RABBITMQ_PAGE=%d", rabbitPort), fmt.Sprintf("MINIGATE_DEPLOY_MAIL_PAGE=%d", mailPort),
	)
	p.image(image)
	p.down("--volumes", "--remove-orphans", "--timeout", "1")
	t.Cleanup(func() {
		if t.Failed() {
			p.keepLogs()
		}
		p.down("--volumes", "--remove-orphans", "--timeout", "1")
	})
	return p
}

// image is what containers have that are made from now on.
func (p *project) image(name string) {
	p.env = append(p.env, "MINIGATE_DEPLOY_IMAGE="+name, "MINIGATE_DEPLOY_VERSION="+name)
}

// run runs a command in the repository and returns what it printed.
func (p *project) run(name string, args ...string) (string, error) {
	// Not the test's own context: cleaning up comes after its end.
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = p.root, p.env
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out.String(), said.String())
	}
	return out.String(), nil
}

func (p *project) must(name string, args ...string) string {
	p.t.Helper()
	out, err := p.run(name, args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

func (p *project) compose(args ...string) string {
	p.t.Helper()
	return p.must("docker", append([]string{"compose"}, args...)...)
}

// down removes the containers. Some engines (20.10) lose count of a network's
// endpoints when containers are killed, and then keep the network, which harms
// nobody: it is used again.
func (p *project) down(args ...string) {
	p.t.Helper()
	_, err := p.run("docker", append([]string{"compose", "down"}, args...)...)
	if err != nil && strings.Contains(err.Error(), "has active endpoints") {
		p.t.Logf("the engine keeps the network: it says that it has active endpoints")
	} else if err != nil {
		p.t.Fatal(err)
	}
}

// scale changes the number of a service's containers, and touches no other.
func (p *project) scale(service string, n int) {
	p.t.Helper()
	p.compose("up", "--detach", "--wait", "--no-deps", "--no-recreate", "--no-build", "--scale", fmt.Sprintf("%s=%d", service, n), service)
}

// container is what docker says of one.
type container struct {
	ID           string `json:"Id"`
	Name         string
	RestartCount int
	Image        string // its id
	State        struct {
		Status   string
		ExitCode int
		Health   *struct{ Status string }
	}
	Config struct {
		Image, User string
		Labels      map[string]string
	}
	HostConfig struct {
		ReadonlyRootfs bool
		CapDrop        []string
	}
	NetworkSettings struct {
		Networks map[string]struct{ IPAddress string }
	}
}

// address is where the others find it.
func (c container) address() string {
	for _, n := range c.NetworkSettings.Networks {
		return n.IPAddress
	}
	return ""
}

// containers are those of services, or of all, whatever their state.
func (p *project) containers(services ...string) []container {
	p.t.Helper()
	ids := strings.Fields(p.compose(append([]string{"ps", "--all", "--quiet", "--no-trunc"}, services...)...))
	if len(ids) == 0 {
		return nil
	}
	var all []container
	if err := json.Unmarshal([]byte(p.must("docker", append([]string{"inspect"}, ids...)...)), &all); err != nil {
		p.t.Fatal(err)
	}
	return all
}

// noneDied fails where a process ended by itself and was started again.
func (p *project) noneDied() {
	p.t.Helper()
	for _, c := range p.containers() {
		if c.RestartCount > 0 {
			p.t.Errorf("%s was started again %d times: it ended by itself", c.Name, c.RestartCount)
		}
	}
}

// eventually waits until ok returns nil.
func (p *project) eventually(what string, ok func() error) time.Duration {
	p.t.Helper()
	begun := time.Now()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return time.Since(begun)
		}
		if time.Since(begun) > settle {
			p.t.Fatalf("%s: not within %v: %v", what, settle, err)
		}
		<-tick.C
	}
}

// get returns what a page on this machine says.
func get(url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth("minigate", "minigate-dev") // RabbitMQ wants it
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, 64<<20))
}

// consumers is how many replicas take a service's requests.
func (p *project) consumers(service string) (int, error) {
	b, err := get(fmt.Sprintf("http://127.0.0.1:%d/api/queues/%%2F/worker.%s", rabbitPort, service))
	if err != nil {
		return 0, err
	}
	var queue struct {
		Details []json.RawMessage `json:"consumer_details"`
	}
	err = json.Unmarshal(b, &queue)
	return len(queue.Details), err
}

// servers are the gates that the front sends clients to, by their address, with
// the connections that each has.
func (p *project) servers() (map[string]int, error) {
	out, err := p.run("docker", "compose", "exec", "-T", "front", "wget", "-q", "-O", "-", "http://127.0.0.1:8405/stats;csv")
	if err != nil {
		return nil, err
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(out, "# "))).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, fmt.Errorf("the front's page: %d rows, %w", len(rows), err)
	}
	column := make(map[string]int)
	for i, name := range rows[0] {
		column[name] = i
	}
	up := make(map[string]int)
	for _, row := range rows[1:] {
		address, _, found := strings.Cut(row[column["addr"]], ":")
		if !found || row[column["status"]] != "UP" {
			continue
		}
		n, err := strconv.Atoi(row[column["scur"]])
		if err != nil {
			return nil, fmt.Errorf("the front's page: %w", err)
		}
		up[address] += n
	}
	return up, nil
}

// keepLogs writes what all containers said into .cache, for who looks into a failure.
func (p *project) keepLogs() {
	path := filepath.Join(p.root, ".cache", "test-compose.log")
	out, err := p.run("docker", "compose", "logs", "--no-color", "--timestamps")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.WriteFile(path, []byte(out), 0o644)
	}
	p.t.Logf("what the containers said is in %s (%v)", path, err)
}
