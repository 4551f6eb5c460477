package dead

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
)

// says runs the command with a pipe for its output, and nothing to read.
func says(t *testing.T, r *rig, args ...string) (out, complaint string) {
	t.Helper()
	cmd := command(t, r, r.url, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if (err == nil) != (stderr.Len() == 0) {
		t.Errorf("%v: ended with %v, and said %s", args, err, stderr.String())
	}
	return stdout.String(), stderr.String()
}

// hostile does what it can to a terminal that it would come to.
const hostile = "\x1b[2J\x1b]0;title\x07\r\u202e\u009b31m"

func died(at time.Time) func(*amqp.Publishing) {
	return func(p *amqp.Publishing) {
		p.Headers["died"] = at.UTC().Format(time.RFC3339Nano)
		p.Headers["died-first"] = p.Headers["died"]
	}
}

func reason(text string) func(*amqp.Publishing) {
	return func(p *amqp.Publishing) { p.Headers["reason"] = text }
}

func TestListInAPipe(t *testing.T) {
	r := newRig(t)
	if out, _ := says(t, r, "list"); out != "" {
		t.Errorf("of an empty queue: %q", out)
	}
	queue := r.topology.EventQueue("g", "email.verification")
	r.letter(queue, "email.verification", "1", died(time.Now().Add(-3*time.Hour)), reason("451 try later"))
	r.letter(queue, "email.verification", "1", died(time.Now().Add(-150*time.Second)), reason(hostile+"first\nsecond"))
	r.letter("q"+hostile, "e"+hostile, "2", reason(""), died(time.Now()))
	r.letter("x", "", "3", func(p *amqp.Publishing) { p.Headers = amqp.Table{"route": "game.move"} })

	out, _ := says(t, r, "list")
	if strings.ContainsFunc(out, hidden) {
		t.Errorf("the list is %q", out)
	}
	all := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(all) != 4 {
		t.Fatalf("%d lines:\n%s", len(all), out)
	}
	id := `[0-9a-f]{10}-[0-9a-f]{4}`
	for i, want := range []string{
		`^` + id + `  3h +event\.\S+email\.verification +email\.verification +6 +451 try later$`,
		`^` + id + `  2m +\S+ +email\.verification +6 +\[letter 2 of the same message\] \\u001b\[2J.*first$`,
		`^` + id + `  \ds +q\\u001b\S+ +e\\u001b\S+ +6 +-$`,
		`^` + id + `  - +x +game\.move +- +-$`,
	} {
		if got := strings.ReplaceAll(all[i], r.topology.Prefix()+".", ""); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("line %d is %q, want %s", i+1, got, want)
		}
	}
	if first, second := all[0][:10], all[1][:10]; first != second {
		t.Errorf("letters of one message have the ids %s… and %s…", first, second)
	}

	for args, want := range map[string]int{
		"--event email.*": 2, "--route game.*": 1, "--queue x": 1, "--older 1h": 1, "--limit 3": 3, "--event email.* --older 1m --limit 1": 1, "--queue none": 0,
	} {
		if out, _ := says(t, r, append([]string{"list"}, strings.Fields(args)...)...); strings.Count(out, "\n") != want {
			t.Errorf("list %s: want %d lines, got\n%s", args, want, out)
		}
	}
	if _, complaint := says(t, r, "list", "--event", "[a"); !strings.Contains(complaint, "--event") {
		t.Errorf("a bad pattern: %s", complaint)
	}

	out, _ = says(t, r, "list", "--json")
	if strings.ContainsFunc(out, hidden) || strings.Count(out, "\n") != 4 {
		t.Errorf("as JSON: %q", out)
	}
	var second row
	if err := json.Unmarshal([]byte(strings.Split(out, "\n")[1]), &second); err != nil {
		t.Fatal(err)
	}
	if second.ID+" " != all[1][:len(second.ID)+1] || second.Copy != 2 || second.Reason != hostile+"first\nsecond" || second.Event != "email.verification" ||
		second.Group != "g" || second.Attempts != 6 || second.Deaths != 1 || second.Size != 1 || second.Queue != queue || second.Type != "email.Verification" ||
		second.Died == nil || time.Since(*second.Died) < 2*time.Minute || second.First == nil {
		t.Errorf("got %+v", second)
	}
	r.waiting(r.topology.DeadQueue(), 4)
}

