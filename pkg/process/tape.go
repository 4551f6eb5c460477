package process

import (
	"context"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/pkg/tape/stream"
	"github.com/motto123/minigate/pkg/worker"
)

// TapeConfig says what is recorded of what workers take and answer.
type TapeConfig struct {
	On   bool
	Size int // bytes that are kept
	Age  time.Duration
}

// taped are the workers that take requests; the others have nothing to record.
var taped = []string{"auth", "chat", "echo"}

// What is kept unless set: of an installation, in a stream of its broker, and of
// `minigate dev`, in its folder.
const (
	streamSize = 1 << 30
	folderSize = 64 << 20
)

func (c *TapeConfig) settings(s settings.Set, size int) {
	s = s.Group("Tape")
	s.Bool(&c.On, "tape", true, "record what workers take and answer, with passwords, codes and tokens masked")
	s.Bytes(&c.Size, "tape-size", size, 1<<20, 1<<40, "how much of it is kept; a stream that is there keeps the size that it was made with")
	s.Duration(&c.Age, "tape-age", 24*time.Hour, time.Minute, 365*24*time.Hour, "how long it is kept; the same holds for it")
}

// recordStream has the workers recorded in a stream of RabbitMQ.
func (p *process) recordStream() error {
	r, err := stream.NewRecorder(stream.Config{
		URL: p.RabbitMQ, Topology: p.topology, MaxBytes: int64(p.Tape.Size), MaxAge: p.Tape.Age, Log: p.log,
	}, p.Ending)
	if err != nil {
		return err
	}
	return p.record(r)
}

// recordFolder has them recorded in the folder of this process.
func (p *process) recordFolder() error {
	folder, err := tape.CreateFolder(tape.FolderConfig{
		Path: filepath.Join(p.Data, "tape"), MaxBytes: int64(p.DevTape.Size), MaxAge: p.DevTape.Age,
	})
	if err != nil {
		return err
	}
	p.Parts.Closing("the tape", folder)
	return p.record(tape.NewRecorder(tape.RecorderConfig{Store: folder, Ending: p.Ending, Log: p.log}))
}

// recorder is what workers record with.
type recorder interface {
	worker.Tape
	prometheus.Collector
	Run(context.Context) error
}

// record starts it. It ends after the workers, when all is kept.
func (p *process) record(r recorder) error {
	p.Worker.Tape = r
	p.Parts.Start("tape", r.Run)
	return p.Process.Admin.Measure(r)
}
