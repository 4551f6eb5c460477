package codec_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/motto123/minigate/codec"
)

func newDictionary(t testing.TB, limit int, routes ...string) *codec.Dictionary {
	t.Helper()
	d, err := codec.NewDictionary(limit)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Add(routes...); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDictionaryCodes(t *testing.T) {
	d := newDictionary(t, codec.MaxCodes)
	if d.Len() != 0 || string(d.JSON(5)) != "{}" {
		t.Fatalf("empty: %d codes, %s", d.Len(), d.JSON(5))
	}
	for _, routes := range [][]string{{"auth.login", "chat.send"}, {"chat.send", "auth.login"}, {"游戏.move", "a.\"b\""}, nil} {
		if err := d.Add(routes...); err != nil {
			t.Fatal(err)
		}
	}
	for i, route := range []string{"auth.login", "chat.send", "游戏.move", `a."b"`} {
		want := uint16(i + 1)
		if code, ok := d.Code([]byte(route)); !ok || code != want {
			t.Errorf("Code(%q) is %d, %v; want %d", route, code, ok, want)
		}
		if code, ok := d.CodeOf(route); !ok || code != want {
			t.Errorf("CodeOf(%q) is %d, %v; want %d", route, code, ok, want)
		}
		if got, ok := d.Route(want); !ok || got != route {
			t.Errorf("Route(%d) is %q, %v; want %q", want, got, ok, route)
		}
	}
	for _, code := range []uint16{0, 5, 65535} {
		if route, ok := d.Route(code); ok {
			t.Errorf("Route(%d) is %q", code, route)
		}
	}
	if code, ok := d.CodeOf("not.there"); ok {
		t.Errorf("a route that was not added has code %d", code)
	}
	for n, want := range []string{
		`{}`, `{"auth.login":1}`, `{"auth.login":1,"chat.send":2}`, `{"auth.login":1,"chat.send":2,"游戏.move":3}`,
		`{"auth.login":1,"chat.send":2,"游戏.move":3,"a.\"b\"":4}`, `{"auth.login":1,"chat.send":2,"游戏.move":3,"a.\"b\"":4}`,
	} {
		if got := string(d.JSON(n)); got != want {
			t.Errorf("JSON(%d)\n got %s\nwant %s", n, got, want)
		}
	}
	if got := string(d.JSON(-1)); got != "{}" {
		t.Errorf("JSON(-1) is %s", got)
	}
}

func TestDictionaryLimits(t *testing.T) {
	for _, limit := range []int{-1, codec.MaxCodes + 1} {
		if _, err := codec.NewDictionary(limit); !errors.Is(err, codec.ErrDictionaryLimit) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
	d := newDictionary(t, 2)
	if err := d.Add("a", "b", "c", "a"); !errors.Is(err, codec.ErrDictionaryFull) || d.Len() != 2 {
		t.Errorf("third of two: %d codes, %v", d.Len(), err)
	}
	if err := d.Add("a", "b"); err != nil {
		t.Errorf("full, and nothing new: %v", err)
	}
}

func TestDictionaryLeavesOut(t *testing.T) {
	d := newDictionary(t, 10)
	err := d.Add("a", "", "b", strings.Repeat("x", 256), "\xff", strings.Repeat("y", 255))
	if !errors.Is(err, codec.ErrRouteLength) || d.Len() != 3 {
		t.Fatalf("%d codes, %v; want 3, %v", d.Len(), err, codec.ErrRouteLength)
	}
	if err := d.Add("\xff"); !errors.Is(err, codec.ErrRouteText) {
		t.Errorf("route no UTF-8: %v", err)
	}
	if code, ok := d.CodeOf("b"); !ok || code != 2 {
		t.Errorf("code after one left out is %d, %v; want 2", code, ok)
	}
}

// However many routes are announced, the answer to a handshake stays a packet.
func TestDictionaryFitsHandshake(t *testing.T) {
	d := newDictionary(t, codec.MaxCodes)
	var routes []string
	for i := range 10_000 {
		routes = append(routes, fmt.Sprintf("service%d.<method>&more", i))
	}
	if err := d.Add(routes...); !errors.Is(err, codec.ErrDictionaryFull) {
		t.Fatalf("10000 routes: %v", err)
	}
	b := d.JSON(d.Len())
	if len(b) > codec.MaxDictionary || len(b) < codec.MaxDictionary-100 {
		t.Fatalf("%d bytes of JSON, at most %d", len(b), codec.MaxDictionary)
	}
	var client codec.ClientDictionary
	if err := json.Unmarshal(b, &client); err != nil || client.Len() != d.Len() {
		t.Fatalf("%d of %d codes read, %v", client.Len(), d.Len(), err)
	}
}

// An announcement of far too many routes costs little, each time that it comes.
func TestDictionaryManyRoutes(t *testing.T) {
	d, err := codec.NewDictionary(codec.MaxCodes)
	if err != nil {
		t.Fatal(err)
	}
	routes := make([]string, 50_000)
	for i := range routes {
		routes[i] = fmt.Sprintf("evil.route%d", i)
	}
	if err := d.Add(routes...); !errors.Is(err, codec.ErrDictionaryFull) {
		t.Fatalf("got %v", err)
	}
	full := d.Len()
	// What does not fit is not even looked at: adding all of it again takes no memory
	// for each.
	allocations := testing.AllocsPerRun(3, func() { _ = d.Add(routes...) })
	if d.Len() != full || allocations > 1000 {
		t.Errorf("%d codes, then %d; %v allocations", full, d.Len(), allocations)
	}
}

// Readers see codes appear, and never change, while one adds.
func TestDictionaryAtOnce(t *testing.T) {
	d := newDictionary(t, codec.MaxCodes)
	const routes = 500
	added := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for last := false; !last; {
				select {
				case <-added:
					last = true
				default:
				}
				n := d.Len()
				var all map[string]int
				if err := json.Unmarshal(d.JSON(n), &all); err != nil || len(all) != n {
					t.Errorf("JSON of %d codes has %d, %v", n, len(all), err)
					return
				}
				for code := 1; code <= n; code++ {
					route, ok := d.Route(uint16(code))
					again, found := d.CodeOf(route)
					if !ok || !found || int(again) != code || all[route] != code || route != fmt.Sprint("r", code) {
						t.Errorf("code %d is %q, which is %d here and %d in the JSON", code, route, again, all[route])
						return
					}
				}
			}
		})
	}
	for i := range routes {
		if err := d.Add(fmt.Sprint("r", i+1)); err != nil {
			t.Error(err)
		}
	}
	close(added)
	readers.Wait()
	if d.Len() != routes {
		t.Fatalf("%d codes, want %d", d.Len(), routes)
	}
}

