package settings

import (
	"errors"
	"strings"
	"testing"
)

// What Kubernetes says of services that are called as this project is no mistake in
// the settings.
func TestServicesOfKubernetesAreNoSettings(t *testing.T) {
	_, s := declare()
	var environ []string
	for _, service := range []string{"MINIGATE", "MINIGATE_GATE", "MINIGATE_AUTH_GRPC_2"} {
		environ = append(environ,
			service+"_SERVICE_HOST=10.96.0.7",
			service+"_SERVICE_PORT=7080", service+"_SERVICE_PORT_WEBSOCKET=7080", service+"_SERVICE_PORT_GRPC_TLS=7101",
			service+"_PORT=tcp://10.96.0.7:7080",
			service+"_PORT_7080_TCP=tcp://10.96.0.7:7080", service+"_PORT_7080_TCP_PROTO=tcp",
			service+"_PORT_7080_TCP_PORT=7080", service+"_PORT_7080_TCP_ADDR=10.96.0.7",
			service+"_PORT_53_UDP=udp://10.96.0.7:53", service+"_PORT_53_UDP_ADDR=10.96.0.7",
			service+"_PORT_9_SCTP_PROTO=sctp",
		)
	}
	if _, err := Apply(s.FlagSet, "", environ, nil); err != nil {
		t.Error(err)
	}
}

// A setting that is called so is one, and nothing else that is no setting is let
// through.
func TestWhatLooksLikeAServiceOfKubernetes(t *testing.T) {
	_, s := declare()
	var port, host string
	s.StringVar(&port, "admin-port", "", "where")
	s.StringVar(&host, "smtp-service-host", "", "who")
	sources, err := Apply(s.FlagSet, "", []string{"MINIGATE_ADMIN_PORT=tcp://a:1", "MINIGATE_SMTP_SERVICE_HOST=mail"}, nil)
	if err != nil || port != "tcp://a:1" || host != "mail" || sources["admin-port"].Kind != "environment" {
		t.Errorf("got %q and %q from %v; %v", port, host, sources, err)
	}
	for _, pair := range []string{
		"MINIGATE_GATE_PORT=7080", "MINIGATE_GATE_PORTS=tcp://a:1", "MINIGATE_SERVICE_TOKN=x", "MINIGATE_PORT_X_TCP=tcp://a:1",
		"MINIGATE_PORT_7080_TCP_ADDRESS=a", "MINIGATE_SERVICE_HOSTS=a", "MINIGATE_PORT=", "MINIGATE_ROLLOUTS=1",
	} {
		_, s := declare()
		_, err := Apply(s.FlagSet, "", []string{pair}, nil)
		if name, _, _ := strings.Cut(pair, "="); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want that it is unknown", pair, err)
		}
	}
}

// What deploy/rollout.sh and .ci read ends no command.
func TestVariablesOfTheProjectsScriptsAreNoSettings(t *testing.T) {
	_, s := declare()
	if _, err := Apply(s.FlagSet, "", []string{"MINIGATE_ROLLOUT_WAIT=60", "MINIGATE_CI_IMAGES=x"}, nil); err != nil {
		t.Error(err)
	}
}
