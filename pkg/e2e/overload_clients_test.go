package e2e_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/failure"
)

// flood is clients that send echo requests. All but modest ones do so as fast as
// their sockets take them, without waiting for answers: whatever the gate can do, they
// want many times that.
type flood struct {
	t         *testing.T
	addresses []string
	clients   sync.WaitGroup
	numbers   int           // of steady clients that were started
	sending   atomic.Bool   // steady clients send
	ended     chan struct{} // the others end
	end       func()        // stops the sending, waits until all is answered, and ends the others

	sent     atomic.Int64     // requests of steady clients
	answered [17]atomic.Int64 // of them, by code
	cut      atomic.Int64     // greedy clients that the gate took for slow ones, because this machine is

	mu     sync.Mutex
	others map[string]int // what the other clients do
}

func newFlood(t *testing.T, addresses ...string) *flood {
	f := &flood{t: t, addresses: addresses, ended: make(chan struct{}), others: make(map[string]int)}
	f.sending.Store(true)
	f.end = sync.OnceFunc(func() {
		f.sending.Store(false)
		close(f.ended)
		f.clients.Wait()
	})
	t.Cleanup(f.end)
	return f
}

// steady starts clients that read all that comes, and hold each answer against its
// request. A modest one sends more when all it sent is answered, so that the kernel has
// room for its answers and the gate no reason to cut it off; the others are greedy.
func (f *flood) steady(n int, modest bool) {
	clients := make([]*steady, n)
	for i := range clients {
		c, err := dialRaw(f.addresses[i%len(f.addresses)])
		if err != nil {
			f.t.Fatal(err)
		}
		clients[i] = &steady{flood: f, rawClient: c, number: f.numbers + i, modest: modest, caught: make(chan struct{}, 1)}
	}
	f.numbers += n
	for _, s := range clients {
		f.clients.Go(s.run)
	}
}

