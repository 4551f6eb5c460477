package mem

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/bustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB) bustest.Env {
	t.Helper()
	topology := bus.NewTopology("test")
	b := New(Config{Topology: topology})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return bustest.Env{Bus: b, Topology: topology}
}

func TestBus(t *testing.T) { bustest.Run(t, open) }

func BenchmarkBus(b *testing.B) { bustest.Benchmark(b, open) }
