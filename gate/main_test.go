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
	goleak.VerifyTestMain(m)
}
