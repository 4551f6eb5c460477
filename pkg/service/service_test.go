package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/process"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/worker"
)

func TestMain(m *testing.M) {
	if os.Getenv(stubborn) != "" {
		runStubborn()
		return
	}
	goleak.VerifyTestMain(m)
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("a setting is wrong"), process.ExitFailed},
		{&process.Ended{Code: process.ExitCutOff}, process.ExitCutOff},
		{fmt.Errorf("and more: %w", &process.Ended{Code: process.ExitCutOff}), process.ExitCutOff},
	} {
		if got := ExitCode("test", c.err); got != c.want {
			t.Errorf("%v: got %d, want %d", c.err, got, c.want)
		}
	}
}

// nowhere are settings of a process that talks to nobody else's services.
var nowhere = []string{"--rabbitmq", "amqp://guest:guest@127.0.0.1:1/", "--redis", "127.0.0.1:1", "--admin", "", "--prefix", "service_test"}

// TestOwnSettings: they come from where the others come from, and are there when the
// service is defined; its error ends the process.
func TestOwnSettings(t *testing.T) {
	t.Setenv("MINIGATE_PRICE", "12")
	t.Setenv("MINIGATE_DATABASE", "mysql://somewhere/else") // is for others
	t.Setenv("MINIGATE_SMTP_PASSWORD_FILE", "/nowhere")
	file := filepath.Join(t.TempDir(), "settings.yaml")
	if err := os.WriteFile(file, []byte("gate:\n  tcp: 127.0.0.1:7001\nweight: 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MINIGATE_CONFIG", file)
	var weight int
	var price int
	var got string
	code := run("shop", append(nowhere, "--worker-prefetch", "7"), func(s *Service) error {
		got = fmt.Sprintf("%s %d %t %t %t %t", s.Service(), price+weight, s.Events != nil, s.Users != nil, s.Redis != nil, s.Log != nil)
		return errors.New("not today")
	}, []func(settings.Set){
		func(s settings.Set) { s.Int(&price, "price", 1, 1, 100, "what it costs") },
		func(s settings.Set) { s.Int(&weight, "weight", 1, 1, 100, "what it weighs") },
	})
	if want := "shop 15 true true true true"; got != want || code != process.ExitFailed {
		t.Errorf("defined with %q, exit code %d; want %q, %d", got, code, want, process.ExitFailed)
	}
	t.Setenv("MINIGATE_PRICE", "1000")
	code = run("shop", nowhere, func(*Service) error { t.Error("it is defined"); return nil },
		[]func(settings.Set){func(s settings.Set) { s.Int(&price, "price", 1, 1, 100, "what it costs") }})
	if code != process.ExitFailed {
		t.Errorf("a bad setting: exit code %d", code)
	}
}

// TestTheNameOfAShippedService is one like another: it needs no database.
func TestTheNameOfAShippedService(t *testing.T) {
	for _, name := range []string{"auth", "chat"} {
		defined := false
		run(name, nowhere, func(*Service) error { defined = true; return errors.New("not today") }, nil)
		if !defined {
			t.Errorf("%s was not defined", name)
		}
	}
}

// TestItWaitsForTheBroker, and a signal ends it nevertheless.
func TestItWaitsForTheBroker(t *testing.T) {
	defined := make(chan struct{})
	code := make(chan int, 1)
	go func() {
		code <- run("shop", nowhere, func(s *Service) error {
			worker.HandleRaw(s.Worker, "shop.open", func(context.Context, worker.Raw) (worker.Raw, error) { return worker.Raw{}, nil })
			close(defined)
			return nil
		}, nil)
	}()
	<-defined
	time.Sleep(50 * time.Millisecond) // it would have ended by itself, did it need one to start
	select {
	case got := <-code:
		t.Fatalf("without a broker it ends with %d", got)
	default:
	}
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-code:
		if got != 0 {
			t.Errorf("it ends with %d, want 0", got)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
}
