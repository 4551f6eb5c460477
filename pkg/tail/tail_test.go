package tail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
	"github.com/motto123/minigate/proto/commonpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var began = time.Date(2026, 11, 22, 21, 14, 3, 0, time.Local)

// memory is a tape in memory that may grow.
type memory struct {
	mu      sync.Mutex
	entries []*tape.Entry
	more    chan struct{} // closed when there is more
}

func newMemory(entries ...*tape.Entry) *memory {
	return &memory{entries: entries, more: make(chan struct{})}
}

func (m *memory) add(entries ...*tape.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = append(m.entries, entries...)
	close(m.more)
	m.more = make(chan struct{})
}

func (m *memory) Read(ctx context.Context, start tape.Start, follow bool, each func(*tape.Entry) error) error {
	for i := 0; ; {
		m.mu.Lock()
		entries, more := m.entries, m.more
		m.mu.Unlock()
		for ; i < len(entries); i++ {
			e := *entries[i]
			e.Position = tape.Position{Offset: int64(i)}
			if ctx.Err() != nil {
				return nil
			}
			if start.Position != nil && e.Position.Offset < start.Position.Offset {
				continue
			}
			if err := each(&e); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *memory) Close() error { return nil }

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pair is a request of a user, and its answer half a millisecond later; nil for none.
func pair(ms int, route string, r bus.Request, reply *bus.Reply) []*tape.Entry {
	at := began.Add(time.Duration(ms) * time.Millisecond)
	r.Deadline = at.Add(time.Second).UnixMilli()
	h := bus.Header{Gate: "3f2a", GateAddress: "g:1", Route: route}
	all := []*tape.Entry{{Kind: tape.Requests, Time: at, Sent: at.Add(-time.Millisecond), Worker: bus.Service(route), Gate: "3f2a",
		Envelope: bus.AppendRequest(bus.AppendHeader(nil, h), &r)}}
	if reply != nil {
		reply.Session, reply.Sequence = r.Session, r.Sequence
		all = append(all, &tape.Entry{Kind: tape.Replies, Time: at.Add(500 * time.Microsecond), Gate: "3f2a", Envelope: bus.AppendReply(nil, reply)})
	}
	return all
}

// sample has a call of each kind.
func sample(t *testing.T) *memory {
	m := newMemory()
	m.add(pair(0, "auth.login", bus.Request{Session: 7, Sequence: 1, DataType: 2, Name: []byte("auth.LoginRequest"),
		Data: marshal(t, &authpb.LoginRequest{Account: "alice", Password: "hunter2"})},
		&bus.Reply{DataType: 2, Name: []byte("auth.LoginResponse"), Data: marshal(t, &authpb.LoginResponse{Token: "s3cret", User: &authpb.User{Id: 42}})})...)
	m.add(pair(100, "chat.send", bus.Request{Session: 7, Sequence: 2, User: 42, DataType: 2, Name: []byte("chat.SendRequest"), ID: 5,
		Data: marshal(t, &chatpb.SendRequest{To: 43, ClientId: "c1", Text: "\x1b[31mred\u202e\n"})},
		&bus.Reply{DataType: 2, Name: []byte("chat.SendResponse"), Data: marshal(t, &chatpb.SendResponse{Conversation: 1, Number: 12})})...)
	m.add(pair(200, "chat.send", bus.Request{Session: 8, Sequence: 1, User: 1<<53 + 1, DataType: 1, Data: []byte("{\"to\":\"1\",\n \"text\":\"\x9b31m\"}")},
		&bus.Reply{Code: 5, DataType: 1, Name: []byte("common.Error"), Data: []byte(`{"code":5,"message":"no such user"}`)})...)
	m.add(pair(300, "echo.echo", bus.Request{Session: 8, Sequence: 2, DataType: 0, Data: []byte("hi")}, nil)...)
	m.add(pair(400, "echo.echo", bus.Request{Session: 8, Sequence: 3, Type: 1, DataType: 2, Name: []byte("own.Thing"), Data: []byte{1, 2}}, nil)...)
	m.add(pair(9000, "echo.echo", bus.Request{Session: 9, Sequence: 1}, nil)...)
	return m
}

// printed is what Run prints of a tape.
func printed(t *testing.T, source tape.Source, change func(*Config)) string {
	t.Helper()
	var out bytes.Buffer
	cfg := Config{Source: source, Filter: &tape.Filter{}, Output: &out, Printer: Printer{Now: began}}
	if change != nil {
		change(&cfg)
	}
	n, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "\n"); !cfg.Printer.Full && got != n {
		t.Errorf("it printed %d lines and says %d", got, n)
	}
	return out.String()
}

func TestALineIsWhatIsAskedFor(t *testing.T) {
	const want = `21:14:03.000  auth.login          -                    3f2a/7                16 B     OK            1.50ms   0.0.0
21:14:03.100  chat.send           42                   3f2a/7                20 B     OK            1.50ms   2.0.0
21:14:03.200  chat.send           9007199254740993     3f2a/8                26 B     NOT_FOUND     1.50ms   4.0.0
21:14:03.300  echo.echo           -                    3f2a/8                2 B      UNANSWERED    -        6.0.0
21:14:03.400  echo.echo           -                    3f2a/8                2 B      notify        -        7.0.0
21:14:12.000  echo.echo           -                    3f2a/9                0 B      open          -        8.0.0
`
	if got := printed(t, sample(t), nil); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	other := printed(t, sample(t), func(c *Config) { c.Printer.Now = began.Add(24 * time.Hour) })
	if !strings.HasPrefix(other, "2026-11-22 21:14:03.000  ") {
		t.Errorf("of another day it is\n%s", other)
	}
}

func TestFullDecodesAndMasksAndCleans(t *testing.T) {
	got := printed(t, sample(t), func(c *Config) { c.Printer.Full = true })
	for _, want := range []string{
		`    → auth.LoginRequest {"account":"alice","password":"***"}`,
		`    ← auth.LoginResponse {"token":"***","user":{"id":"42"}}`,
		`    → chat.SendRequest {"to":"43","clientId":"c1","text":"\u001b[31mred\u202e\n"}`,
		`    ← chat.SendResponse {"conversation":"1","number":"12"}`,
		`    → json {"to":"1","text":"\ufffd31m"}`,
		`    ← common.Error {"code":5,"message":"no such user"}`,
		`    → text "hi"`,
		`    → own.Thing {"bytes":2,"hex":"0102"}`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("it has no line %s:\n%s", want, got)
		}
	}
	for _, never := range []string{"hunter2", "s3cret", "\x1b", "\x9b", "\u202e"} {
		if strings.Contains(got, never) {
			t.Errorf("it has %q:\n%s", never, got)
		}
	}
}

