package otlp

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/settings"
)

// Config says where spans go, and of how many traces.
type Config struct {
	// Endpoint is a collector that takes OTLP over gRPC: host:port or
	// http://host:port in plain text, https://host:port over TLS. Where it is empty,
	// nothing is traced.
	Endpoint string
	// Sample is the part of the traces that is kept, from 0 to 1.
	Sample float64

	// Service names the process among those that a trace leads through, Namespace the
	// installation, and Version what runs.
	Service, Namespace, Version string
	// System is what OpenTelemetry calls the broker, such as rabbitmq.
	System string
	// Ending, if set, may cut short how long Run waits for the collector at its end.
	Ending *parts.Ending
	// Log is told that spans are lost; logrus' standard logger where it is nil.
	Log logrus.FieldLogger
}

// Settings declares what of the configuration a person may set.
func (c *Config) Settings(s settings.Set) {
	s.Checked(&c.Endpoint, "trace-endpoint", "", "address", want, "collector that takes traces by OTLP over gRPC; nothing is traced where it is empty", check)
	s.Share(&c.Sample, "trace-sample", 0.01, "part of the requests that leave a trace")
}

const want = "host:port, http://host:port, or https://host:port with TLS"

var errEndpoint = errors.New("otlp: want " + want)

func check(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	_, _, err := parse(endpoint)
	return err
}

// parse returns where to connect to, and whether with TLS.
func parse(endpoint string) (address string, secure bool, err error) {
	if scheme, rest, ok := strings.Cut(endpoint, "://"); ok {
		u, err := url.Parse(endpoint)
		if err != nil || scheme != "http" && scheme != "https" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return "", false, fmt.Errorf("%w", errEndpoint)
		}
		endpoint, secure = strings.Trim(rest, "/"), scheme == "https"
	}
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil || strings.ContainsAny(host, "/ @") {
		return "", false, errEndpoint
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", false, errEndpoint
	}
	if host == "" {
		host = "localhost"
	}
	return net.JoinHostPort(host, port), secure, nil
}