func TestShowInAPipe(t *testing.T) {
	r := newRig(t)
	r.letter("x", "email.verification", "1", reason("panic: "+hostile+"\nsecond line"), func(p *amqp.Publishing) {
		p.Headers["stack"] = "main.main\n\t/main.go:1" + hostile
		p.Headers["own"+hostile] = amqp.Table{"at": time.Unix(1, 0), "b": []byte{1, 255}}
		p.Headers["deaths"] = "2"
		p.Headers["died-first"] = "2026-01-02T03:04:05.678Z"
		p.Timestamp = time.Unix(1_700_000_000, 0)
		p.Body = []byte("\n\x04" + `a@b.`)
	})
	r.letter("x", "email.verification", "2")
	list, _ := says(t, r, "list")
	ids := regexp.MustCompile(`(?m)^\S+`).FindAllString(list, -1)
	out, _ := says(t, r, "show", ids[0])
	if strings.ContainsFunc(out, hidden) {
		t.Errorf("shown is %q", out)
	}
	for _, want := range []string{
		"letter      " + ids[0], "queue       x\n", "event       email.verification, for the group g", "message id  1\n", "published   2023-11-14 22:13:20.000 UTC",
		"died first  2026-01-02 03:04:05.678 UTC (", "deaths      2\n", "attempts    6\n", `reason      panic: \u001b[2J`, "            second line\n",
		"stack\n  main.main\n      /main.go:1\\u001b", `  own\u001b`, `{"at":"1970-01-01T00:00:01Z","b":"01ff"}`, "payload     6 bytes: email.Verification", `    "to": "a@b."`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "0a 04") {
		t.Errorf("the payload is shown as it is:\n%s", out)
	}
	if out, _ := says(t, r, "show", "--raw", ids[0]); !strings.Contains(out, "0a 04 61 40 62 2e") {
		t.Errorf("with --raw:\n%s", out)
	}

	out, _ = says(t, r, "show", "--json", "--raw", ids[1], ids[0])
	decoder := json.NewDecoder(strings.NewReader(out))
	var both [2]shown
	for i := range both {
		if err := decoder.Decode(&both[i]); err != nil {
			t.Fatal(err)
		}
	}
	if s := both[0]; s.ID != ids[0] || !strings.HasPrefix(s.Stack, "main.main\n\t") || s.Deaths != 2 || s.MessageID != "1" || len(s.Headers) != 1 ||
		s.Raw != "0a0461406"+"22e" || s.Payload.Type != "email.Verification" || !strings.Contains(string(s.Payload.Data), "a@b.") {
		t.Errorf("got %+v", s)
	}
	if both[1].ID != ids[1] || both[1].Stack != "" {
		t.Errorf("got %+v", both[1])
	}
	out, complaint := says(t, r, "show", ids[1], "0000000000-0000")
	if !strings.Contains(out, ids[1]) || !strings.Contains(complaint, "0000000000-0000") || strings.Contains(complaint, ids[1]) {
		t.Errorf("one of two: %s\n%s", out, complaint)
	}
	r.waiting(r.topology.DeadQueue(), 2)
}

// Whatever comes from a letter can be hostile.
func TestAPageIsHarmless(t *testing.T) {
	d := amqp.Delivery{Exchange: "x", Headers: amqp.Table{"h" + hostile: hostile}, MessageId: hostile}
	body := bus.AppendHeader(nil, bus.Header{Gate: hostile, GateAddress: hostile, Route: hostile})
	body = bus.AppendRequest(body, &bus.Request{Name: []byte(hostile), Data: []byte(hostile), DataType: uint8(codec.Protobuf)})
	body = bus.AppendRequest(body, &bus.Request{Data: []byte(`{"a":"` + strings.ReplaceAll(hostile, "\x1b", "") + `"}`), DataType: uint8(codec.JSON)})
	l := &Letter{Letter: bus.Letter{Reason: hostile, Stack: hostile, Route: hostile, Attempts: 1}, ID: "1", Queue: hostile, MessageID: hostile}
	event := *l
	event.Event, event.Group, event.Type = hostile, hostile, hostile
	for _, l := range []*Letter{l, &event} {
		d.Body = body
		s := newShown(l, &d, true)
		p := &page{now: time.Now()}
		if err := p.write(&s); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(p.String(), hidden) || strings.Count(p.String(), "title") < 10 {
			t.Errorf("shown is %q", p.String())
		}
	}
	queues := map[string]int{hostile: 2}
	if text := byQueue(queues); strings.ContainsFunc(text, harmful) {
		t.Errorf("by queue: %q", text)
	}
	err := error(harmless{fmt.Errorf("%w: %s\nsecond", ErrRefused, hostile)})
	if text := err.Error(); strings.ContainsFunc(text, hidden) || !strings.HasSuffix(text, "\nsecond") || !errors.Is(err, ErrRefused) {
		t.Errorf("the error is %q", text)
	}
}

func TestMoveInAPipe(t *testing.T) {
	r := newRig(t)
	a, b := mixed(r, 10)
	r.declare(a, nil)
	dead := r.topology.DeadQueue()
	for _, c := range []struct {
		args            string
		out, complaint  string
		waiting, inTheA int
	}{
		{"requeue", "", "requeue which letters?", 10, 0},
		{"discard --yes", "", "discard which letters?", 10, 0},
		{"discard --all", "", "nobody to ask", 10, 0},
		{"requeue --all", "", "nobody to ask", 10, 0},
		{"requeue --all --limit 1 --yes", "", "--all goes with nothing", 10, 0},
		{"requeue --event a.* --limit 2 --dry-run", "a.happened", "", 10, 0},
		{"requeue --event a.* --limit 2 --yes", "requeued 2 letters: 2 of " + a + "\n", "", 8, 2},
		{"requeue 0000000000-0000 --yes", "requeued 0 letters\n", "no letter has the id 0000000000-0000", 8, 2},
		{"requeue --all --yes", "requeued 3 letters: 3 of " + a + "\n", "kept 5 letters: 5 of " + b + ": there is no such queue", 5, 5},
		{"discard --limit 1 --dry-run --json", `"event":"b.happened"`, "", 5, 5},
		{"discard --limit 1 --yes --json", `"` + b + `": 1`, "", 4, 5},
		{"discard --all --yes", "discarded 4 letters: 4 of " + b + "\n", "", 0, 5},
	} {
		out, complaint := says(t, r, strings.Fields(c.args)...)
		if !strings.Contains(out, c.out) || c.out == "" && out != "" || !strings.Contains(complaint, c.complaint) {
			t.Errorf("%s: says %q and complains %q, want %q and %q", c.args, out, complaint, c.out, c.complaint)
		}
		r.waiting(dead, c.waiting)
		r.waiting(a, c.inTheA)
	}
}