// bad starts clients that come again whenever they are gone; read says how one of
// them reads until it goes.
func (f *flood) bad(n int, what string, requests []byte, read func(*rawClient) error) {
	for i := range n {
		f.clients.Go(func() {
			for {
				if c, err := dialRaw(f.addresses[i%len(f.addresses)]); err == nil {
					f.one(c, what, requests, read)
				}
				select {
				case <-f.ended:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
}

// one is one connection of a bad client.
func (f *flood) one(c *rawClient, what string, requests []byte, read func(*rawClient) error) {
	f.count("came: " + what)
	gone := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		select {
		case <-gone:
		case <-f.ended:
		}
		c.close()
	})
	others.Go(func() {
		defer close(gone)
		var kick *kickedError
		if err := read(c); errors.As(err, &kick) {
			f.count("kicked: " + kick.code)
		}
	})
	for err := error(nil); err == nil; {
		err = c.write(requests)
	}
	close(c.cut)
	others.Wait() // the end is found by read too, and what was said before
}

func (f *flood) count(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.others[what]++
}

// deaf reads nothing.
func deaf(c *rawClient) error {
	<-c.cut
	return nil
}

// slow reads a little now and then.
func slow(c *rawClient) error {
	return c.packets(20*time.Millisecond, func(codec.Packet) error { return nil })
}

// fickle goes without a word.
func fickle(c *rawClient) error {
	_ = c.conn.SetReadDeadline(time.Now().Add(rand.N(2 * time.Second)))
	return c.packets(0, func(codec.Packet) error { return nil })
}

func (f *flood) answers() (n int64) {
	for i := range f.answered {
		n += f.answered[i].Load()
	}
	return n
}

func (f *flood) code(c codes.Code) int64 { return f.answered[c].Load() }

func (f *flood) String() string {
	s := fmt.Sprintf("%d requests, %d answers:", f.sent.Load(), f.answers())
	for i := range f.answered {
		if n := f.answered[i].Load(); n > 0 {
			s += fmt.Sprintf(" %v %d", codes.Code(i), n)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return s + "; " + fmt.Sprint(f.others)
}

// steady is one well-behaved client. Its requests have the ids from 0 on.
type steady struct {
	*flood
	*rawClient
	number   int
	modest   bool
	sent     atomic.Uint64 // requests that were begun to be written
	done     atomic.Bool   // no more will be
	answered []bool        // by id
	count    atomic.Uint64 // of them
	caught   chan struct{} // all that was sent is answered, or nothing more is read
}

func (s *steady) run() {
	defer s.close()
	var sender sync.WaitGroup
	sender.Go(s.send)
	err := s.read()
	if err != nil {
		_ = s.conn.Close() // which send hears
	}
	close(s.caught)
	sender.Wait()
	var gone *net.OpError
	var kick *kickedError
	switch {
	case err == nil:
	case s.modest:
		s.t.Errorf("modest client %d: %v", s.number, err)
	case errors.As(err, &kick) && kick.code == "slow_consumer", errors.As(err, &gone), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		// Whose it is to lose answers is for the gate's kicks to say.
		s.flood.cut.Add(1)
		s.flood.sent.Add(int64(s.count.Load()) - int64(s.sent.Load()))
	default:
		s.t.Errorf("client %d: %v", s.number, err)
	}
}

func (s *steady) send() {
	var b []byte
	for s.sending.Load() {
		b = b[:0]
		for id := s.sent.Load(); len(b) < 8<<10; id++ {
			b = appendEcho(b, s.number, id)
			s.sent.Add(1)
			s.flood.sent.Add(1)
		}
		_ = s.conn.SetWriteDeadline(time.Now().Add(patience))
		if err := s.write(b); err != nil {
			_ = s.conn.Close() // which read hears
			return
		}
		for s.modest && s.count.Load() < s.sent.Load() {
			if _, ok := <-s.caught; !ok {
				return
			}
		}
	}
	s.done.Store(true)
	_ = s.conn.SetReadDeadline(time.Now().Add(patience))
	_ = s.write(codec.BeginPacket(b[:0], codec.Heartbeat, 0)) // has take look, if all is answered
}

// read reads until each request has its answer.
func (s *steady) read() error {
	err := s.packets(0, s.take)
	if errors.Is(err, errEnough) {
		return nil
	}
	return fmt.Errorf("%d requests, %d answers: %w", s.sent.Load(), s.count.Load(), err)
}

func (s *steady) take(p codec.Packet) error {
	if p.Type == codec.Data {
		if err := s.answer(p.Body); err != nil {
			return err
		}
	}
	if s.done.Load() && s.count.Load() == s.sent.Load() {
		return errEnough
	}
	return nil
}

func (s *steady) answer(b []byte) error {
	var m codec.Message
	if err := codec.DecodeMessage(b, &m); err != nil {
		return err
	}
	if m.ID >= s.sent.Load() {
		return fmt.Errorf("an answer to request %d, which was not sent", m.ID)
	}
	for uint64(len(s.answered)) <= m.ID {
		s.answered = append(s.answered, false)
	}
	if s.answered[m.ID] {
		return fmt.Errorf("a second answer to request %d", m.ID)
	}
	s.answered[m.ID] = true
	if s.count.Add(1) == s.sent.Load() {
		select {
		case s.caught <- struct{}{}:
		default:
		}
	}
	code := codes.OK
	if string(m.Name) == failure.Name {
		e, err := failure.Decode(m.Body, m.Data)
		if err != nil {
			return err
		}
		code = codes.Code(e.GetCode())
	} else if !bytes.Equal(m.Body, echoBody(nil, s.number, m.ID)) {
		return fmt.Errorf("the answer to request %d has other bytes, %d of them", m.ID, len(m.Body))
	}
	s.flood.answered[code].Add(1)
	return nil
}

// noise is what bodies are cut from.
var noise = func() []byte {
	b := make([]byte, 64<<10)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(b)
	return b
}()

// echoBody appends the body of a request: 100 to 1,000 bytes, and of one in ten up
// to 30,000, the same each time.
func echoBody(b []byte, client int, id uint64) []byte {
	r := rand.NewPCG(uint64(client), id)
	size := 100 + r.Uint64()%900
	if r.Uint64()%10 == 0 {
		size = 100 + r.Uint64()%29_900
	}
	b = binary.BigEndian.AppendUint64(b, uint64(client))
	b = binary.BigEndian.AppendUint64(b, id)
	from := r.Uint64() % (32 << 10)
	return append(b, noise[from:from+size-16]...)
}

// requests are some that a bad client sends again and again: all of them, or those
// of at least so many bytes.
func requests(n, bytes int) (b []byte) {
	for id := uint64(0); n > 0; id++ {
		start := len(b)
		if b = appendEcho(b, 0, id); len(b)-start < bytes {
			b = b[:start]
		} else {
			n--
		}
	}
	return b
}

func appendEcho(b []byte, client int, id uint64) []byte {
	m := codec.Message{Type: codec.Request, Data: codec.Text, ID: id, Route: []byte("echo.echo")}
	start := len(b)
	b, err := codec.AppendMessage(codec.BeginPacket(b, codec.Data, 0), &m)
	if err == nil {
		b, err = codec.EndPacket(echoBody(b, client, id), start)
	}
	if err != nil {
		panic(err)
	}
	return b
}
