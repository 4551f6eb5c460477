package worker

import (
	"sync"

	"github.com/motto123/minigate/pkg/bus"
)

// faultyBus is a bus whose publishers answer as the test says.
type faultyBus struct {
	bus.Bus

	mu   sync.Mutex
	err  error         // of all publishings of replies; nil lets them through
	held chan struct{} // nil, or closed when confirms may come
}

func (b *faultyBus) fail(err error) {
	b.mu.Lock()
	b.err = err
	b.mu.Unlock()
}

// hold keeps all confirms back until release is called.
func (b *faultyBus) hold() (release func()) {
	held := make(chan struct{})
	b.mu.Lock()
	b.err, b.held = nil, held
	b.mu.Unlock()
	return sync.OnceFunc(func() {
		b.mu.Lock()
		b.held = nil
		b.mu.Unlock()
		close(held)
	})
}

func (b *faultyBus) Publisher() (bus.Publisher, error) {
	p, err := b.Bus.Publisher()
	if err != nil {
		return nil, err
	}
	return &faultyPublisher{Publisher: p, bus: b}, nil
}

type faultyPublisher struct {
	bus.Publisher
	bus     *faultyBus
	waiting sync.WaitGroup
}

func (p *faultyPublisher) Publish(m bus.Message, done func(error)) {
	p.bus.mu.Lock()
	err, held := p.bus.err, p.bus.held
	p.bus.mu.Unlock()
	if held != nil {
		p.waiting.Add(1) // before Close, which the confirm may come after
		p.Publisher.Publish(m, func(err error) {
			go func() {
				defer p.waiting.Done()
				<-held
				done(err)
			}()
		})
		return
	}
	if err != nil {
		done(err)
		return
	}
	p.Publisher.Publish(m, done)
}

func (p *faultyPublisher) Close() error {
	p.waiting.Wait()
	return p.Publisher.Close()
}
