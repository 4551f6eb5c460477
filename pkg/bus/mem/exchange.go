package mem

import (
	"slices"
	"strings"
)

// maxRoutes bounds the cache of keys: a client can ask for any number of routes
// that nobody serves.
const maxRoutes = 4096

// exchange is a topic exchange. Bus.mu guards it.
type exchange struct {
	name string
	root node
	// routes caches what a key leads to until a binding changes; publishing finds
	// all that it needs in one look-up here (BenchmarkRoundTrip).
	routes map[string]*route
}

// route is where a key leads. It does not change once it is in the cache.
type route struct {
	exchange string
	key      string // the cache's own copy: a publisher's key may alias a buffer
	queues   []*queue
}

// node is a place in the trie of patterns, one word below its parent.
type node struct {
	children map[string]*node // by word; * and # among them
	queues   []*queue         // bound with the pattern that ends here
}

func newExchange(name string) *exchange {
	return &exchange{name: name, routes: make(map[string]*route)}
}

// bind adds a queue under a pattern; a second time changes nothing.
func (e *exchange) bind(pattern string, q *queue) {
	n := &e.root
	for word := range strings.SplitSeq(pattern, ".") {
		child := n.children[word]
		if child == nil {
			child = &node{}
			if n.children == nil {
				n.children = make(map[string]*node)
			}
			n.children[word] = child
		}
		n = child
	}
	if slices.Contains(n.queues, q) {
		return
	}
	n.queues = append(n.queues, q)
	clear(e.routes)
}

// unbind removes a queue from all patterns.
func (e *exchange) unbind(q *queue) {
	if e.root.remove(q) {
		clear(e.routes)
	}
}

func (n *node) remove(q *queue) (removed bool) {
	if i := slices.Index(n.queues, q); i >= 0 {
		n.queues = slices.Delete(n.queues, i, i+1)
		removed = true
	}
	for word, child := range n.children {
		if child.remove(q) {
			removed = true
		}
		if len(child.queues) == 0 && len(child.children) == 0 {
			delete(n.children, word)
		}
	}
	return removed
}

// find computes the route of a key and caches it.
func (e *exchange) find(key string) *route {
	if len(e.routes) >= maxRoutes {
		clear(e.routes)
	}
	key = strings.Clone(key)
	r := &route{exchange: e.name, key: key}
	e.root.match(strings.Split(key, "."), &r.queues)
	e.routes[key] = r
	return r
}

// match adds the queues of all patterns below n that match words; each queue
// once, however many of its patterns match.
func (n *node) match(words []string, queues *[]*queue) {
	if hash := n.children["#"]; hash != nil {
		for i := range len(words) + 1 {
			hash.match(words[i:], queues)
		}
	}
	if len(words) == 0 {
		for _, q := range n.queues {
			if !slices.Contains(*queues, q) {
				*queues = append(*queues, q)
			}
		}
		return
	}
	// A key's own word "*" or "#" is looked up like any other and would find the
	// wildcard a second time; match counts a queue once, so that is harmless.
	if child := n.children[words[0]]; child != nil && words[0] != "#" {
		child.match(words[1:], queues)
	}
	if star := n.children["*"]; star != nil {
		star.match(words[1:], queues)
	}
}
