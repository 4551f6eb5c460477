package workers

import (
	"github.com/motto123/minigate/pkg/worker"
)

// StartOwn starts a service that is not one of Names, and events behind it. define
// declares its routes, and may subscribe to events.
func (p *Process) StartOwn(name string, define func(*worker.Worker) error) error {
	w := worker.New(name, p.Worker)
	if err := define(w); err != nil {
		return err
	}
	if err := p.observe(w); err != nil {
		return err
	}
	p.Parts.Start("events", p.Events.Run) // now that it has subscribed
	p.Parts.Start(name, w.Run)
	return nil
}
