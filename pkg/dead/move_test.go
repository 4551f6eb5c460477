package dead

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// mixed puts letters of two queues into the queue of dead letters, in turn.
func mixed(r *rig, n int) (a, b string) {
	a, b = r.topology.EventQueue("g", "a.happened"), r.topology.EventQueue("g", "b.happened")
	for i := range n {
		if i%2 == 0 {
			r.letter(a, "a.happened", fmt.Sprint("a", i))
		} else {
			r.letter(b, "b.happened", fmt.Sprint("b", i))
		}
	}
	return a, b
}

func numbered(name string, from, below, step int) (all []string) {
	for i := from; i < below; i += step {
		all = append(all, fmt.Sprint(name, i))
	}
	return all
}

// What a filter takes goes back in order; the others keep their places.
func TestRequeueKeepsOrder(t *testing.T) {
	r := newRig(t)
	a, b := mixed(r, 200)
	r.declare(a, nil)
	r.declare(b, amqp.Table{"x-max-length": int64(1000), "x-overflow": "reject-publish"}) // as events' are
	box := r.box()
	var counted []int
	res, err := box.Requeue(t.Context(), by(t, Filter{Event: "a.*"}), func(r *Result) { counted = append(counted, r.Total()) })
	if err != nil || res.Total() != 100 || res.Moved[a] != 100 || len(res.Kept) != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	if len(counted) != 100 || counted[99] != 100 {
		t.Errorf("progress was told %v", counted)
	}
	r.waiting(r.topology.DeadQueue(), 100)
	r.holds(a, numbered("a", 0, 200, 2)...)

	// By a limit, and by ids.
	if res, err := box.Requeue(t.Context(), by(t, Filter{Queue: b, Limit: 10}), nil); err != nil || res.Moved[b] != 10 {
		t.Errorf("%+v, %v", res, err)
	}
	r.waiting(r.topology.DeadQueue(), 90)
	all := r.read(box)
	if res, err := box.Requeue(t.Context(), by(t, Filter{IDs: []string{all[5].ID, all[3].ID}}), nil); err != nil || res.Moved[b] != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	r.holds(b, append(numbered("b", 1, 21, 2), "b27", "b31")...)
	r.holds(r.topology.DeadQueue(), slices.Concat(numbered("b", 21, 27, 2), []string{"b29"}, numbered("b", 33, 200, 2))...)
}

// A letter goes back as it is, and to its queue alone.
func TestRequeueChangesNothing(t *testing.T) {
	r := newRig(t)
	queue := r.declare(r.topology.EventQueue("g", "a.happened"), nil)
	other := r.declare(r.topology.EventQueue("other", "a.happened"), nil)
	at := time.Unix(1_700_000_000, 0)
	sent := amqp.Publishing{
		Headers: amqp.Table{
			"id": "1", "name": "email.Verification", "reason": "no", "attempts": "6", "deaths": "1", "n": int32(7),
			"x-death": []any{amqp.Table{"queue": queue, "count": int64(1), "time": at}},
		},
		ContentType: "application/x-protobuf", ContentEncoding: "none", DeliveryMode: amqp.Persistent, Priority: 3,
		CorrelationId: "c", ReplyTo: "r", MessageId: "m", Timestamp: at, Type: "t", AppId: "a", UserId: "guest", Body: []byte{0, 1, 255},
	}
	r.publish(r.topology.DeadExchange(), queue, sent)
	if res, err := r.box().Requeue(t.Context(), every, nil); err != nil || res.Total() != 1 {
		t.Fatal(res, err)
	}
	r.waiting(queue, 1)
	d := r.take(queue)[0]
	sent.UserId = ""
	if got := again(&d); fmt.Sprint(got) != fmt.Sprint(sent) || d.UserId != "" {
		t.Errorf("got %+v\nwant %+v", got, sent)
	}

	// With its CC the letter would be in two queues.
	r.letter(queue, "a.happened", "cc", func(p *amqp.Publishing) { p.Headers["CC"] = []any{other} })
	if res, err := r.box().Requeue(t.Context(), every, nil); err != nil || res.Total() != 1 {
		t.Fatal(res, err)
	}
	r.holds(queue, "cc")
	r.holds(other)
}

// Letters whose queue is not there stay where they are, and the others go.
func TestRequeueWithoutTheQueue(t *testing.T) {
	r := newRig(t)
	_, b := mixed(r, 20)
	r.declare(b, nil)
	res, err := r.box().Requeue(t.Context(), every, nil)
	a := r.topology.EventQueue("g", "a.happened")
	if err != nil || res.Moved[b] != 10 || res.Kept[a] == nil || res.Kept[a].Letters != 10 || res.Kept[a].Why != whyGone || res.Kept[a].Last {
		t.Errorf("%+v, %v", res, err)
	}
	r.holds(b, numbered("b", 1, 20, 2)...)
	r.holds(r.topology.DeadQueue(), numbered("a", 0, 20, 2)...)
}

