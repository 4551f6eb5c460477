package process

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/motto123/minigate/pkg/grpcauth"
	"github.com/motto123/minigate/workers"
)

// ErrProduction is of settings that are for development only.
var ErrProduction = errors.New("refused by --production")

// checked is a configuration that knows which of its settings are for
// development only: one line each, which begins with the setting's name and says
// what to do. Any part of Config that has this method is asked.
type checked interface{ Insecure() []string }

// CheckGate says what of the settings a gate refuses.
func (c *Config) CheckGate([]string) error {
	return c.refuse(slices.Concat(c.insecure(), insecureOf(&c.Gate), c.exposed("gate-grpc", c.Gate.GRPC)))
}

// CheckWorkers says what of the settings, and of the names, workers refuse.
func (c *Config) CheckWorkers(names []string) error {
	all := c.insecure()
	if slices.Contains(names, "auth") || slices.Contains(names, "chat") {
		all = append(all, insecureDatabase(c.Database)...)
	}
	if slices.Contains(names, "auth") {
		all = slices.Concat(all, insecureOf(&c.Workers.Auth), c.exposed("auth-grpc", c.Workers.AuthGRPC))
	}
	if slices.Contains(names, "email") {
		all = append(all, c.Workers.InsecureEmail()...)
	}
	return errors.Join(workers.Check(names), c.refuse(all))
}

func (c *Config) refuse(insecure []string) error {
	if !c.Production {
		return nil
	}
	var all []error
	for _, line := range insecure {
		all = append(all, fmt.Errorf("%w: %s", ErrProduction, line))
	}
	return errors.Join(all...)
}

// insecureOf asks a part of the configuration, if it can be asked.
func insecureOf(part any) []string {
	if c, ok := part.(checked); ok {
		return c.Insecure()
	}
	return nil
}

// development is the password, and the service token, that compose.yaml has where
// nobody gives another one.
const development = "minigate-dev"

const known = "it has the password of compose.yaml, which is known to everybody; give your own"

// insecure is what all processes have.
func (c *Config) insecure() (all []string) {
	switch name, password, ok := credentials(c.RabbitMQ); {
	case !ok, password == "": // without any, guest is meant
		all = append(all, "rabbitmq: it has no password; name a user of your own and its password in the URL")
	case name == "guest" && password == "guest":
		all = append(all, "rabbitmq: user guest and password guest are known to everybody; name a user of your own")
	case password == development:
		all = append(all, "rabbitmq: "+known)
	}
	switch _, password, _ := credentials(c.Redis); password {
	case "":
		all = append(all, "redis: it has no password; set one in Redis, and here as redis://:PASSWORD@HOST:PORT/DB")
	case development:
		all = append(all, "redis: "+known)
	}
	for token := range strings.SplitSeq(c.GRPC.Tokens, ",") {
		if strings.TrimSpace(token) == development {
			all = append(all, "service-token: it is that of compose.yaml, which is known to everybody; give your own")
		}
	}
	return all
}

func insecureDatabase(address string) []string {
	if strings.HasPrefix(address, "sqlite:") {
		return nil // a file, which has its own rights
	}
	switch _, password, _ := credentials(address); password {
	case "":
		return []string{"database: it has no password; name a user of your own and its password in the URL"}
	case development:
		return []string{"database: " + known}
	}
	return nil
}

// credentials are the name and the password in a URL; false where it has none.
func credentials(address string) (name, password string, ok bool) {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return "", "", false
	}
	password, _ = u.User.Password()
	return u.User.Username(), password, true
}

// exposed refuses a gRPC server that other machines can reach while nobody has to
// prove who calls.
func (c *Config) exposed(setting, address string) []string {
	if !errors.Is(c.GRPC.Check(address), grpcauth.ErrOpen) {
		return nil
	}
	return []string{fmt.Sprintf("%s: other machines reach %s, and nobody has to prove who calls; set grpc-cert, grpc-key and grpc-ca, or service-token, or listen on a loopback address", setting, address)}
}
