package rabbit

import (
	"strings"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/bus/bustest"
	"github.com/motto123/minigate/pkg/metrics/metricstest"
)

func TestMessageID(t *testing.T) {
	sent := time.UnixMicro(1_800_000_000_123_456)
	for _, number := range []uint64{0, 1, 35, 36, 1<<64 - 1} {
		gotNumber, gotSent := readID(messageID(number, sent))
		if gotNumber != number || !gotSent.Equal(sent) {
			t.Errorf("%d at %v is read as %d at %v", number, sent, gotNumber, gotSent)
		}
	}
	for id, want := range map[string]uint64{"": 0, ".": 0, "zz": 35*36 + 35, "1.": 1, "1.-5": 1, "x y.5": 0, "-1.5": 0} {
		if number, sent := readID(id); number != want || !sent.IsZero() {
			t.Errorf("%q is read as %d at %v, want %d and no time", id, number, sent, want)
		}
	}
}

func TestConnectionsAreCounted(t *testing.T) {
	topology := own()
	url := broker(t)
	sweep(t, url, topology)
	b := openBus(t, url, topology)
	text := ""
	for end := time.Now().Add(bustest.Patience); !strings.Contains(text, `connection="publishing"} 1`) || !strings.Contains(text, `connection="consuming"} 1`); {
		if time.Now().After(end) {
			t.Fatalf("two connections are not counted:\n%s", text)
		}
		text = metricstest.Text(t, b.Meter())
	}
}

// FuzzReadID: anybody may publish anything to an exchange.
func FuzzReadID(f *testing.F) {
	f.Add("1.abc")
	f.Add("")
	f.Add("zzzzzzzzzzzzz.zzzzzzzzzzzzz")
	f.Fuzz(func(t *testing.T, id string) {
		number, sent := readID(id)
		if sent.IsZero() {
			return
		}
		if again, at := readID(messageID(number, sent)); again != number || !at.Equal(sent) {
			t.Errorf("%q is read as %d at %v, and that as %d at %v", id, number, sent, again, at)
		}
	})
}
