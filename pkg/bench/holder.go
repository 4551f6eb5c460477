package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/motto123/minigate/pkg/load"
)

const (
	holdName    = "hold"
	holdConnect = 5 * time.Minute // for all connections of one holder
)

// holding is what a holder says of its connections, as a line of JSON.
type holding struct {
	Open     int              `json:"open"`
	Opened   load.Connections `json:"opened"`
	Released *load.Result     `json:"released,omitempty"` // when it has ended
}

// serveHold holds idle connections in a process of its own, since a process may
// open only so many files. At the first line of its input it opens them, at each
// later one it says how many are still there, and at the end of it, or of ctx, it
// lets them go.
func serveHold(ctx context.Context, address, connections string, in io.Reader, out io.Writer) error {
	n, err := strconv.Atoi(connections)
	if err != nil {
		return fmt.Errorf("%s: connections: %w", holdName, err)
	}
	lines := make(chan struct{})
	go func() { // ends with the process: nothing else ends a read
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			select {
			case lines <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	next := func() bool {
		select {
		case _, ok := <-lines:
			return ok
		case <-ctx.Done():
			return false
		}
	}
	if !next() {
		return nil
	}
	h, err := hold(ctx, load.Config{Gates: []string{address}, Connections: n, Idle: 1, Loops: 1, Timeout: holdConnect})
	if err != nil {
		return err
	}
	debug.FreeOSMemory() // of the handshakes: there are many holders beside each other
	say := json.NewEncoder(out)
	for more := true; more && err == nil; more = next() {
		err = say.Encode(holding{Open: h.Open(), Opened: h.Opened()})
	}
	r, released := h.release()
	if r != nil { // what was lost is for the one who reads it to judge
		released = say.Encode(holding{Opened: r.Connections, Released: r})
	}
	if err != nil {
		return err
	}
	return released
}
