package replay

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tape"
)

// Answers to dead letters have nothing to be compared with, whatever the clock of the
// letters says of their deadlines.
func TestWithoutRecordedAnswersNothingDiffers(t *testing.T) {
	s := newShadow(t, "echo", echo)
	r := new(recorded)
	for i, data := range []string{"first", "second", "third"} {
		r.call(60_000*i, "g", "echo.echo", bus.Request{Session: 1, Sequence: uint32(i + 1), Data: []byte(data)})
	}
	r.call(300_000, "g", "echo.echo", bus.Request{Session: 2, Sequence: 1, Type: 1})
	cfg, found := s.config(t, r)
	var got []string
	cfg.Answered = func(c *tape.Call, now *tape.Reply) { got = append(got, string(c.Data)+" "+whole(now)) }
	result, err := Run(t.Context(), *cfg)
	if err != nil || result.Sent != 4 || result.Uncompared != 4 || result.Same+result.Differ+result.Unanswered != 0 || len(*found) != 0 {
		t.Errorf("got %+v, %v, and %d that differ", result, err, len(*found))
	}
	slices.Sort(got)
	if want := []string{`first OK  "first"`, `second OK  "second"`, `third OK  "third"`}; !slices.Equal(got, want) {
		t.Errorf("shown is %q, want %q", got, want)
	}
}

func TestAnAnswerToADeadLetterIsShown(t *testing.T) {
	s, out, _ := testScreen()
	s.printer.Now = began.Local()
	c := &tape.Call{Place: tape.Place{Position: tape.Position{Offset: 5}}, Route: "chat.send", User: 42, Gate: "3f2a", Session: 7, Taken: began.Local()}
	s.answered(c, &tape.Reply{Data: []byte("\x1bhello")})
	s.answered(c, nil)
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 5 || !strings.HasPrefix(lines[0], "5.0.0  ") || lines[2] != lines[0] || strings.Contains(lines[1], "\x1b") ||
		!strings.HasPrefix(lines[1], "  OK") || !strings.Contains(lines[1], "hello") || lines[3] != "  no answer" {
		t.Errorf("printed\n%s", out)
	}
}

// What the command makes of letters on a broker: it sends those that can be read, shows
// the answers, and its exit code is that of success.
func TestTheCommandSendsDeadLetters(t *testing.T) {
	production, shadowed := installation(t), installation(t, "echo")
	onRabbit(t, production)
	s := onRabbit(t, shadowed)
	s.work(t, "echo", echo)
	conn, err := amqp.Dial(broker(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := channel.Confirm(false); err != nil {
		t.Fatal(err)
	}
	r := new(recorded)
	for i, data := range []string{"first", "second", "third"} {
		r.call(60_000*i, "g", "echo.echo", bus.Request{Session: 1, Sequence: uint32(i + 1), Data: []byte(data)})
	}
	r.entries = append(r.entries, &tape.Entry{Envelope: []byte{0xff}})
	for _, e := range r.entries {
		confirm, err := channel.PublishWithDeferredConfirm(production.DeadExchange(), production.WorkerQueue("echo"), false, false,
			amqp.Publishing{Timestamp: e.Time, Body: e.Envelope})
		if err != nil || !confirm.Wait() {
			t.Fatalf("bury: %v", err)
		}
	}

	c := command(t, "--dead", "--to", shadowed.Prefix(), "--rabbitmq", broker(t), "--prefix", production.Prefix())
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	screen := os.Stdout
	os.Stdout = file
	err = c.Run(t.Context(), nil)
	os.Stdout = screen
	if err != nil {
		t.Errorf("it ends with %v", err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	printed, err := io.ReadAll(file)
	_ = file.Close()
	said := string(printed)
	if err != nil || strings.Count(said, "  OK") != 3 || !strings.Contains(said, "second") ||
		!strings.Contains(said, "differ        0\n") || !strings.Contains(said, "not compared  3") {
		t.Errorf("it says\n%s", said)
	}
	queue, err := channel.QueueDeclarePassive(production.DeadQueue(), true, false, false, false, nil)
	for end := time.Now().Add(patience); err == nil && queue.Messages != 4 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		queue, err = channel.QueueDeclarePassive(production.DeadQueue(), true, false, false, false, nil)
	}
	if err != nil || queue.Messages != 4 {
		t.Errorf("of the letters %d are there, %v", queue.Messages, err)
	}
}
