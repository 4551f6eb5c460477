package metrics

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Other is the label of all routes that have none of their own.
const Other = "other"

// MaxRoutes bounds the routes that have a label of their own in one process.
const MaxRoutes = 512

// Routes keeps a V for each route that a service has said it has, and one for all
// others together: clients can make up routes, and must not make up series. Its
// methods are safe to call at once.
type Routes[V any] struct {
	create func() *V
	other  *V
	known  atomic.Pointer[map[string]*V] // never changed, only replaced

	mu sync.Mutex // held by who replaces it
}

// NewRoutes returns Routes that know none.
func NewRoutes[V any](create func() *V) *Routes[V] {
	r := &Routes[V]{create: create, other: create()}
	r.known.Store(&map[string]*V{})
	return r
}

// Add gives routes a V of their own, up to MaxRoutes of them. Only who serves a
// route may have it added.
func (r *Routes[V]) Add(routes ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(*r.known.Load())
	for _, route := range routes {
		if next[route] == nil && len(next) < MaxRoutes {
			next[strings.Clone(route)] = r.create()
		}
	}
	r.known.Store(&next)
}

// Of returns what a route has: its own, or that of all others.
//
// Hot path (BenchmarkRoutes): no lock and no allocation.
func (r *Routes[V]) Of(route string) *V {
	if v := (*r.known.Load())[route]; v != nil {
		return v
	}
	return r.other
}

// Each calls f with every route and what it has, in order, and with Other.
func (r *Routes[V]) Each(f func(route string, v *V)) {
	known := *r.known.Load()
	for _, route := range slices.Sorted(maps.Keys(known)) {
		f(route, known[route])
	}
	f(Other, r.other)
}
