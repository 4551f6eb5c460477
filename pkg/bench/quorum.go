package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/worker"
)

const (
	quorumName  = "quorum"
	quorumRoute = "quorum.echo"
)

// serveQuorum is an echo worker whose queue is a quorum queue, which no setting
// of the shipped one asks for.
func serveQuorum(ctx context.Context, url, prefix string) (err error) {
	topology := bus.NewTopology(prefix)
	b, err := rabbit.Open(rabbit.Config{URL: url, Topology: topology, Name: "minigate bench"})
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	log := logrus.New()
	log.SetLevel(logrus.WarnLevel)
	w := worker.New(quorumName, worker.Config{Bus: b, Topology: topology, Log: log, Quorum: true})
	worker.HandleRaw(w, quorumRoute, func(_ context.Context, in worker.Raw) (worker.Raw, error) { return in, nil }, worker.Public())
	return w.Run(ctx)
}
