package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// check is one thing that a part says of itself.
type check struct {
	name string
	look func(context.Context) error
}

// kind is what checks are for.
type kind int

const (
	readiness  kind = iota // should get requests
	liveness               // need not be killed
	dependency             // may be away all the same
	kinds
)

// state is how far the process has come.
type state int32

const (
	starting state = iota
	running
	draining
)

func (s state) String() string { return [...]string{"starting", "running", "draining"}[s] }

const (
	// checkTimeout bounds one look at all checks.
	checkTimeout = 2 * time.Second
	// maxReason bounds what is said of a check, in bytes.
	maxReason = 512
)

// Ready registers a check that has to pass for the process to get requests. It is
// called often and from any goroutine, and returns when its context ends. A second
// one of a name replaces the first.
func (s *Server) Ready(name string, look func(context.Context) error) { s.add(readiness, name, look) }

// Live registers a check whose failure means that only a new process helps. It is
// called as one of Ready is.
func (s *Server) Live(name string, look func(context.Context) error) { s.add(liveness, name, look) }

// Depends registers what is told with the checks of Ready and decides nothing: what
// the process goes on without, and who looks after it wants to know of. It is called
// as one of Ready is.
func (s *Server) Depends(name string, look func(context.Context) error) {
	s.add(dependency, name, look)
}

func (s *Server) add(k kind, name string, look func(context.Context) error) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make([]check, 0, len(s.checks[k])+1)
	for _, c := range s.checks[k] {
		if c.name != name {
			next = append(next, c)
		}
	}
	s.checks[k] = append(next, check{name, look})
}

// Started says that all parts are there and have registered their checks: before,
// the process is not ready.
func (s *Server) Started() {
	if s != nil {
		s.state.CompareAndSwap(int32(starting), int32(running))
	}
}

// Draining says that the process is about to end: it is not ready from now on, so
// that nothing new is sent to it while it finishes what it has.
func (s *Server) Draining() {
	if s != nil {
		s.state.Store(int32(draining))
	}
}

// look asks all checks of a kind at once. Who asks while others do gets their
// answer.
func (s *Server) look(ctx context.Context, k kind) map[string]error {
	found, _, _ := s.looking.Do(fmt.Sprint(k), func() (any, error) {
		s.mu.Lock()
		checks := s.checks[k]
		s.mu.Unlock()
		// Not only the one who asked first waits for it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		defer cancel()
		results := make([]error, len(checks))
		var all sync.WaitGroup
		for i, c := range checks {
			all.Go(func() { results[i] = safely(ctx, c.look) })
		}
		all.Wait()
		found := make(map[string]error, len(checks))
		for i, c := range checks {
			found[c.name] = results[i]
		}
		return found, nil
	})
	results, _ := found.(map[string]error)
	return results
}

// safely keeps a check that panics from ending the process.
func safely(ctx context.Context, look func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return look(ctx)
}

// report is the body of an answer.
type report struct {
	Ready  *bool             `json:"ready,omitempty"`
	Live   *bool             `json:"live,omitempty"`
	State  string            `json:"state"`
	Checks map[string]string `json:"checks"` // "ok", or what is wrong
	// Dependencies are the same of what need not be there.
	Dependencies map[string]string `json:"dependencies,omitempty"`
}

// serveReady answers 200 where the process should get requests, and 503 where not.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	var results, dependencies map[string]error
	if state(s.state.Load()) != draining { // that is known at once
		var beside sync.WaitGroup
		beside.Go(func() { dependencies = s.look(r.Context(), dependency) })
		results = s.look(r.Context(), readiness)
		beside.Wait()
	}
	now := state(s.state.Load())
	out, ok := reportOf(now, results)
	out.Dependencies, _ = texts(dependencies)
	ok = ok && now == running
	out.Ready = &ok
	answer(w, out, ok)
}

// serveLive answers 200, or 503 where the process is stuck for good.
func (s *Server) serveLive(w http.ResponseWriter, r *http.Request) {
	results := s.look(r.Context(), liveness)
	out, ok := reportOf(state(s.state.Load()), results)
	out.Live = &ok
	answer(w, out, ok)
}

func reportOf(now state, results map[string]error) (out report, ok bool) {
	out.State = now.String()
	out.Checks, ok = texts(results)
	return out, ok
}

// texts says of each check how it went, and whether all have passed.
func texts(results map[string]error) (said map[string]string, ok bool) {
	said, ok = make(map[string]string, len(results)), true
	for name, err := range results {
		text := "ok"
		if err != nil {
			ok, text = false, err.Error()
			if len(text) > maxReason {
				text = strings.ToValidUTF8(text[:maxReason], "")
			}
		}
		said[name] = text
	}
	return said, ok
}

func answer(w http.ResponseWriter, out report, ok bool) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(out) // who asked is gone
}
