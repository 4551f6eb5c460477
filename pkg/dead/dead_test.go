package dead

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

func idsOf(all []*Letter) (ids []string) {
	for _, l := range all {
		ids = append(ids, l.ID)
	}
	return ids
}

// Reading changes nothing: the letters stay in their places, and have the same ids
// the next time, also when others have gone.
func TestReadLeavesAll(t *testing.T) {
	r := newRig(t)
	for i := range 20 {
		r.letter("event.g.email.verification", "email.verification", fmt.Sprint(i))
	}
	b := r.box()
	first := r.read(b)
	if len(first) != 20 || first[3].Event != "email.verification" || first[3].Queue != "event.g.email.verification" ||
		first[3].Type != "email.Verification" || first[3].MessageID != "3" || first[3].Size != 1 || first[3].Copy != 1 || first[3].Subject() != "email.verification" {
		t.Fatalf("%d letters, the fourth is %+v", len(first), first[3])
	}
	if seen := slices.Compact(slices.Sorted(slices.Values(idsOf(first)))); len(seen) != 20 {
		t.Errorf("there are %d ids", len(seen))
	}
	r.waiting(r.topology.DeadQueue(), 20)
	if d, ok, err := r.channel.Get(r.topology.DeadQueue(), true); err != nil || !ok || string(d.Body) != "0" {
		t.Fatalf("the first letter: %q, %v, %v", d.Body, ok, err)
	}
	second := r.read(b)
	if !slices.Equal(idsOf(second), idsOf(first)[1:]) {
		t.Errorf("the ids have changed:\n%v\n%v", idsOf(first), idsOf(second))
	}
	var some []string
	err := b.Read(t.Context(), func(l *Letter, _ *amqp.Delivery) (bool, error) {
		some = append(some, l.ID)
		return len(some) < 5, nil
	})
	if err != nil || len(some) != 5 {
		t.Errorf("read %d letters, want 5: %v", len(some), err)
	}
	if err := b.Read(t.Context(), func(*Letter, *amqp.Delivery) (bool, error) { return true, errStop }); !errors.Is(err, errStop) {
		t.Errorf("got %v", err)
	}
	want := make([]string, 0, 19)
	for i := 1; i < 20; i++ {
		want = append(want, fmt.Sprint(i))
	}
	r.holds(r.topology.DeadQueue(), want...)
}

// Letters of one message have the first part of their ids in common; those that are
// the same in everything are told apart by their place.
func TestIDsOfTheSameMessage(t *testing.T) {
	r := newRig(t)
	queue := r.topology.WorkerQueue("game")
	died := func(at time.Time) func(*amqp.Publishing) {
		return func(p *amqp.Publishing) {
			p.Headers["died"] = at.Format(time.RFC3339Nano)
			p.Headers["died-first"] = p.Headers["died"]
		}
	}
	at := time.Now()
	r.letter(queue, "e", "one", died(at))
	r.letter(queue, "e", "other", died(at))
	r.letter(queue, "e", "one", died(at.Add(time.Millisecond)))
	r.letter(queue, "e", "one", died(at))
	r.letter("elsewhere", "e", "one", died(at))
	all := r.read(r.box())
	part := func(i, of int) string { return strings.Split(all[i].ID, "-")[of] }
	if part(0, 0) != part(2, 0) || part(0, 1) == part(2, 1) || all[0].Copy != 1 || all[2].Copy != 2 {
		t.Errorf("a message that died twice: %s and %s", all[0].ID, all[2].ID)
	}
	if part(0, 0) == part(1, 0) || part(0, 0) == part(4, 0) {
		t.Errorf("another message, and one of another queue: %s, %s, %s", all[0].ID, all[1].ID, all[4].ID)
	}
	if all[3].ID != all[0].ID+".2" || all[3].Copy != 3 {
		t.Errorf("the same letter again: %s and %s", all[0].ID, all[3].ID)
	}
}

// A replicated queue counts its deliveries on the letter.
func TestIDsOutliveTheBrokersCounting(t *testing.T) {
	d := amqp.Delivery{Headers: amqp.Table{"reason": "no", "at": amqp.Table{"t": []any{time.Unix(5, 0)}}, "x-delivery-count": int64(1)}}
	_, before := marks(&Letter{}, &d, "")
	d.Headers["x-delivery-count"] = int64(2)
	d.Headers["at"] = amqp.Table{"t": []any{time.Unix(5, 0).In(time.FixedZone("east", 3600))}}
	if _, after := marks(&Letter{}, &d, ""); after != before {
		t.Errorf("%x and %x", before, after)
	}
	d.Headers["at"] = amqp.Table{"t": []any{time.Unix(6, 0)}}
	if _, other := marks(&Letter{}, &d, ""); other == before {
		t.Error("another header makes no other letter")
	}
}

