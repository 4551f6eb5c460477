package e2e_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// TestBrokerRestarted: without the broker clients are told so, and with it
// everything goes on, in the same processes.
func TestBrokerRestarted(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	w := newWorld(t)
	w.rabbitmq = b.url
	gateAdmin, chatAdmin := freePort(t), freePort(t)
	processes := []*process{w.auth(0), w.worker("chat", "--admin", chatAdmin), w.worker("chat"), w.worker("email")}
	one, two := w.gate("--request-timeout", "5s", "--admin", gateAdmin), w.gate("--request-timeout", "5s")
	processes = append(processes, one.process, two.process)
	w.consumed("chat", 2)
	w.consumed("auth", 1)

	c := gather(t, 4, 16, one.tcp, two.ws)
	l := send(t, c, 0)
	l.reaches(300)
	for _, outage := range []string{"stop", "kill"} {
		begun := time.Now()
		b.do(outage)
		l.fails(len(c.clients))
		refused := time.Since(begun)
		// All gates are without it: they go on to hold clients, and to take others.
		tells(t, gateAdmin, http.StatusOK, `"gate":"ok"`, `"dependencies":{"broker":"the broker is down","replies":"gate: its queue`)
		tells(t, chatAdmin, http.StatusServiceUnavailable, `"broker":"the broker is down"`)
		connect(t, one.ws, "newcomer").refused(codes.Unavailable, "echo.echo", nil)
		b.do("start")
		up := time.Since(begun)
		l.reaches(300)
		t.Logf("%s: clients are refused after %v, the broker is up after %v, 300 answers after %v; failed so far: %s", outage,
			refused.Round(time.Millisecond), up.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond), l.failures())
	}
	l.end()
	tells(t, gateAdmin, http.StatusOK, `"dependencies":{"broker":"ok","replies":"ok"}`)
	for _, p := range processes {
		p.lives(t)
	}
	// The events, too: the mail of one who registers now arrives.
	p := connect(t, two.tcp, "late")
	p.register()
	p.login()
	p.verify(mailedCode(t, p.email, "Confirm"))
	l.check(t)
	w.stop()
}

// tells waits until /readyz of a process answers with a code and has parts in it.
func tells(t *testing.T, admin string, code int, parts ...string) {
	t.Helper()
	var got int
	var body string
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("/readyz of %s last answered %d %s", admin, got, body)
		}
	})
	eventually(t, fmt.Sprintf("%s answers %d with %q", admin, code, parts), func() bool {
		got, body = fetch(t, admin, "/readyz")
		return got == code && !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(body, part) })
	})
}

// TestStartOrder: processes that come before what they need wait for it.
func TestStartOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	broker, redis, database := newDoor(t, hostOf(t, w.rabbitmq)), newDoor(t, w.redis), newDoor(t, hostOf(t, w.database))
	forgetDatabase(t, w.topology.Prefix()) // and there are no tables either
	rabbitmq, direct := w.rabbitmq, w.database
	w.rabbitmq, w.redis, w.database = broker.behind(w.rabbitmq), redis.behind(w.redis), database.behind(w.database)
	mail := newDoor(t, address(t, "SMTP"))
	gateAdmin, authAdmin, emailAdmin := freePort(t), freePort(t), freePort(t)
	g := w.gate("--admin", gateAdmin)
	processes := []*process{
		g.process, w.worker("auth", "--auth-grpc", w.authAddresses[0], "--admin", authAdmin), w.worker("chat", "echo"),
		w.worker("email", "--smtp", mail.address, "--admin", emailAdmin),
	}
	for _, p := range processes[1:] {
		p.says(t, `RabbitMQ.*connect`)
	}
	// A gate that never had the broker may be set up wrongly: nobody is sent there.
	tells(t, gateAdmin, http.StatusServiceUnavailable, `"gate":"gate: the broker has not been there yet"`, `"dependencies":{"broker":"the broker is down"`)
	tells(t, authAdmin, http.StatusServiceUnavailable, `"redis":"ping redis: `, `"database":"`)
	tells(t, emailAdmin, http.StatusServiceUnavailable, `"smtp":"email: connect to the mail server: `)
	p := connect(t, g.tcp, "early")
	p.refused(codes.Unavailable, "echo.echo", nil)
	broker.open()
	database.open()
	w.rabbitmq, w.database = rabbitmq, direct
	command(t, w.env(), 0, "db", "init")
	tells(t, authAdmin, http.StatusServiceUnavailable, `"database":"ok"`, `"redis":"ping redis: `, `"worker auth":"ok"`)
	redis.open()
	w.consumed("auth", 1)
	w.consumed("chat", 1)
	w.mailed()
	tells(t, emailAdmin, http.StatusServiceUnavailable, `"events":"ok"`, `"smtp":"email: connect to the mail server: `)
	mail.open()
	tells(t, emailAdmin, http.StatusOK, `"smtp":"ok"`)
	tells(t, authAdmin, http.StatusOK, `"redis":"ok"`, `"database":"ok"`)
	tells(t, gateAdmin, http.StatusOK, `"gate":"ok"`)
	for _, p := range processes {
		p.lives(t)
	}
	p.register()
	p.login()
	p.verify(mailedCode(t, p.email, "Confirm"))
	other := connect(t, g.ws, "other")
	other.register()
	other.login()
	talk(t, p, other, []string{"one", "two"})
	w.stop()
}
