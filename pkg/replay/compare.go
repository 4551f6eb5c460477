package replay

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/motto123/minigate/pkg/tail"
	"github.com/motto123/minigate/pkg/tape"
)

// Difference is one value of an answer that is not what it was. Then or Now is empty
// where there is none.
type Difference struct{ Path, Then, Now string }

// Comparer compares answers.
type Comparer struct{ ignored [][]string }

// NewComparer returns a Comparer that does not look at some fields. Each is a path of
// names such as messages.sent_at, which means the field in all elements of a list, and
// all that is below it; * is any name. Names are taken as in protobuf and as in JSON.
func NewComparer(ignore []string) (*Comparer, error) {
	c := &Comparer{}
	for _, text := range ignore {
		names := split(text)
		for _, name := range names {
			if _, err := path.Match(name, ""); err != nil || name == "" {
				return nil, fmt.Errorf("replay: ignore %q: want names with dots between, such as messages.sent_at", text)
			}
		}
		c.ignored = append(c.ignored, names)
	}
	return c, nil
}

// split takes a path apart into names without list indices, in one spelling.
func split(text string) []string {
	var outside strings.Builder
	depth := 0
	for _, r := range text {
		switch {
		case r == '[':
			depth++
		case r == ']' && depth > 0:
			depth--
		case depth == 0:
			outside.WriteRune(r)
		}
	}
	return strings.Split(plain(outside.String()), ".")
}

// plain is a name in one spelling: sent_at is sentAt.
func plain(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

func (c *Comparer) ignores(names []string) bool {
	for _, pattern := range c.ignored {
		if len(pattern) > len(names) {
			continue
		}
		fits := true
		for i := range pattern {
			ok, err := path.Match(pattern[i], names[i])
			fits = fits && ok && err == nil
		}
		if fits {
			return true
		}
	}
	return false
}

// Compare returns what is different in two answers, nil where nothing is. An answer
// that is nil did not come.
func (c *Comparer) Compare(then, now *tape.Reply) []Difference {
	blank := then != nil && then.Masked && tail.Blank(then.Data) // nobody knows what it was
	then, now = masked(then), masked(now)
	show := whole
	if then != nil && then.Masked {
		show = concealed
	}
	switch {
	case then == nil && now == nil:
		return nil
	case then == nil || now == nil, then.Code != now.Code, then.Name != now.Name, then.DataType != now.DataType:
		return []Difference{{Then: whole(then), Now: show(now)}}
	case bytes.Equal(then.Data, now.Data), blank:
		return nil
	case then.Masked && !known(now.Name):
		return []Difference{{Then: whole(then), Now: show(now)}}
	}
	before, after := &flattener{ignores: c.ignores}, &flattener{ignores: c.ignores}
	if !before.flatten(then.DataType, then.Name, then.Data) || !after.flatten(now.DataType, now.Name, now.Data) {
		return []Difference{{Then: whole(then), Now: show(now)}}
	}
	return differences(before.leaves, after.leaves)
}

// differences compares values by their paths, in the order of the first answer, and then
// what only the second has.
func differences(before, after []leaf) (all []Difference) {
	now := make(map[string]string, len(after))
	for _, l := range after {
		now[l.path] = l.value
	}
	was := make(map[string]bool, len(before))
	for _, l := range before {
		was[l.path] = true
		if value := now[l.path]; value != l.value {
			all = append(all, Difference{l.path, l.value, value})
		}
	}
	for _, l := range after {
		if !was[l.path] {
			all = append(all, Difference{l.path, "", l.value})
		}
	}
	return all
}

// masked is an answer without what is sensitive: the tape does not have it, so it
// can not be compared.
func masked(r *tape.Reply) *tape.Reply {
	if r == nil {
		return nil
	}
	without := *r
	without.Data = tail.Masked(r.DataType, r.Name, r.Data)
	return &without
}

// whole is an answer in a line.
func whole(r *tape.Reply) string {
	if r == nil {
		return "no answer"
	}
	return strings.TrimSpace(tail.Code(r.Code) + " " + r.Name + " " + string(tail.Payload(r.DataType, r.Name, r.Data)))
}

// known reports whether this program has a message of that name.
func known(name string) bool {
	_, err := tail.Decode(name, nil)
	return err == nil
}

// concealed is whole for an answer now that was masked on the tape: where its type is
// not known here, nobody can mask it, and no more than its size is shown.
func concealed(r *tape.Reply) string {
	if r == nil || known(r.Name) {
		return whole(r)
	}
	return fmt.Sprintf(`%s %s {"bytes":%d}`, tail.Code(r.Code), r.Name, len(r.Data))
}