// What the broker dead-lettered is read from what it says.
func TestLettersOfTheBroker(t *testing.T) {
	r := newRig(t)
	if err := r.channel.ExchangeDeclare(r.topology.RequestExchange(), "topic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	queue := r.topology.WorkerQueue("game")
	r.declare(queue, amqp.Table{"x-dead-letter-exchange": r.topology.DeadExchange(), "x-dead-letter-routing-key": queue})
	if err := r.channel.QueueBind(queue, "game.#", r.topology.RequestExchange(), false, nil); err != nil {
		t.Fatal(err)
	}
	r.publish(r.topology.RequestExchange(), "game.move", amqp.Publishing{Body: []byte("x"), MessageId: "1.x"})
	reject := func() {
		d, ok, err := r.channel.Get(queue, false)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if err := d.Reject(false); err != nil {
			t.Fatal(err)
		}
		r.waiting(r.topology.DeadQueue(), 1)
	}
	reject()
	b := r.box()
	l := r.read(b)[0]
	if l.Queue != queue || l.Route != "game.move" || l.Event != "" || !strings.Contains(l.Reason, "rejected") ||
		l.Deaths != 1 || time.Since(l.Died()) > patience || l.Attempts != 0 {
		t.Errorf("got %+v", l)
	}
	id := l.ID
	if again := r.read(b)[0]; again.ID != id {
		t.Errorf("the id was %s and is %s", id, again.ID)
	}
	if res, err := b.Requeue(t.Context(), every, nil); err != nil || res.Total() != 1 {
		t.Fatal(res, err)
	}
	reject()
	if l := r.read(b)[0]; l.Queue != queue || l.Route != "game.move" || l.Deaths < 1 || l.ID[:10] != id[:10] {
		t.Errorf("after its second death: %+v", l)
	}
}

// Anybody may publish to the queue, and anything.
func TestLettersOfStrangers(t *testing.T) {
	r := newRig(t)
	dead := r.topology.DeadQueue()
	r.publish("", dead, amqp.Publishing{})
	r.publish(r.topology.DeadExchange(), dead, amqp.Publishing{Body: []byte("x")})
	r.publish(r.topology.DeadExchange(), "a.queue", amqp.Publishing{Headers: amqp.Table{
		"reason": int64(7), "id": amqp.Table{"a": "b"}, "name": []byte("x"), "attempts": "many", "died": "never",
		"x-death": []any{"no table"}, "list": []any{time.Now(), nil, amqp.Decimal{Scale: 1, Value: 2}, []byte("x")},
	}})
	r.publish(r.topology.DeadExchange(), "a.queue", amqp.Publishing{Headers: amqp.Table{"x-death": "none"}})
	b := r.box()
	all := r.read(b)
	if len(all) != 4 {
		t.Fatalf("%d letters", len(all))
	}
	for i, l := range all {
		if (l.Queue != "") != (i > 1) || !l.Died().IsZero() || l.ID == "" {
			t.Errorf("letter %d is %+v", i, l)
		}
	}
	if err := b.Read(t.Context(), func(l *Letter, d *amqp.Delivery) (bool, error) {
		s := newShown(l, d, true)
		if _, err := asJSON(s, ""); err != nil {
			t.Error(err)
		}
		return true, (&page{}).write(&s)
	}); err != nil {
		t.Error(err)
	}
	if res, err := b.Requeue(t.Context(), every, nil); err != nil || res.Total() != 0 || res.Kept[""].Letters != 2 || res.Kept["a.queue"].Letters != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	r.waiting(dead, 4)
}

func TestNoQueue(t *testing.T) {
	b, err := Open(t.Context(), broker(t), bus.NewTopology("nobody-has-this"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Count()
	if !errors.Is(err, ErrNoQueue) || !strings.Contains(err.Error(), "nobody-has-this") {
		t.Errorf("got %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenHidesThePassword(t *testing.T) {
	for _, url := range []string{"amqp://guest:secret@host:port/", "http://guest:secret@host/", "amqp://guest:secret@127.0.0.1:1/"} {
		if b, err := Open(t.Context(), url, bus.NewTopology("")); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, %v", url, b, err)
		}
	}
}
