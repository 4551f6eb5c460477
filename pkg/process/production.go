package process

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/motto123/minigate/pkg/discovery"
	"github.com/motto123/minigate/pkg/grpcauth"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/workers"
)

// ErrProduction is of settings that are for development only.
var ErrProduction = errors.New("refused by --production")

// CheckGate says what of the settings a gate refuses. Like the others it names all
// that is wrong, a line each: the setting, and what to do.
func (c *Config) CheckGate([]string) error {
	return c.refuse(slices.Concat(c.insecure(), c.exposed("gate-grpc", c.Gate.GRPC), c.unproven()))
}

// CheckWorkers says what of the settings, and of the names, workers refuse.
func (c *Config) CheckWorkers(names []string) error {
	all := c.insecure()
	if slices.Contains(names, "auth") || slices.Contains(names, "chat") {
		all = append(all, insecureDatabase(c.Database)...)
	}
	if slices.Contains(names, "auth") {
		all = append(all, c.exposed("auth-grpc", c.Workers.AuthGRPC)...)
	}
	if slices.Contains(names, "chat") {
		all = append(all, c.unproven()...)
	}
	if slices.Contains(names, "email") {
		all = append(all, c.Workers.InsecureEmail()...)
	}
	return errors.Join(workers.Check(names), c.refuse(all))
}

// CheckInit says what of the settings minigate db init refuses.
func (c *Config) CheckInit([]string) error { return c.refuse(insecureDatabase(c.Database)) }

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
	return slices.Concat(all, c.insecureTokens(), c.Admin.Insecure())
}

// leastToken is how long a service token has to be, in bytes: whoever reaches a
// service may guess as often as he likes.
const leastToken = 32

func (c *Config) insecureTokens() (all []string) {
	if strings.TrimSpace(c.GRPC.Tokens) == "" {
		return nil // whether one is needed says exposed
	}
	for i, token := range strings.Split(c.GRPC.Tokens, ",") {
		switch token = strings.TrimSpace(token); {
		case token == development:
			all = append(all, "service-token: it is that of compose.yaml, which is known to everybody; give your own")
		case len(token) < leastToken:
			all = append(all, fmt.Sprintf("service-token: token %d has %d bytes and could be guessed; give %d or more at random, as openssl rand -hex 32 prints them", i+1, len(token), leastToken))
		}
	}
	return all
}

func insecureDatabase(address string) (all []string) {
	if strings.HasPrefix(address, "sqlite:") {
		return nil // a file, which has its own rights
	}
	name, password := sqldb.Credentials(address)
	if name == "root" {
		all = append(all, "database: user root may do anything on the whole server; name a user who has rights on this database only")
	}
	switch password {
	case "":
		all = append(all, "database: it has no password; name a user of your own and its password in the URL")
	case development:
		all = append(all, "database: "+known)
	}
	return all
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

// unproven refuses calls of the auth service over a network, while neither side
// proves who it is: tokens of users would go to whoever answers there.
func (c *Config) unproven() []string {
	g := &c.GRPC
	if g.Tokens != "" || g.Files.Cert != "" || g.Files.CA != "" {
		return nil
	}
	at := discovery.Addresses(c.AuthAddress)
	if len(at) > 0 && !slices.ContainsFunc(at, func(a string) bool { return !settings.Loopback(a) }) {
		return nil
	}
	return []string{fmt.Sprintf("auth-address: %s is called in plain text, and nobody has to prove who answers; set grpc-cert, grpc-key and grpc-ca, or service-token", c.AuthAddress)}
}
