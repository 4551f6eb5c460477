package gate

// wheel is a timing wheel: one timer for all sessions of a loop. A session
// stands in it from its opening to its end, and costs nothing between two looks:
// whatever comes from the client only sets the time it was last seen, and the
// next look puts the session where its new time is.
type wheel struct {
	slots [wheelSlots]wheelList
	at    int64 // number of the slot that is looked at next
}

const (
	wheelTick  = 250 // milliseconds a slot
	wheelSlots = 512 // a due time further away is looked at early, and put back
)

// wheelList is a list through a session's wheel links, list one through its busy
// links: neither costs an allocation.
type wheelList struct{ first *session }

func (w *wheel) init(now int64) { w.at = now / wheelTick }

// put makes s due at a time, in milliseconds since the gate began.
func (w *wheel) put(s *session, due int64) {
	w.remove(s)
	slot := due/wheelTick + 1                      // never early
	slot = min(max(slot, w.at), w.at+wheelSlots-2) // the last slot may be under the eyes of advance
	s.wheelSlot = int16(slot % wheelSlots)
	head := &w.slots[s.wheelSlot]
	s.wheelNext = head.first
	s.wheelPrevious = nil
	if head.first != nil {
		head.first.wheelPrevious = s
	}
	head.first = s
	s.inWheel = true
}

func (w *wheel) remove(s *session) {
	if !s.inWheel {
		return
	}
	if s.wheelPrevious != nil {
		s.wheelPrevious.wheelNext = s.wheelNext
	} else {
		w.slots[s.wheelSlot].first = s.wheelNext
	}
	if s.wheelNext != nil {
		s.wheelNext.wheelPrevious = s.wheelPrevious
	}
	s.wheelNext, s.wheelPrevious, s.inWheel = nil, nil, false
}

// advance calls expired with each session in the slots that are over. It may
// put the session back, or close it.
func (w *wheel) advance(now int64, expired func(*session)) {
	end := now / wheelTick
	// After a long pause every slot is looked at once, not once a round.
	w.at = max(w.at, end-wheelSlots+1)
	for w.at <= end {
		head := &w.slots[w.at%wheelSlots]
		w.at++ // put never means the slot that is looked at
		for s := head.first; s != nil; s = head.first {
			w.remove(s)
			expired(s)
		}
	}
}

// list holds the sessions with requests that wait, in no order.
type list struct{ first *session }

func (l *list) add(s *session) {
	if s.isBusy {
		return
	}
	s.busyNext, s.busyPrevious = l.first, nil
	if l.first != nil {
		l.first.busyPrevious = s
	}
	l.first = s
	s.isBusy = true
}

func (l *list) remove(s *session) {
	if !s.isBusy {
		return
	}
	if s.busyPrevious != nil {
		s.busyPrevious.busyNext = s.busyNext
	} else {
		l.first = s.busyNext
	}
	if s.busyNext != nil {
		s.busyNext.busyPrevious = s.busyPrevious
	}
	s.busyNext, s.busyPrevious, s.isBusy = nil, nil, false
}
