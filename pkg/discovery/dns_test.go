package discovery_test

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/motto123/minigate/pkg/discovery"
)

// names is a DNS server that knows one name, auth.test.
type names struct {
	conn net.PacketConn

	mu    sync.Mutex
	known []string
	code  dnsmessage.RCode
	asked int
}

func newNames(t testing.TB, known ...string) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{conn: conn, known: known}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if out, err := n.answer(buffer[:size]); err == nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return n
}

func (n *names) target(port string) string {
	return "dns://" + n.conn.LocalAddr().String() + "/auth.test.:" + port
}

func (n *names) set(code dnsmessage.RCode, known ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.code, n.known = code, known
}

func (n *names) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

func (n *names) answer(in []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(in); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	m.Response, m.RCode, m.Additionals = true, n.code, nil
	if m.Questions[0].Name.String() != "auth.test." {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, known := range n.known {
		ip, h := netip.MustParseAddr(known), dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET}
		switch {
		case m.RCode != dnsmessage.RCodeSuccess:
		case ip.Is4() && m.Questions[0].Type == dnsmessage.TypeA:
			h.Type = dnsmessage.TypeA
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: ip.As4()}})
		case ip.Is6() && m.Questions[0].Type == dnsmessage.TypeAAAA:
			h.Type = dnsmessage.TypeAAAA
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	return m.Pack()
}

// replicas serves on one port of two addresses.
func replicas(t *testing.T) (a, b, port string, stopA func()) {
	t.Helper()
	for range 20 { // until the port is free at both
		a, stopA = serve(t, "127.0.0.2:0")
		_, port, _ = net.SplitHostPort(a)
		l, err := net.Listen("tcp", "127.0.0.3:"+port)
		if err != nil {
			stopA()
			continue
		}
		_ = l.Close()
		b, _ = serve(t, "127.0.0.3:"+port)
		return a, b, port, stopA
	}
	t.Fatal("no port is free at two addresses")
	return "", "", "", nil
}

// TestDNSScales: a replica that is added gets calls, and one that is taken away
// gets none, without a failure.
func TestDNSScales(t *testing.T) {
	a, b, port, stopA := replicas(t)
	n := newNames(t, "127.0.0.2")
	j := newJournal(t)
	conn := dial(t, n.target(port), discovery.Config{Repeatable: repeatable.Repeatable, Refresh: 50 * time.Millisecond, Log: j})
	shared(t, conn, a)
	n.set(dnsmessage.RCodeSuccess, "127.0.0.2", "127.0.0.3")
	shared(t, conn, a, b)
	n.set(dnsmessage.RCodeSuccess, "127.0.0.3")
	shared(t, conn, b)
	n.set(dnsmessage.RCodeSuccess, "127.0.0.3", "127.0.0.2", "::1") // the second address of one of them
	shared(t, conn, a, b)
	asked := n.count()
	eventually(t, "DNS is asked again", func() bool { return n.count() > asked+4 })
	if j.count("::1") > 0 {
		t.Error("one replica is there twice")
	}
	stopA()
	n.set(dnsmessage.RCodeSuccess, "127.0.0.3")
	for range 50 {
		if who := answer(t, conn); who != b {
			t.Errorf("answered by %s", who)
		}
	}
}

// TestDNSIsAskedWhenAReplicaFails: long before it is time to.
func TestDNSIsAskedWhenAReplicaFails(t *testing.T) {
	a, b, port, stopA := replicas(t)
	n := newNames(t, "127.0.0.2")
	conn := dial(t, n.target(port), discovery.Config{Repeatable: repeatable.Repeatable, Refresh: time.Hour})
	shared(t, conn, a)
	n.set(dnsmessage.RCodeSuccess, "127.0.0.3")
	stopA()
	if who := answer(t, conn); who != b {
		t.Errorf("answered by %s", who)
	}
}

// TestDNSAway: what is known stays, and is asked for again.
func TestDNSAway(t *testing.T) {
	a, b, port, _ := replicas(t)
	n := newNames(t, "127.0.0.2")
	n.set(dnsmessage.RCodeServerFailure)
	j := newJournal(t)
	conn := dial(t, n.target(port), discovery.Config{Repeatable: repeatable.Repeatable, Refresh: 20 * time.Millisecond, Log: j})
	conn.Connect()
	j.wait("can not be looked for")
	n.set(dnsmessage.RCodeSuccess, "127.0.0.2")
	shared(t, conn, a)
	j.wait("can be looked for again")
	n.set(dnsmessage.RCodeNameError)
	asked := n.count()
	eventually(t, "DNS is asked in vain", func() bool { return n.count() > asked+6 })
	shared(t, conn, a)
	n.set(dnsmessage.RCodeSuccess, "127.0.0.3")
	shared(t, conn, b)
	if n := j.count("can not be looked for"); n != 2 {
		t.Errorf("%d warnings of two outages", n)
	}
}
