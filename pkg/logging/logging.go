// Package logging sets logrus up: to the screen, and to a file that is rotated
// each day. An error that carries a stack (github.com/pkg/errors) is logged with
// it.
//
// It refuses to be a logger itself: whoever logs takes a logrus.FieldLogger.
package logging

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/term"
	"gopkg.in/natefinch/lumberjack.v2"
)

// Config says where the log goes.
type Config struct {
	// Level is one of logrus' names: error, warn, info, debug.
	Level string
	// Format is "text" or "json"; a file is always JSON.
	Format string
	// File is the path of a file, or empty for none. Each day's file is renamed
	// with its time, and kept for Days days, at most Files of them; 14 and 14
	// where they are 0. A file over 100 MB is rotated before its day is over.
	File  string
	Days  int
	Files int
	// Screen takes the log for people; os.Stderr where it is nil.
	Screen io.Writer

	now func() time.Time // of tests
}

// maxMegabytes is when a file is rotated before its day is over.
const maxMegabytes = 100

// Log is a logger and the file behind it.
type Log struct {
	*logrus.Logger
	file *lumberjack.Logger
	now  func() time.Time

	mu  sync.Mutex
	day string // of what stands in the file
}

// New returns a logger that writes at once. Run rotates its file, and Close
// closes it.
func New(cfg Config) (*Log, error) {
	level, err := logrus.ParseLevel(cfg.Level)
	if err != nil {
		return nil, fmt.Errorf("log level: got %q, want one of error, warn, info, debug", cfg.Level)
	}
	if cfg.Screen == nil {
		cfg.Screen = os.Stderr
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	l := &Log{Logger: logrus.New(), now: cfg.now}
	l.SetLevel(level)
	l.SetOutput(cfg.Screen)
	switch cfg.Format {
	case "json":
		l.SetFormatter(stacks{jsonFormat()})
	case "", "text":
		l.SetFormatter(stacks{&logrus.TextFormatter{
			FullTimestamp: true, TimestampFormat: "15:04:05.000", DisableColors: !isTerminal(cfg.Screen), PadLevelText: true,
		}})
	default:
		return nil, fmt.Errorf("log format: got %q, want text or json", cfg.Format)
	}
	if cfg.File == "" {
		return l, nil
	}
	if err := l.open(cfg); err != nil {
		return nil, err
	}
	l.AddHook(&fileHook{log: l, formatter: stacks{jsonFormat()}})
	return l, nil
}

func jsonFormat() logrus.Formatter { return &logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano} }

// open prepares the file; what is left of an earlier day is rotated away first.
func (l *Log) open(cfg Config) error {
	if err := os.MkdirAll(filepath.Dir(cfg.File), 0o750); err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	// A file that can not be written is found now, not at the first line.
	f, err := os.OpenFile(cfg.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	info, err := f.Stat()
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	l.file = &lumberjack.Logger{
		Filename: cfg.File, MaxSize: maxMegabytes, MaxAge: orDefault(cfg.Days, 14), MaxBackups: orDefault(cfg.Files, 14), LocalTime: true,
	}
	l.day = day(l.now())
	if info.Size() > 0 {
		l.day = day(info.ModTime())
	}
	return l.rotate()
}

func orDefault(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

func day(t time.Time) string { return t.Local().Format(time.DateOnly) }

// rotate begins a new file when the day of the old one is over.
func (l *Log) rotate() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	today := day(l.now())
	if today == l.day {
		return nil
	}
	if err := l.file.Rotate(); err != nil {
		return fmt.Errorf("rotate the log file: %w", err)
	}
	l.day = today
	return nil
}

// rotateEvery is how late after midnight the file may be rotated.
const rotateEvery = 10 * time.Second

// Run rotates the file until ctx ends.
func (l *Log) Run(ctx context.Context) error {
	if l.file == nil {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(rotateEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := l.rotate(); err != nil {
				l.WithError(err).Error("the log goes on in the old file")
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Close closes the file. The screen stays usable.
func (l *Log) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// isTerminal says whether colours have a reader.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""
}

// fileHook writes each entry to the file, too.
type fileHook struct {
	log       *Log
	formatter logrus.Formatter
}

// Levels are all.
func (h *fileHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire writes one entry. logrus prints what it returns to the screen.
func (h *fileHook) Fire(e *logrus.Entry) error {
	b, err := h.formatter.Format(e)
	if err != nil {
		return fmt.Errorf("format a line: %w", err)
	}
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	if _, err := h.log.file.Write(b); err != nil {
		return fmt.Errorf("write the log file: %w", err)
	}
	return nil
}
