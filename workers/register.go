package workers

import (
	"net"
	"time"

	"github.com/motto123/minigate/pkg/discovery"
)

// Etcd says where the Auth service is registered, for who looks there for it; the
// zero value is nowhere.
type Etcd struct {
	Servers   []string      // host:port
	Lease     time.Duration // that a replica leaves behind where it is killed
	Advertise string        // host:port; empty for where it listens
}

// registration is of a replica that listens on an address; nil for none.
func (p *Process) registration(service string, listens net.Addr) (*discovery.Registration, error) {
	if len(p.Etcd.Servers) == 0 {
		return nil, nil
	}
	address := p.Etcd.Advertise
	if address == "" {
		address = listens.String()
	}
	return discovery.NewRegistration(discovery.RegistrationConfig{
		Etcd: p.Etcd.Servers, Key: p.Worker.Topology.Prefix() + "/" + service, Address: address, Lease: p.Etcd.Lease,
		Log: p.Log.WithField("service", service),
	})
}
