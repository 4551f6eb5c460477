package events

import (
	"github.com/ThreeDotsLabs/watermill"
	"github.com/sirupsen/logrus"
)

// Logger gives watermill's log to logrus, one level lower than watermill meant:
// what it calls information is of use only to whoever looks for a fault in it.
type Logger struct{ log logrus.Ext1FieldLogger }

var _ watermill.LoggerAdapter = Logger{}

// NewLogger adapts log for any part of watermill.
func NewLogger(log logrus.Ext1FieldLogger) Logger { return Logger{log} }

// Error is a warning: watermill reports here what it goes on to mend, such as a
// lost connection. What can not be mended is an error that Run returns.
func (l Logger) Error(text string, err error, fields watermill.LogFields) {
	l.with(fields).WithError(err).Warn("watermill: " + text)
}

// Info is debug.
func (l Logger) Info(text string, fields watermill.LogFields) {
	l.with(fields).Debug("watermill: " + text)
}

// Debug is trace.
func (l Logger) Debug(text string, fields watermill.LogFields) {
	l.with(fields).Trace("watermill: " + text)
}

// Trace is trace.
func (l Logger) Trace(text string, fields watermill.LogFields) {
	l.with(fields).Trace("watermill: " + text)
}

// With returns a logger that adds fields to each line.
func (l Logger) With(fields watermill.LogFields) watermill.LoggerAdapter {
	return Logger{l.with(fields)}
}

func (l Logger) with(fields watermill.LogFields) *logrus.Entry {
	return l.log.WithFields(logrus.Fields(fields))
}
