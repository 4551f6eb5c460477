package gate

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(fewFilesEnv) != "" {
		os.Exit(m.Run()) // the process that TestOutOfFiles starts
	}
	// gnet has a pool whose goroutines begin with the process.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}
