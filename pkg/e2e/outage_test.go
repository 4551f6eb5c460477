package e2e_test

import (
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
	processes := []*process{w.auth(0), w.worker("chat"), w.worker("chat"), w.worker("email")}
	one, two := w.gate("--request-timeout", "5s"), w.gate("--request-timeout", "5s")
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
		b.do("start")
		up := time.Since(begun)
		l.reaches(300)
		t.Logf("%s: clients are refused after %v, the broker is up after %v, 300 answers after %v; failed so far: %s", outage,
			refused.Round(time.Millisecond), up.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond), l.failures())
	}
	l.end()
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

// TestStartOrder: processes that come before what they need wait for it.
func TestStartOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	broker, redis, database := newDoor(t, hostOf(t, w.rabbitmq)), newDoor(t, w.redis), newDoor(t, hostOf(t, w.database))
	forgetDatabase(t, w.topology.Prefix()) // and there are no tables either
	rabbitmq, direct := w.rabbitmq, w.database
	w.rabbitmq, w.redis, w.database = broker.behind(w.rabbitmq), redis.behind(w.redis), database.behind(w.database)
	g := w.gate()
	processes := []*process{g.process, w.auth(0), w.worker("chat", "echo"), w.worker("email")}
	for _, p := range processes[1:] {
		p.says(t, `RabbitMQ.*connect`)
	}
	p := connect(t, g.tcp, "early")
	p.refused(codes.Unavailable, "echo.echo", nil)
	broker.open()
	redis.open()
	database.open()
	w.rabbitmq, w.database = rabbitmq, direct
	command(t, w.env(), 0, "db", "init")
	w.consumed("auth", 1)
	w.consumed("chat", 1)
	w.mailed()
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
