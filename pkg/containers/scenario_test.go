//go:build containers

package containers

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The image of the containers, and the one that is rolled out: make test-compose
// builds both.
const (
	image = "minigate:test"
	next  = "minigate:test-next"
)

// maxImage is how large the image may be.
const maxImage = 40 << 20

// ours are the services that the image serves and that run all the time.
var ours = []string{"auth", "email", "chat", "echo", "gate"}

// TestContainers is one story, since each part needs what came before.
func TestContainers(t *testing.T) {
	p := newProject(t, image)
	l := new(ledger)
	defer func() { fmt.Printf("\n%s\n", l.table()) }()

	checkImage(t, p)
	late(t, p)
	begun := time.Now()
	p.compose("up", "--detach", "--wait", "--no-build")
	t.Logf("all are healthy %v later", time.Since(begun).Round(100*time.Millisecond))
	p.noneDied()
	checkContainers(t, p)

	l.begin("register and log in")
	c := newCrowd(t, l)
	defer c.close()
	mails(t, p)

	during := func(name string, a allowed, do func()) {
		t.Helper()
		part := l.begin(name)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.talk(ctx)
		}()
		defer func() { // also where do ends the test
			cancel()
			<-ended
			c.back(t, a.within)
			l.judge(t, part, a)
		}()
		pause(t, 2*time.Second)
		do()
		pause(t, 3*time.Second)
	}
	nothing := allowed{}
	sentAway := allowed{kicks: true, within: 5 * time.Second}

	during("nothing happens", nothing, func() {})
	during("scale chat 1 → 5", nothing, func() {
		p.scale("chat", 5)
		takes(p, "chat", 5)
	})
	during("scale gate 2 → 4", nothing, func() {
		p.scale("gate", 4)
		newcomers(t, p, c, 4)
	})
	during("scale chat 5 → 2, gate 4 → 2", sentAway, func() {
		p.scale("chat", 2)
		takes(p, "chat", 2)
		p.scale("gate", 2)
	})
	c.reach(t)

	p.image(next)
	for _, service := range ours {
		during("roll out "+service, sentAway, func() {
			t.Logf("%s", p.must("deploy/rollout.sh", service))
			runs(t, p, service, next)
		})
		c.reach(t)
	}
	p.noneDied()

	during("kill a gate", allowed{cut: true, within: 8 * time.Second}, func() {
		gate := p.containers("gate")[0]
		up, err := p.servers()
		if err != nil {
			t.Fatal(err)
		}
		its := up[gate.address()]
		p.must("docker", "kill", "--signal", "KILL", gate.ID)
		c.back(t, 10*time.Second)
		if n := l.cuts(); n != its {
			t.Errorf("%d clients were cut off, want the %d of the gate that was killed", n, its)
		}
		c.reach(t) // they are found where they are now
		p.must("docker", "start", gate.ID)
		p.eventually("the front knows the gate again", knows(p, 2))
	})
	for _, dependency := range []string{"redis", "mysql"} {
		during("restart "+dependency, allowed{fail: true}, func() {
			p.compose("restart", "--no-deps", dependency)
			p.eventually(dependency+" is healthy again", healthy(p, dependency))
		})
		c.reach(t)
	}
	during("kill RabbitMQ, and start it", allowed{fail: true}, func() {
		broker := p.containers("rabbitmq")[0]
		p.must("docker", "kill", "--signal", "KILL", broker.ID)
		pause(t, 2*time.Second)
		p.must("docker", "start", broker.ID)
		for _, service := range []string{"auth", "chat", "echo"} {
			takes(p, service, 1)
		}
		p.eventually("all are healthy again", healthy(p, ours...))
	})
	c.reach(t)
	during("and after all that", nothing, func() {})
	p.noneDied()
	t.Logf("%d messages are remembered", c.remember(t))

	c.close()
	p.down()
	p.compose("up", "--detach", "--wait", "--no-build")
	c.each(t, "come back with the token", func(ctx context.Context, p *person) error {
		if err := p.connect(ctx); err != nil {
			return err
		}
		if got := p.client.UserID(); got != p.id {
			return fmt.Errorf("the token is user %d's, want %d", got, p.id)
		}
		return nil
	})
	t.Logf("%d messages are remembered after down and up", c.remember(t))
	c.each(t, "log in with the password", func(ctx context.Context, p *person) error { return p.login(ctx) })
	during("after down and up", nothing, func() {})
	c.reach(t)
}

// pause lets the load go on for a while.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// checkImage: it is small, labelled, and of a user without rights.
func checkImage(t *testing.T, p *project) {
	t.Helper()
	for _, name := range []string{image, next} {
		var found []struct {
			Size   int64
			Config struct {
				User   string
				Labels map[string]string
			}
		}
		if err := json.Unmarshal([]byte(p.must("docker", "image", "inspect", name)), &found); err != nil {
			t.Fatal(err)
		}
		i := found[0]
		t.Logf("%s has %.1f MiB", name, float64(i.Size)/(1<<20))
		if i.Size >= maxImage || i.Config.User != "65532:65532" {
			t.Errorf("%s has %d bytes and user %s, want less than %d and 65532:65532", name, i.Size, i.Config.User, maxImage)
		}
		for _, label := range []string{"version", "revision", "title", "licenses"} {
			if i.Config.Labels["org.opencontainers.image."+label] == "" {
				t.Errorf("%s has no label %s", name, label)
			}
		}
		version := i.Config.Labels["org.opencontainers.image.version"]
		if said := p.must("docker", "run", "--rm", "--read-only", "--cap-drop", "ALL", name, "version"); !strings.Contains(said, version) {
			t.Errorf("%s says that it is %q, want %s", name, said, version)
		}
	}
}

