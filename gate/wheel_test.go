package gate

import (
	"math/rand/v2"
	"testing"
)

// naive is what the wheel is to be: a due time for each session.
type naive map[*session]int64

// TestWheelModel: whatever is put, removed, put back by who is called, and however
// irregularly time passes, the wheel never calls early, and never later than a slot
// after the first look behind the due time.
func TestWheelModel(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 7))
		now := random.Int64N(1 << 40)
		w := new(wheel)
		w.init(now)
		model := naive{}
		all := make([]*session, 50)
		for i := range all {
			all[i] = new(session)
		}
		put := func(s *session, due int64) {
			w.put(s, due)
			model[s] = max(due, now) // what is overdue is called in the next slot
		}
		for range 400 {
			s := all[random.IntN(len(all))]
			switch random.IntN(4) {
			case 0:
				w.remove(s)
				delete(model, s)
			case 1, 2:
				put(s, now+random.Int64N(200_000)-1000)
			}
			switch random.IntN(40) {
			case 0:
				now += random.Int64N(400_000) // a long pause, of more than a round
			case 1:
				now += wheelTick * wheelSlots
			default:
				now += random.Int64N(3 * wheelTick)
			}
			w.advance(now, func(s *session) {
				due, ok := model[s]
				if !ok {
					t.Fatalf("seed %d: a session is called that is not in the wheel", seed)
				}
				if now < due { // too far away for the wheel: as a session does
					w.put(s, due)
					return
				}
				delete(model, s)
				if random.IntN(2) == 0 {
					put(s, now+random.Int64N(200_000))
				}
			})
			for s, due := range model {
				if !s.inWheel {
					t.Fatalf("seed %d: a session was lost", seed)
				}
				if now >= due+2*wheelTick {
					t.Fatalf("seed %d: at %d nobody was called that was due at %d", seed, now, due)
				}
			}
		}
	}
}

// TestWheelNeverEarly: a session is called in the slot after its due time, all the
// way round.
func TestWheelNeverEarly(t *testing.T) {
	for due := int64(0); due < 3*wheelSlots*wheelTick; due += 97 {
		w := new(wheel)
		w.init(0)
		s := new(session)
		w.put(s, due)
		called := int64(-1)
		for now := int64(0); called < 0; now += wheelTick {
			w.advance(now, func(s *session) {
				if now < due {
					w.put(s, due)
					return
				}
				called = now
			})
		}
		if called < due || called > due+2*wheelTick {
			t.Fatalf("due at %d, called at %d", due, called)
		}
	}
}

// TestWheelAfterPause: after a pause of several rounds the next due time is kept.
func TestWheelAfterPause(t *testing.T) {
	const pause = 10 * wheelSlots * wheelTick
	w := new(wheel)
	w.init(0)
	s := new(session)
	w.put(s, 1000)
	due := int64(pause + 75_000)
	calls := 0
	for now := int64(pause); now < due+2*wheelTick; now += wheelTick {
		w.advance(now, func(s *session) {
			calls++
			if now < due {
				w.put(s, due)
			}
		})
	}
	if s.inWheel {
		t.Errorf("not called by %d, after %d calls", due, calls)
	}
	if calls > 5 {
		t.Errorf("called %d times", calls)
	}
}

func TestBusyList(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var l list
	all := make([]*session, 20)
	for i := range all {
		all[i] = new(session)
	}
	model := map[*session]bool{}
	for range 10_000 {
		s := all[random.IntN(len(all))]
		if random.IntN(2) == 0 {
			l.add(s)
			model[s] = true
		} else {
			l.remove(s)
			delete(model, s)
		}
		n := 0
		for s := l.first; s != nil; s = s.busyNext {
			n++
			if !model[s] {
				t.Fatal("the list holds who was removed")
			}
		}
		if n != len(model) {
			t.Fatalf("the list holds %d, want %d", n, len(model))
		}
	}
}
