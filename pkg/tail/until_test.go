package tail

import (
	"bufio"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/tape"
)

// What is to end at a time ends also where nothing comes on the tape any more, and not
// while what was before is still read.
func TestUntilEndsOnAQuietTape(t *testing.T) {
	now := time.Now()
	for name, entries := range map[string][]*tape.Entry{"an empty tape": nil, "a quiet one": sample(t).entries} {
		one := &tailing{
			cfg: Config{Follow: true, Filter: &tape.Filter{Until: now.Add(time.Minute)}},
			out: bufio.NewWriter(io.Discard),
		}
		one.joiner = tape.NewJoiner(tape.JoinerConfig{Filter: one.cfg.Filter, Each: one.print})
		ended := time.Duration(-1)
		for after := time.Duration(0); after < 10*time.Minute && ended < 0; after += time.Second {
			if err := one.tick(now.Add(after)); errors.Is(err, errLimit) {
				ended = after
			} else if err != nil {
				t.Fatal(err)
			}
			if after < 3*time.Minute { // it has not caught up
				for _, e := range entries {
					if err := one.add(e); err != nil {
						t.Fatalf("%s: after %v: %v", name, after, err)
					}
				}
			}
		}
		if least := 2 * time.Minute; ended < least || len(entries) > 0 && ended < least+2*time.Minute-5*time.Second || ended > 5*time.Minute {
			t.Errorf("%s: it ends %v later", name, ended)
		}
	}
}