// late: without anything that they need, the services wait, say so, and are not
// ready; none ends.
func late(t *testing.T, p *project) {
	t.Helper()
	p.compose(append([]string{"up", "--detach", "--no-build", "--no-deps", "front"}, ours...)...)
	for _, service := range ours {
		var said string
		p.eventually(service+" says why it is not ready", func() (err error) {
			said, err = p.run("docker", "compose", "exec", "-T", service, "/minigate", "health")
			if err == nil {
				t.Fatalf("%s says that it is ready, without anything that it needs: %s", service, said)
			}
			if said = err.Error(); !strings.Contains(said, "not ready") {
				return err
			}
			return nil
		})
		lines := strings.Split(strings.TrimSpace(said), "\n")
		t.Logf("%s, alone: %s", service, lines[len(lines)-1])
	}
	pause(t, 5*time.Second)
	p.noneDied()
	for _, c := range p.containers() {
		if c.State.Status != "running" {
			t.Errorf("%s is %s (exit code %d), want that it waits", c.Name, c.State.Status, c.State.ExitCode)
		}
	}
}

// checkContainers: what compose.yaml promises of them.
func checkContainers(t *testing.T, p *project) {
	t.Helper()
	for _, c := range p.containers(ours...) {
		if c.Config.User != "65532:65532" || !c.HostConfig.ReadonlyRootfs || len(c.HostConfig.CapDrop) != 1 || c.HostConfig.CapDrop[0] != "ALL" {
			t.Errorf("%s has user %q, a read-only root: %v, and drops %v", c.Name, c.Config.User, c.HostConfig.ReadonlyRootfs, c.HostConfig.CapDrop)
		}
	}
	for _, c := range p.containers() {
		if c.State.Status == "exited" && c.State.ExitCode == 0 && c.Config.Labels["com.docker.compose.service"] == "schema" {
			continue
		}
		if c.State.Health == nil || c.State.Health.Status != "healthy" {
			t.Errorf("%s is %s, and not healthy", c.Name, c.State.Status)
		}
	}
}

// mails: everybody was sent one.
func mails(t *testing.T, p *project) {
	t.Helper()
	p.eventually("everybody has mail", func() error {
		b, err := get(fmt.Sprintf("http://127.0.0.1:%d/email", mailPort))
		if err != nil {
			return err
		}
		var all []struct{ To []struct{ Address string } }
		if err := json.Unmarshal(b, &all); err != nil {
			return err
		}
		to := make(map[string]bool)
		for _, m := range all {
			for _, r := range m.To {
				to[r.Address] = true
			}
		}
		if len(to) != people {
			return fmt.Errorf("got mails to %d, want %d", len(to), people)
		}
		return nil
	})
}

// takes waits until so many replicas take a service's requests.
func takes(p *project, service string, replicas int) {
	p.t.Helper()
	p.eventually(fmt.Sprintf("%d replicas of %s", replicas, service), func() error {
		n, err := p.consumers(service)
		if err == nil && (replicas > 1 && n != replicas || n < 1) {
			err = fmt.Errorf("there are %d", n)
		}
		return err
	})
}

// knows says whether the front knows so many gates.
func knows(p *project, gates int) func() error {
	return func() error {
		up, err := p.servers()
		if err == nil && len(up) != gates {
			err = fmt.Errorf("it knows %d", len(up))
		}
		return err
	}
}

// newcomers: new clients get to all gates, of which some are new.
func newcomers(t *testing.T, p *project, c *crowd, gates int) {
	t.Helper()
	took := p.eventually("the front knows the gates", knows(p, gates))
	t.Logf("the front knew %d gates after %v", gates, took.Round(100*time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	for n := range 40 {
		g := &person{n: 2 * n, ledger: c.ledger, token: c.all[n].token, got: make(map[string]bool), arrival: make(chan struct{}, 1)}
		if err := g.connect(ctx); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = g.client.Close() }()
	}
	up, err := p.servers()
	if err != nil {
		t.Fatal(err)
	}
	for address, sessions := range up {
		if sessions == 0 {
			t.Errorf("gate %s has no client: %v", address, up)
		}
	}
}

// runs: all containers of a service are of an image.
func runs(t *testing.T, p *project, service, image string) {
	t.Helper()
	all := p.containers(service)
	if len(all) == 0 {
		t.Errorf("no container of %s is left", service)
	}
	for _, c := range all {
		if c.Config.Image != image || c.State.Status != "running" {
			t.Errorf("%s is of %s and %s, want %s and running", c.Name, c.Config.Image, c.State.Status, image)
		}
	}
}

// healthy says whether all containers of services are.
func healthy(p *project, services ...string) func() error {
	return func() error {
		for _, c := range p.containers(services...) {
			if c.State.Health == nil || c.State.Health.Status != "healthy" {
				return fmt.Errorf("%s is not", c.Name)
			}
		}
		return nil
	}
}

// back waits until everybody is connected.
func (c *crowd) back(t *testing.T, within time.Duration) {
	t.Helper()
	end := time.NewTimer(within + 30*time.Second)
	defer end.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		away := 0
		for _, p := range c.all {
			if !p.connected() {
				away++
			}
		}
		if away == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-end.C:
			t.Errorf("%d clients are not back", away)
			return
		}
	}
}
