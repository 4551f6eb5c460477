package process

import (
	"slices"

	"google.golang.org/grpc"

	"github.com/motto123/minigate/pkg/discovery"
	"github.com/motto123/minigate/pkg/grpcauth"
)

// secure starts what secures gRPC, and returns the options of who calls the Auth
// service. Servers and the callers of gates have theirs then.
func (p *process) secure(names []string, withGate bool) ([]grpc.DialOption, error) {
	cfg := p.Config.GRPC
	cfg.Log = p.log
	guard, err := grpcauth.New(cfg)
	if err != nil {
		return nil, err
	}
	var served []string
	if withGate {
		served = append(served, p.Gate.GRPC)
	}
	if slices.Contains(names, "auth") {
		served = append(served, p.AuthGRPC)
	}
	if len(served) > 0 {
		secured, err := guard.ServerOptions()
		if err != nil {
			return nil, err
		}
		p.Process.GRPC = append(p.tracer.ServerOptions(), secured...) // refusals know the request, too
	}
	for _, address := range served {
		if err := cfg.Check(address); err != nil {
			p.log.Warn(err) // with --production it would not have started
		}
	}
	p.Gate.GRPCOptions = append(p.Gate.GRPCOptions, p.Process.GRPC...)
	p.Process.GRPC = append(p.Process.GRPC, discovery.ServerOption())
	calls := append(p.tracer.DialOptions(), guard.DialOptions()...)
	p.Worker.GateOptions = calls
	p.Parts.Start("the certificates of gRPC", guard.Run)
	return calls, nil
}