func TestClientDictionary(t *testing.T) {
	var answer struct{ Dict codec.ClientDictionary }
	if err := json.Unmarshal([]byte(`{"dict":{"auth.login":1,"game.move":65535}}`), &answer); err != nil {
		t.Fatal(err)
	}
	d := &answer.Dict
	if code, ok := d.Code([]byte("game.move")); !ok || code != 65535 || d.Len() != 2 {
		t.Errorf("code %d, %v, %d codes", code, ok, d.Len())
	}
	if route, ok := d.Route(1); !ok || route != "auth.login" {
		t.Errorf("route %q, %v", route, ok)
	}
	if _, ok := d.Route(2); ok {
		t.Error("code 2 has a route")
	}
	for _, empty := range []string{`{}`, `null`} {
		if err := json.Unmarshal([]byte(empty), d); err != nil || d.Len() != 0 {
			t.Errorf("%s: %d codes, %v", empty, d.Len(), err)
		}
	}
	var zero codec.ClientDictionary
	if _, ok := zero.Code([]byte("a")); ok || zero.Len() != 0 {
		t.Error("the zero value is not empty")
	}
}

func TestClientDictionaryRefuses(t *testing.T) {
	for in, want := range map[string]error{
		`[]`:                                     codec.ErrDictionaryJSON,
		`7`:                                      codec.ErrDictionaryJSON,
		`{"a":1`:                                 codec.ErrDictionaryJSON,
		`{"a":"1"}`:                              codec.ErrDictionaryJSON,
		`{"a":{"b":1}}`:                          codec.ErrDictionaryJSON,
		`{"a":null}`:                             codec.ErrDictionaryJSON,
		`{"a":0}`:                                codec.ErrDictionaryCode,
		`{"a":-1}`:                               codec.ErrDictionaryCode,
		`{"a":65536}`:                            codec.ErrDictionaryCode,
		`{"a":1.5}`:                              codec.ErrDictionaryCode,
		`{"a":1e99}`:                             codec.ErrDictionaryCode,
		`{"a":18446744073709551617}`:             codec.ErrDictionaryCode,
		`{"a":1,"b":1}`:                          codec.ErrDictionaryTwice,
		`{"a":1,"a":2}`:                          codec.ErrDictionaryTwice,
		`{"":1}`:                                 codec.ErrRouteLength,
		`{"` + strings.Repeat("x", 256) + `":1}`: codec.ErrRouteLength,
	} {
		d, err := codec.NewClientDictionary(map[string]int{"was": 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.UnmarshalJSON([]byte(in)); !errors.Is(err, want) {
			t.Errorf("%.60s: %v, want %v", in, err, want)
		}
		if code, ok := d.CodeOf("was"); !ok || code != 1 || d.Len() != 1 {
			t.Errorf("%.60s: an error changed the dictionary", in)
		}
	}
	for _, c := range []struct {
		in   map[string]int
		want error
	}{
		{map[string]int{"a": 1, "b": 1}, codec.ErrDictionaryTwice},
		{map[string]int{"a": 65537}, codec.ErrDictionaryCode}, // 1 in 16 bits
		{map[string]int{"\xff": 1}, codec.ErrRouteText},
		{map[string]int{strings.Repeat("x", 256): 1}, codec.ErrRouteLength},
	} {
		if _, err := codec.NewClientDictionary(c.in); !errors.Is(err, c.want) {
			t.Errorf("%.60v: %v, want %v", c.in, err, c.want)
		}
	}
}

func FuzzDictionary(f *testing.F) {
	dictionary, err := json.Marshal(readVectors(f).Dictionary)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(dictionary)
	f.Add(newDictionary(f, 10, "auth.login", "游戏.move", "a.\"<b>\"").JSON(3))
	for _, s := range []string{`null`, `{}`, `{"a":1,"b":1}`, `{"a":1,"a":2}`, `{"a":1e0}`, `{"\ud800":1}`, `{"a":{}}`, `[1]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var client codec.ClientDictionary
		err := client.UnmarshalJSON(b)
		// What it takes is what the standard library reads of the same bytes.
		var plain map[string]int
		plainErr := json.Unmarshal(b, &plain)
		if err != nil {
			named := slices.ContainsFunc([]error{
				codec.ErrDictionaryJSON, codec.ErrDictionaryCode, codec.ErrDictionaryTwice, codec.ErrRouteLength,
			}, func(known error) bool { return errors.Is(err, known) })
			if !named || client.Len() != 0 {
				t.Fatalf("%d codes after %v", client.Len(), err)
			}
			// null as a code is all of its form that the standard library lets pass.
			if plainErr == nil && errors.Is(err, codec.ErrDictionaryJSON) && !bytes.Contains(b, []byte("null")) {
				t.Fatalf("%v, of which the standard library reads %v", err, plain)
			}
			return
		}
		if plainErr != nil || len(plain) != client.Len() {
			t.Fatalf("%d codes; the standard library reads %d, %v", client.Len(), len(plain), plainErr)
		}
		// In order, since the fuzzer wants the same path for the same input.
		for _, route := range slices.Sorted(maps.Keys(plain)) {
			code := plain[route]
			got, ok := client.Code([]byte(route))
			if !ok || int(got) != code || code < 1 || code > codec.MaxCodes {
				t.Fatalf("%q has code %d, %v; want %d", route, got, ok, code)
			}
			if back, ok := client.Route(got); !ok || back != route {
				t.Fatalf("code %d is %q, %v; want %q", got, back, ok, route)
			}
			// A gate that gives this route a code tells it to clients in the same words.
			gate, err := codec.NewDictionary(1)
			if err != nil {
				t.Fatal(err)
			}
			if err := gate.Add(route); err != nil {
				t.Fatalf("%q can be read and not be written: %v", route, err)
			}
			var told codec.ClientDictionary
			if err := told.UnmarshalJSON(gate.JSON(1)); err != nil {
				t.Fatal(err)
			}
			if code, ok := told.CodeOf(route); !ok || code != 1 {
				t.Fatalf("%s does not name %q", gate.JSON(1), route)
			}
		}
	})
}
