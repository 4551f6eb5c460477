package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// ClientDictionary is a dictionary as its other side has it: read once from the
// handshake's answer, and then only looked up. Its codes need not be in sequence.
// The zero value is empty and ready to use. Lookups are safe to call at once.
//
// It reads itself with encoding/json, so that it can stand in the struct of a
// handshake's answer.
type ClientDictionary struct {
	codes  map[string]uint16
	routes map[uint16]string
}

// NewClientDictionary makes a dictionary of routes and their codes. It returns
// ErrDictionaryCode for a code that is not between 1 and MaxCodes,
// ErrDictionaryTwice for a code of two routes, ErrRouteLength and ErrRouteText.
func NewClientDictionary(codes map[string]int) (*ClientDictionary, error) {
	d := new(ClientDictionary)
	for route, code := range codes {
		if err := d.add(route, code); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// UnmarshalJSON reads an object of routes and their codes; null is an empty one.
// It returns the errors of NewClientDictionary, ErrDictionaryTwice also for a
// route that is there twice, and ErrDictionaryJSON for any other JSON. After an
// error the dictionary is as it was.
func (d *ClientDictionary) UnmarshalJSON(b []byte) error {
	if !json.Valid(b) {
		return ErrDictionaryJSON
	}
	tokens := json.NewDecoder(bytes.NewReader(b))
	tokens.UseNumber()
	first, err := tokens.Token()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDictionaryJSON, err)
	}
	if first != nil && first != json.Delim('{') {
		return ErrDictionaryJSON
	}
	var read ClientDictionary
	for first != nil && tokens.More() {
		key, err := tokens.Token()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDictionaryJSON, err)
		}
		value, err := tokens.Token()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDictionaryJSON, err)
		}
		route, isText := key.(string)
		number, isNumber := value.(json.Number)
		if !isText || !isNumber {
			return ErrDictionaryJSON
		}
		code, err := strconv.Atoi(number.String())
		if err != nil {
			return fmt.Errorf("%w: %.64q", ErrDictionaryCode, number.String())
		}
		if err := read.add(route, code); err != nil {
			return err
		}
	}
	*d = read
	return nil
}

func (d *ClientDictionary) add(route string, code int) error {
	if err := checkRoute(route); err != nil {
		return fmt.Errorf("%w: %.64q", err, route)
	}
	if code < 1 || code > MaxCodes {
		return fmt.Errorf("%w: %d", ErrDictionaryCode, code)
	}
	_, routeThere := d.codes[route]
	_, codeThere := d.routes[uint16(code)]
	if routeThere || codeThere {
		return fmt.Errorf("%w: %d, %.64q", ErrDictionaryTwice, code, route)
	}
	if d.codes == nil {
		d.codes = make(map[string]uint16)
		d.routes = make(map[uint16]string)
	}
	d.codes[route] = uint16(code)
	d.routes[uint16(code)] = route
	return nil
}

// Len is how many routes have a code.
func (d *ClientDictionary) Len() int { return len(d.codes) }

// Code is the code of a route. It does not allocate.
func (d *ClientDictionary) Code(route []byte) (code uint16, ok bool) {
	code, ok = d.codes[string(route)]
	return code, ok
}

// CodeOf is Code for a route that is a string.
func (d *ClientDictionary) CodeOf(route string) (code uint16, ok bool) {
	code, ok = d.codes[route]
	return code, ok
}

// Route is the route of a code.
func (d *ClientDictionary) Route(code uint16) (route string, ok bool) {
	route, ok = d.routes[code]
	return route, ok
}
