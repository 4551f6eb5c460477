package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/code"
)

// codeCount is how many codes gRPC has.
const codeCount = 17

// unknownCode counts codes that gRPC has not.
const unknownCode = 2

// always are the codes that have a series from the beginning: what is alerted on
// must not begin with a step that no rate sees.
var always = [codeCount]bool{0: true, 4: true, 13: true, 14: true}

// Codes counts outcomes by gRPC code. The zero value is usable, and its methods are
// safe to call at once.
type Codes [codeCount]atomic.Uint64

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
	for i := range c {
		if n := c[i].Load(); n > 0 || always[i] {
			f.Count(to, n, append(labels[:len(labels):len(labels)], code.Code_name[int32(i)])...)
		}
	}
}