// A queue that comes while its letters are passed over: those behind wait for those
// before them.
func TestRequeueAsTheQueueComes(t *testing.T) {
	r := newRig(t)
	a, b := mixed(r, 20)
	r.declare(b, nil)
	met := 0
	p := newTap(t, func(m method) {
		if m == basicGet {
			if met++; met == 6 {
				r.declare(a, nil)
			}
		}
	}, nil)
	box, err := Open(t.Context(), p.url, r.topology)
	if err != nil {
		t.Fatal(err)
	}
	res, err := box.Requeue(t.Context(), every, nil)
	if err != nil || res.Moved[b] != 10 || res.Moved[a] != 0 || res.Kept[a] == nil || res.Kept[a].Letters != 10 {
		t.Errorf("%+v, %v", res, err)
	}
	if err := box.Close(); err != nil {
		t.Error(err)
	}
	r.holds(r.topology.DeadQueue(), numbered("a", 0, 20, 2)...)
}

// A queue that is deleted just before the transaction is carried out: the letter is
// put at the end of the queue of dead letters.
func TestRequeueAsTheQueueGoes(t *testing.T) {
	r := newRig(t)
	a, b := mixed(r, 20)
	r.declare(b, nil)
	if _, err := r.channel.QueueDeclare(a, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	commits := 0
	p := newTap(t, func(m method) {
		if m != txCommit {
			return
		}
		if commits++; commits == 5 { // a0, b1, a2, b3 and now a4
			if n, err := r.channel.QueueDelete(a, false, false, false); n != 2 || err != nil {
				t.Errorf("deleted %d letters: %v", n, err)
			}
		}
	}, nil)
	box, err := Open(t.Context(), p.url, r.topology)
	if err != nil {
		t.Fatal(err)
	}
	res, err := box.Requeue(t.Context(), every, nil)
	if k := res.Kept[a]; err != nil || res.Moved[b] != 10 || res.Moved[a] != 2 || k == nil || k.Letters != 8 || !k.Last || k.Why != whyGone {
		t.Errorf("%+v, %v", res, err)
	}
	if err := box.Close(); err != nil {
		t.Error(err)
	}
	r.holds(b, numbered("b", 1, 20, 2)...)
	r.holds(r.topology.DeadQueue(), append(numbered("a", 6, 20, 2), "a4")...)
}

// A full queue refuses, and the broker keeps the ack: no letter may be lost for it,
// and none doubled.
func TestRequeueIntoAFullQueue(t *testing.T) {
	r := newRig(t)
	a, _ := mixed(r, 20)
	r.declare(a, amqp.Table{"x-max-length": int64(3), "x-overflow": "reject-publish"})
	box := r.box()
	res, err := box.Requeue(t.Context(), by(t, Filter{Queue: a}), nil)
	if k := res.Kept[a]; !errors.Is(err, ErrRefused) || res.Moved[a] != 3 || k == nil || k.Letters != 1 || !k.Last {
		t.Errorf("%+v, %v", res, err)
	}
	r.waiting(r.topology.DeadQueue(), 17)
	all := r.read(box)
	if last := all[16]; last.MessageID != "a6" || last.Queue != a || last.Reason != "451 try later" {
		t.Errorf("the last letter is %+v", last)
	}
	r.holds(a, "a0", "a2", "a4")
	want := slices.Concat([]string{"b1", "b3", "b5", "b7"}, interleaved(8, 20), []string{"a6"})
	r.holds(r.topology.DeadQueue(), want...)
}

func interleaved(from, below int) (all []string) {
	for i := from; i < below; i++ {
		all = append(all, fmt.Sprint([]string{"a", "b"}[i%2], i))
	}
	return all
}

// The connection is lost when the letter that a full queue refused is in no queue:
// it is put back over another one.
func TestRequeuePutsBackOverAnotherConnection(t *testing.T) {
	r := newRig(t)
	a := r.declare(r.topology.EventQueue("g", "a.happened"), amqp.Table{"x-max-length": int64(1), "x-overflow": "reject-publish"})
	for _, body := range []string{"1", "2", "3"} {
		r.letter(a, "a.happened", body)
	}
	publishings := 0
	var p *tap
	p = newTap(t, func(m method) {
		if m == basicPublish {
			if publishings++; publishings == 3 { // 1, 2, and 2 to the dead letters
				p.cut()
			}
		}
	}, nil)
	box, err := Open(t.Context(), p.url, r.topology)
	if err != nil {
		t.Fatal(err)
	}
	res, err := box.Requeue(t.Context(), every, nil)
	if k := res.Kept[a]; !errors.Is(err, ErrRefused) || res.Moved[a] != 1 || k == nil || k.Letters != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	if err := box.Close(); err != nil {
		t.Error(err)
	}
	r.holds(a, "1")
	r.holds(r.topology.DeadQueue(), "3", "2")
}

// A connection that is lost in a transaction leaves the letter in one of both
// queues.
func TestRequeueLosesItsConnection(t *testing.T) {
	r := newRig(t)
	a := r.declare(r.topology.EventQueue("g", "a.happened"), nil)
	for i := range 10 {
		r.letter(a, "a.happened", fmt.Sprint(i))
	}
	commits := 0
	var p *tap
	p = newTap(t, func(m method) {
		if m == txCommit {
			if commits++; commits == 4 {
				p.cut()
			}
		}
	}, nil)
	box, err := Open(t.Context(), p.url, r.topology)
	if err != nil {
		t.Fatal(err)
	}
	res, err := box.Requeue(t.Context(), every, nil)
	if err == nil || !strings.Contains(err.Error(), "one of both queues") || res.Moved[a] != 3 {
		t.Errorf("%+v, %v", res, err)
	}
	if err := box.Close(); err != nil {
		t.Error(err)
	}
	r.holds(a, "0", "1", "2")
	r.holds(r.topology.DeadQueue(), "3", "4", "5", "6", "7", "8", "9")
}

// What dies again meanwhile is not met again: there is an end to it.
func TestRequeueOfWhatDiesAgain(t *testing.T) {
	r := newRig(t)
	a := r.declare(r.topology.EventQueue("g", "a.happened"), amqp.Table{
		"x-message-ttl": int32(0), "x-dead-letter-exchange": r.topology.DeadExchange(), "x-dead-letter-routing-key": r.topology.EventQueue("g", "a.happened"),
	})
	for i := range 10 {
		r.letter(a, "a.happened", fmt.Sprint(i))
	}
	res, err := r.box().Requeue(t.Context(), every, nil)
	if err != nil || res.Moved[a] != 10 {
		t.Errorf("%+v, %v", res, err)
	}
	r.waiting(r.topology.DeadQueue(), 10)
}

// A replicated queue has other rules of its own.
func TestRequeueIntoAQuorumQueue(t *testing.T) {
	r := newRig(t)
	a := r.declare(r.topology.WorkerQueue("game"), amqp.Table{"x-queue-type": "quorum", "x-max-length": int64(1000), "x-overflow": "reject-publish"})
	for i := range 10 {
		r.letter(a, "", fmt.Sprint(i))
	}
	res, err := r.box().Requeue(t.Context(), every, nil)
	if err != nil || res.Moved[a] != 10 {
		t.Errorf("%+v, %v", res, err)
	}
	r.waiting(r.topology.DeadQueue(), 0)
	eventually(t, "the letters are in the quorum queue", func() bool { return r.depth(a) == 10 })
	if got := r.bodies(a); !slices.Equal(got, numbered("", 0, 10, 1)) {
		t.Errorf("got %v", got)
	}
}

// Told to stop, it has done what it says.
func TestMoveStops(t *testing.T) {
	r := newRig(t)
	a := r.declare(r.topology.EventQueue("g", "a.happened"), nil)
	for i := range 200 {
		r.letter(a, "a.happened", fmt.Sprint(i))
	}
	box := r.box()
	ctx, cancel := context.WithCancel(t.Context())
	res, err := box.Requeue(ctx, every, func(r *Result) {
		if r.Total() == 7 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || res.Moved[a] != 7 {
		t.Errorf("%+v, %v", res, err)
	}
	r.waiting(r.topology.DeadQueue(), 193)
	ctx, cancel = context.WithCancel(t.Context())
	met := 0
	res, err = box.Discard(ctx, func(*Letter) (take, more bool) {
		if met++; met == 100 {
			cancel()
		}
		return true, true
	}, nil)
	if !errors.Is(err, context.Canceled) || res.Moved[a] != discardBatch {
		t.Errorf("%+v, %v", res, err)
	}
	r.holds(a, numbered("", 0, 7, 1)...)
	r.holds(r.topology.DeadQueue(), numbered("", 7+discardBatch, 200, 1)...)
}

func TestDiscard(t *testing.T) {
	r := newRig(t)
	a, b := mixed(r, 200)
	box := r.box()
	res, err := box.Discard(t.Context(), by(t, Filter{Event: "a.happened"}), nil)
	if err != nil || res.Moved[a] != 100 || res.Total() != 100 {
		t.Errorf("%+v, %v", res, err)
	}
	r.waiting(r.topology.DeadQueue(), 100)
	if res, err := box.Discard(t.Context(), by(t, Filter{Queue: b, Limit: 2}), nil); err != nil || res.Moved[b] != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	r.holds(r.topology.DeadQueue(), numbered("b", 5, 200, 2)...)
}
