package stream

import (
	"context"
	"sync"

	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/tape"
)

// Recorder is a tape.Recorder that writes into the stream of an installation, for
// worker.Config.
type Recorder struct {
	*tape.Recorder
	store *Store
}

// NewRecorder checks the configuration; Run connects. ending, if it is not nil, may cut
// short what Run waits for at its end.
func NewRecorder(cfg Config, ending *parts.Ending) (*Recorder, error) {
	store, err := NewStore(cfg)
	if err != nil {
		return nil, err
	}
	return &Recorder{
		Recorder: tape.NewRecorder(tape.RecorderConfig{Store: store, Ending: ending, Log: store.cfg.Log}),
		store:    store,
	}, nil
}

// Run records until ctx ends, and then what is still there, for up to two seconds. The
// workers end before.
func (r *Recorder) Run(ctx context.Context) error {
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	var store sync.WaitGroup
	store.Go(func() { _ = r.store.Run(writing) }) // which tries again, whatever happens
	err := r.Recorder.Run(ctx)
	stop()
	store.Wait()
	return err
}
