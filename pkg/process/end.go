package process

import (
	"errors"
	"strings"
	"sync"
	"time"
)

// The exit codes of a process that ended other than by finishing everything. Not
// 2, which is that of a panic.
const (
	ExitFailed = 1 // something failed
	ExitCutOff = 3 // told to stop, and something was not finished in time
)

// Ended is how a process ended that has said so in its log.
type Ended struct {
	Code int // for os.Exit
	err  error
}

func (e *Ended) Error() string { return e.err.Error() }

// Unwrap is what was logged.
func (e *Ended) Unwrap() error { return e.err }

var errCutOff = errors.New("not everything was finished")

// sayHurry logs it when the process is hurried, until the function is called.
func (p *process) sayHurry() (stop func()) {
	over := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-p.Ending.Hurried():
			p.log.Warn("hurrying: what is not finished is cut off; a third signal ends the process at once")
		case <-over:
		}
	})
	return func() {
		close(over)
		waiting.Wait()
	}
}

// tell logs how the process ended, and how long that took. It is the last line.
func (p *process) tell(err error, took time.Duration) error {
	log := p.log.WithField("took", took.Round(time.Millisecond).String())
	select {
	case <-p.Ending.Hurried():
		log = log.WithField("hurried", true)
	default:
	}
	cut := p.Ending.Cut()
	if len(cut) > 0 {
		log = log.WithField("cut_off", strings.Join(cut, "; "))
	}
	switch {
	case err != nil:
		log.WithError(err).Error("ended")
		return &Ended{ExitFailed, err}
	case len(cut) > 0:
		log.Warn("ended; not everything was finished")
		return &Ended{ExitCutOff, errCutOff}
	}
	log.Info("ended; everything was finished")
	return nil
}
