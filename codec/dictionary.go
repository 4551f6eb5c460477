package codec

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

const (
	// MaxCodes is the largest code, and so how many routes can have one.
	MaxCodes = 65535
	// MaxDictionary is how large the JSON of a Dictionary may grow, in bytes: the
	// answer to a handshake is never in fragments, and has more to say.
	MaxDictionary = MaxBody - 8192
)

// Dictionary gives routes the codes 1, 2, 3 … in the order in which they are
// added. Routes are only ever added, so that a connection's dictionary is no more
// than a number: the Len at its handshake. A connection that knows n codes uses
// those up to n, whatever is added later, and they stay valid as long as it lives.
//
// All methods are safe to call at once; reading takes no lock.
type Dictionary struct {
	limit int
	now   atomic.Pointer[entries]

	adding sync.Mutex // only one adds at a time
}

// entries is a state of the dictionary. The map is made anew with each Add; the
// slices share their arrays with earlier states, which do not look beyond their
// own lengths.
type entries struct {
	codes  map[string]uint16
	routes []string // the route of code i+1 at i
	json   []byte   // `"auth.login":1,"chat.send":2`
	ends   []int    // where the JSON of code i+1 ends at i
}

// NewDictionary makes a dictionary that will give up to limit routes a code;
// routes beyond that are sent by name. ErrDictionaryLimit is a limit that is not
// between 0 and MaxCodes.
func NewDictionary(limit int) (*Dictionary, error) {
	if limit < 0 || limit > MaxCodes {
		return nil, fmt.Errorf("%w: %d", ErrDictionaryLimit, limit)
	}
	d := &Dictionary{limit: limit}
	d.now.Store(new(entries))
	return d, nil
}

// Add gives each of the routes that has no code the next one. It leaves out what
// can have none and still adds the rest; the error is then that of the first left
// out: ErrRouteLength, ErrRouteText or ErrDictionaryFull. Routes are best added
// many at a time, since each Add copies the map.
func (d *Dictionary) Add(routes ...string) error {
	d.adding.Lock()
	defer d.adding.Unlock()

	old := d.now.Load()
	next := *old
	next.codes = make(map[string]uint16, len(old.codes)+len(routes))
	maps.Copy(next.codes, old.codes)
	var first error
	for _, route := range routes {
		if _, ok := next.codes[route]; ok {
			continue
		}
		err := next.add(route, d.limit)
		if err != nil && first == nil {
			first = fmt.Errorf("%w: %.64q", err, route)
		}
		if errors.Is(err, ErrDictionaryFull) {
			break // the rest costs nothing, however many they are
		}
	}
	if len(next.routes) > len(old.routes) {
		d.now.Store(&next)
	}
	return first
}

func (e *entries) add(route string, limit int) error {
	if err := checkRoute(route); err != nil {
		return err
	}
	if len(e.routes) >= limit {
		return ErrDictionaryFull
	}
	code := len(e.routes) + 1
	grown := e.json
	if code > 1 {
		grown = append(grown, ',')
	}
	quoted, err := json.Marshal(route)
	if err != nil {
		return fmt.Errorf("quote route: %w", err)
	}
	grown = append(grown, quoted...)
	grown = fmt.Appendf(grown, ":%d", code)
	if len(grown)+len("{}") > MaxDictionary {
		return ErrDictionaryFull
	}
	e.json = grown
	e.ends = append(e.ends, len(grown))
	e.routes = append(e.routes, route)
	e.codes[route] = uint16(code)
	return nil
}

// Len is how many codes there are; they are 1 to Len.
func (d *Dictionary) Len() int { return len(d.now.Load().routes) }

// Code is the code of a route. It does not allocate.
func (d *Dictionary) Code(route []byte) (code uint16, ok bool) {
	code, ok = d.now.Load().codes[string(route)]
	return code, ok
}

// CodeOf is Code for a route that is a string.
func (d *Dictionary) CodeOf(route string) (code uint16, ok bool) {
	code, ok = d.now.Load().codes[route]
	return code, ok
}

// Route is the route of a code.
func (d *Dictionary) Route(code uint16) (route string, ok bool) {
	routes := d.now.Load().routes
	if code == 0 || int(code) > len(routes) {
		return "", false
	}
	return routes[code-1], true
}

// JSON is the object of the first n routes and their codes as a handshake's
// answer carries it, in the order of codes and at most MaxDictionary long; of
// all where n is over Len. It is made anew with each call: who answers many
// handshakes keeps it for as long as Len stays the same.
func (d *Dictionary) JSON(n int) []byte {
	e := d.now.Load()
	n = min(n, len(e.routes))
	if n <= 0 {
		return []byte("{}")
	}
	list := e.json[:e.ends[n-1]]
	b := make([]byte, 0, len(list)+len("{}"))
	b = append(b, '{')
	b = append(b, list...)
	return append(b, '}')
}

func checkRoute(route string) error {
	if len(route) == 0 || len(route) > MaxName {
		return ErrRouteLength
	}
	if !utf8.ValidString(route) {
		return ErrRouteText
	}
	return nil
}
