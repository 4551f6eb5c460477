package rabbit

import (
	"sync"

	"github.com/motto123/minigate/pkg/bus"
)

// states is the bus's state and who wants to know of its changes.
type states struct {
	// order is held while the watchers are called, so that they hear of each
	// change in order; they may ask for the state meanwhile.
	order sync.Mutex

	mu       sync.Mutex
	current  bus.State
	watchers map[*watcher]struct{}
}

type watcher struct{ f func(bus.State) }

func (s *states) get() bus.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

func (s *states) set(to bus.State) {
	s.order.Lock()
	defer s.order.Unlock()
	s.mu.Lock()
	if s.current == to {
		s.mu.Unlock()
		return
	}
	s.current = to
	watchers := make([]*watcher, 0, len(s.watchers))
	for w := range s.watchers {
		watchers = append(watchers, w)
	}
	s.mu.Unlock()
	for _, w := range watchers {
		w.f(to)
	}
}

func (s *states) watch(f func(bus.State)) (stop func()) {
	w := &watcher{f}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers == nil {
		s.watchers = make(map[*watcher]struct{})
	}
	s.watchers[w] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, w)
	}
}
