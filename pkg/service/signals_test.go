package service

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/process"
)

// stubborn has the test program be a process that never ends by itself.
const stubborn = "MINIGATE_TEST_STUBBORN"

func runStubborn() {
	ctx, stop := Interrupted()
	defer stop()
	// Interrupted stops listening some time after the first signal; this never does.
	signal.Notify(make(chan os.Signal, 3), os.Interrupt, syscall.SIGTERM)
	c := new(process.Config)
	_ = Graceful(ctx, c, func(ctx context.Context) error {
		fmt.Println("it runs")
		<-ctx.Done()
		fmt.Println("it is told to stop")
		<-c.Ending.Hurried()
		fmt.Println("it hurries")
		select {}
	})
}

// TestTheThirdSignalEndsTheProcess also where somebody else still listens for signals.
func TestTheThirdSignalEndsTheProcess(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), stubborn+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range 3 {
		if !lines.Scan() {
			break
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v, having said %q last", err, lines.Text())
	}
}
