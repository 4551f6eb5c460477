package admin

import (
	"net"
	"strconv"
	"strings"
	"testing"
)

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestAddresses(t *testing.T) {
	if _, err := New(Config{Address: "nowhere"}); err == nil || !strings.Contains(err.Error(), "want host:port") {
		t.Errorf("New with a bad address: %v", err)
	}
	off, _, _ := serve(t, Config{})
	if off.Address() != "" {
		t.Errorf("with no address it listens on %s", off.Address())
	}

	// Another's port is an error, unless it is the default one.
	taken, _, _ := serve(t, Config{Address: "127.0.0.1:0"})
	s, err := New(Config{Address: taken.Address()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "--admin") {
		t.Errorf("Run on a taken port: %v, want an error that names the setting", err)
	}
}

// Of a taken port the next free one is taken, of some.
func TestNextPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	first := portOf(t, taken.Addr().String())
	l := nextFree(t.Context(), "127.0.0.1", first)
	if l == nil {
		t.Fatalf("none of the ports behind %d is free", first)
	}
	defer func() { _ = l.Close() }()
	if got := portOf(t, l.Addr().String()); got <= first || got >= first+nextPorts {
		t.Errorf("got port %d, want one of the %d behind %d", got, nextPorts-1, first)
	}
}

// On one desk each process gets one of ten ports, and the last ones none; who had
// some of them before does not matter.
func TestManyOnOneDesk(t *testing.T) {
	ports := make(map[int]bool)
	for range nextPorts + 1 {
		s, log, _ := serve(t, Config{Address: DefaultAddress})
		if s.Address() == "" {
			if !strings.Contains(log.String(), "taken") {
				t.Errorf("nobody is told that it can not be asked: %s", log)
			}
			continue
		}
		port := portOf(t, s.Address())
		if port < 7180 || port > 7189 || ports[port] {
			t.Errorf("it listens on port %d, want one from 7180 to 7189 of its own", port)
		}
		ports[port] = true
		if !strings.Contains(log.String(), s.Address()) {
			t.Errorf("the log does not say where it listens: %s", log)
		}
	}
	if len(ports) > nextPorts {
		t.Errorf("%d processes listen, want at most %d", len(ports), nextPorts)
	}
}
