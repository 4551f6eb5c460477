package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// codeNames are gRPC's, as clients of minigate see them.
var codeNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// unknownCode counts codes that gRPC has not.
const unknownCode = 2

// always are the codes that have a series from the beginning: what is alerted on
// must not begin with a step that no rate sees.
var always = [len(codeNames)]bool{0: true, 4: true, 13: true, 14: true}

// Codes counts outcomes by gRPC code. The zero value is usable, and its methods are
// safe to call at once.
type Codes [len(codeNames)]atomic.Uint64

// Add counts one outcome.
func (c *Codes) Add(code uint32) {
	if code >= uint32(len(c)) {
		code = unknownCode
	}
	c[code].Add(1)
}

// Send sends a series for each code that was counted, behind the given labels. The
// family's last label is the code.
func (c *Codes) Send(f *Family, to chan<- prometheus.Metric, labels ...string) {
	for code := range c {
		if n := c[code].Load(); n > 0 || always[code] {
			f.Count(to, n, append(labels[:len(labels):len(labels)], codeNames[code])...)
		}
	}
}
