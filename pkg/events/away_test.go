package events

import (
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

// A broker that is away for long is told of in one line, and not each time that it is
// looked for.
func TestAnOutageIsOneWarning(t *testing.T) {
	c := config(t, rabbitURL(t))
	c.URL = "amqp://guest:guest@127.0.0.1:1/"
	logger, log := newLog(t)
	logger.SetLevel(logrus.DebugLevel)
	e, err := New(c, logger)
	if err != nil {
		t.Fatal(err)
	}
	run(t, e)
	said := ""
	for range 4 {
		said += log.Await(t, "no connection to the broker")
	}
	if n := strings.Count(said, "level=warning"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, said)
	}
}
