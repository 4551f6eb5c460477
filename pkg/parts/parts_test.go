package parts

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPartsEndInTheOrderInWhichTheyAreStopped(t *testing.T) {
	p := New()
	var order []string
	part := func(name string) func() {
		return p.Start(name, func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, name) // stop waits, so no two write at once
			return nil
		})
	}
	a, b := part("a"), part("b")
	b()
	a()
	a()
	if err := p.Wait(); err != nil || len(order) != 2 || order[0] != "b" {
		t.Errorf("got %v, %v", order, err)
	}
	select {
	case <-p.Failed():
		t.Error("parts that were stopped have failed")
	default:
	}
}

func TestAPartThatEndsByItselfIsReported(t *testing.T) {
	p := New()
	broken := errors.New("broken")
	stop := p.Start("good", func(ctx context.Context) error { <-ctx.Done(); return nil })
	p.Start("bad", func(context.Context) error { return broken })
	p.Start("early", func(context.Context) error { return nil })
	<-p.Failed()
	stop()
	if err := p.Wait(); !errors.Is(err, broken) || err.Error() != "bad: broken" {
		t.Errorf("got %v", err)
	}
}

type closer func()

func (c closer) Close() error { c(); return errors.New("closed badly") }

func TestStopEndsTheLastPartFirst(t *testing.T) {
	p := New()
	var order []string
	until := func(name string) {
		p.Start(name, func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, name)
			return nil
		})
	}
	until("a")
	p.Closing("b", closer(func() { order = append(order, "b") }))
	until("c")
	p.Stop()
	p.Stop()
	if err := p.Wait(); err == nil || err.Error() != "close b: closed badly" {
		t.Errorf("got %v", err)
	}
	if len(order) != 3 || order[0] != "c" || order[1] != "b" || order[2] != "a" {
		t.Errorf("ended in the order %v", order)
	}
}