func TestJSONIsOneObjectALine(t *testing.T) {
	for _, full := range []bool{false, true} {
		got := printed(t, sample(t), func(c *Config) { c.JSON = true; c.Printer.Full = full })
		lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
		if len(lines) != 6 && !full {
			t.Fatalf("got %d lines", len(lines))
		}
		var o map[string]any
		for _, line := range lines {
			clear(o)
			if err := json.Unmarshal([]byte(line), &o); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
		if err := json.Unmarshal([]byte(lines[1]), &o); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]any{
			"position": "2.0.0", "route": "chat.send", "user": "42", "gate": "3f2a", "session": "7", "sequence": 2., "id": "5", "type": "request",
			"size": 20., "outcome": "OK", "latency_ms": 1.5, "handling_ms": 0.5, "time": began.Add(100 * time.Millisecond).Format(time.RFC3339Nano),
		} {
			if o[name] != want {
				t.Errorf("%s is %v, want %v", name, o[name], want)
			}
		}
		request, ok := o["request"].(map[string]any)
		if ok != full {
			t.Errorf("full is %v, and the request %v", full, o["request"])
		}
		if data, _ := request["data"].(map[string]any); full && data["text"] != "\x1b[31mred\u202e\n" {
			t.Errorf("the data is %v", request["data"])
		}
		if strings.ContainsAny(got, "\x1b\u202e") || strings.Contains(got, "hunter2") {
			t.Errorf("it is not clean:\n%s", got)
		}
	}
}

func TestLimitAndFilter(t *testing.T) {
	if got := printed(t, sample(t), func(c *Config) { c.Limit = 2 }); strings.Count(got, "\n") != 2 {
		t.Errorf("with a limit of 2 got\n%s", got)
	}
	got := printed(t, sample(t), func(c *Config) { c.Filter = &tape.Filter{Errors: true} })
	if strings.Count(got, "\n") != 2 || !strings.Contains(got, "NOT_FOUND") || !strings.Contains(got, "UNANSWERED") {
		t.Errorf("errors are\n%s", got)
	}
	m := sample(t)
	m.add(pair(100_000, "a.late", bus.Request{Session: 1, Sequence: 1}, nil)...)
	m.add(&tape.Entry{Kind: 77}) // nobody reads as far as this
	read := 0
	got = printed(t, counted{m, &read}, func(c *Config) { c.Filter = &tape.Filter{Until: began.Add(150 * time.Millisecond)} })
	if strings.Count(got, "\n") != 2 || read != len(m.entries)-1 {
		t.Errorf("until then are, of %d entries read,\n%s", read, got)
	}
	got = printed(t, sample(t), func(c *Config) { c.From = tape.Place{Position: tape.Position{Offset: 8}} })
	if strings.Count(got, "\n") != 1 {
		t.Errorf("from 8 on are\n%s", got)
	}
}

// counted counts what is read.
type counted struct {
	tape.Source
	n *int
}

func (c counted) Read(ctx context.Context, start tape.Start, follow bool, each func(*tape.Entry) error) error {
	return c.Source.Read(ctx, start, follow, func(e *tape.Entry) error { *c.n++; return each(e) })
}

func TestWhatIsSavedIsTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "saved")
	file, err := tape.CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first := printed(t, sample(t), func(c *Config) {
		c.Save = file
		c.Printer.Full = true
		c.Filter = &tape.Filter{Routes: []string{"chat.*"}}
	})
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	saved, err := tape.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = saved.Close() }()
	second := printed(t, saved, func(c *Config) { c.Printer.Full = true })
	for i := range 2 { // they have positions of their own there
		first = strings.ReplaceAll(first, fmt.Sprintf("%d.0.0\n", 2+2*i), "P\n")
		second = strings.ReplaceAll(second, fmt.Sprintf("%d.0.0\n", 2*i), "P\n")
	}
	if first != second {
		t.Errorf("of the file got\n%swant\n%s", second, first)
	}
}

// notify is a writer that says when something was written.
type notify struct {
	mu      sync.Mutex
	text    strings.Builder
	written chan struct{}
}

func (n *notify) Write(b []byte) (int, error) {
	n.mu.Lock()
	n.text.Write(b)
	n.mu.Unlock()
	select {
	case n.written <- struct{}{}:
	default:
	}
	return len(b), nil
}

// until waits for lines that are printed.
func (n *notify) until(t *testing.T, lines int) string {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		n.mu.Lock()
		text := n.text.String()
		n.mu.Unlock()
		if strings.Count(text, "\n") >= lines {
			return text
		}
		select {
		case <-n.written:
		case <-limit:
			t.Fatalf("not %d lines:\n%s", lines, text)
		}
	}
}

func TestFollowingPrintsWhatComes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &notify{written: make(chan struct{}, 1)}
	m := newMemory()
	ended := make(chan error, 1)
	go func() {
		_, err := Run(ctx, Config{Source: m, Follow: true, Filter: &tape.Filter{}, Output: out, Printer: Printer{Now: began}})
		ended <- err
	}()
	m.add(pair(0, "a.a", bus.Request{Session: 1, Sequence: 1}, &bus.Reply{})...)
	out.until(t, 1)
	m.add(pair(1, "a.b", bus.Request{Session: 1, Sequence: 2}, nil)...) // which nobody answers, nor adds anything
	if got := out.until(t, 2); !strings.Contains(got, "UNANSWERED") {
		t.Errorf("got\n%s", got)
	}
	m.add(pair(20_000, "a.c", bus.Request{Session: 1, Sequence: 3}, nil)...)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the end of its context is %v", err)
	}
}

// broken is a writer that takes nothing.
type broken struct{}

var errBroken = errors.New("the pipe is broken")

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestAnOutputThatTakesNothingEndsIt(t *testing.T) {
	m := newMemory(pair(0, "a.a", bus.Request{Session: 1, Sequence: 1}, &bus.Reply{})...)
	for _, follow := range []bool{false, true} {
		if _, err := Run(t.Context(), Config{Source: m, Follow: follow, Filter: &tape.Filter{}, Output: broken{}}); !errors.Is(err, errBroken) {
			t.Errorf("following %v: got %v", follow, err)
		}
	}
}

func TestColoursAreOnlyThereWhereTheyAreWanted(t *testing.T) {
	c := &tape.Call{Route: "a.b", Outcome: tape.Answered, Reply: &tape.Reply{Code: 3, DataType: 1, Data: []byte("{}")}}
	plain, coloured := Printer{Full: true}, Printer{Full: true, Look: Look{on: true}}
	with := coloured.Line(c)
	if !strings.Contains(with, "\x1b[31mINVALID_ARGUMENT\x1b[0m") {
		t.Errorf("coloured it is %q", with)
	}
	if without := plain.Line(c); strings.Contains(without, "\x1b") || strings.TrimSpace(without) == "" {
		t.Errorf("plain it is %q", without)
	}
}

func TestMaskedKeepsTheForm(t *testing.T) {
	in := &authpb.LoginRequest{Account: "a", Password: "p"}
	b := marshal(t, in)
	out := new(authpb.LoginRequest)
	if err := proto.Unmarshal(Masked(uint8(codec.Protobuf), "auth.LoginRequest", b), out); err != nil || out.GetPassword() == "p" || out.GetAccount() != "a" {
		t.Errorf("protobuf becomes %v, %v", out, err)
	}
	if got := string(Masked(uint8(codec.JSON), "auth.LoginRequest", []byte(`{"account":"a","password":"p"}`))); strings.Contains(got, `"p"`) || !strings.Contains(got, `"a"`) {
		t.Errorf("JSON becomes %s", got)
	}
	for dataType, data := range map[codec.DataType]string{codec.Text: "p", codec.JSON: "p", codec.Protobuf: "p"} {
		if got := Masked(uint8(dataType), "auth.LoginRequest", []byte(data)); len(got) != 0 {
			t.Errorf("%v that does not fit becomes %q", dataType, got)
		}
	}
	if got := string(Payload(uint8(codec.JSON), "", make([]byte, 3))); got != `{"bytes":3}` {
		t.Errorf("what could not be masked is shown as %s", got)
	}
	plain := marshal(t, &commonpb.Error{Code: 3})
	if got := Masked(uint8(codec.Protobuf), "common.Error", plain); !bytes.Equal(got, plain) {
		t.Errorf("what has nothing sensitive becomes %q", got)
	}
}
