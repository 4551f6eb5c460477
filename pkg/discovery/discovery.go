// Package discovery finds the replicas of a gRPC service, in a list, in DNS or in
// etcd, and connects to all of them; a replica that is to be found in etcd keeps
// itself registered there.
//
// It refuses to know any service, and to ask replicas how they are: one that ends
// says so with a GOAWAY, one that is gone fails its keepalive, and one that can not
// answer says UNAVAILABLE, upon which the call is tried at another. A stream of
// health to each replica would tell nothing that these do not.
package discovery

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Config says how replicas are called.
type Config struct {
	// Options are for the calls, as those that secure them; without such ones they
	// are plain text. Where they name no server, a replica's certificate has its host
	// in a list or in etcd, and the name that was looked up in DNS.
	Options []grpc.DialOption
	// Repeatable are gRPC services (package.Service) whose calls may be done twice:
	// they are tried again, at another replica, when one says UNAVAILABLE.
	Repeatable []string
	// Refresh is how often DNS is asked, 5 s where it is 0, and how often the list
	// in etcd is read anew, 30 s; between, changes come by themselves.
	Refresh time.Duration
	// Log takes what becomes of etcd and DNS; nil is nowhere.
	Log logrus.FieldLogger
}

const (
	lookupTimeout  = 5 * time.Second // of one question to DNS or etcd
	leaveTimeout   = 2 * time.Second
	lookupInterval = time.Second // between two questions that failures ask for
	maxReplicas    = 1024        // of a service; more are left out
	firstWait      = 100 * time.Millisecond
	longestWait    = 2 * time.Second
)

// Dial returns a connection to all replicas that target finds, which takes them in
// turn; it connects with the first call. See Want for what target may be.
//
// A call waits for a replica until its context ends, also where there is none now:
// a service that is just being restarted, or comes later, is worth the wait, and
// the callers' deadlines are short.
func Dial(target string, cfg Config) (*grpc.ClientConn, error) {
	t, err := parse(target)
	if err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = silent()
	}
	conn, err := grpc.NewClient(scheme+":///"+url.PathEscape(t.name()), append([]grpc.DialOption{
		grpc.WithResolvers(builder{target: t, cfg: cfg}),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // unless Options say otherwise
		grpc.WithDefaultServiceConfig(serviceConfig(cfg.Repeatable)),
		grpc.WithConnectParams(connectParams),
		// Without streams, too: so that a replica that is gone without a word is known
		// before the next call waits for it.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithNoProxy(),
	}, cfg.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("discovery: %q: %w", target, err)
	}
	return conn, nil
}

// ServerOption makes a gRPC server take the keepalives of Dial, which it would
// otherwise refuse as too many.
func ServerOption() grpc.ServerOption {
	return grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true})
}

// connectParams try again soon: gRPC's own would wait two minutes for what was
// away for long.
var connectParams = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: firstWait, Multiplier: 1.6, Jitter: 0.2, MaxDelay: longestWait},
	MinConnectTimeout: 3 * time.Second,
}

// serviceConfig is gRPC's JSON.
func serviceConfig(repeatable []string) string {
	methods := []string{`{"name": [{}], "waitForReady": true}`}
	for _, service := range repeatable {
		methods = append(methods, fmt.Sprintf(`{
			"name": [{"service": %q}], "waitForReady": true,
			"retryPolicy": {
				"maxAttempts": 3, "initialBackoff": "0.02s", "maxBackoff": "0.2s", "backoffMultiplier": 2,
				"retryableStatusCodes": ["UNAVAILABLE"]
			}
		}`, service))
	}
	return `{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [` + strings.Join(methods, ",") + `]}`
}

// Want says what Dial and Check take.
const Want = "host:port,host:port…, or dns:///name:port, or etcd://host:port,host:port…/key"

// Check returns an error where target is none.
func Check(target string) error {
	_, err := parse(target)
	return err
}

// Addresses are the host:port that target names: those of a list, or what is looked
// up in DNS. There are none where it is in etcd who is called, or target is none.
func Addresses(target string) []string {
	t, err := parse(target)
	switch {
	case err != nil:
		return nil
	case t.host != "":
		return []string{net.JoinHostPort(t.host, t.port)}
	}
	return t.list
}

// target is where replicas are looked for. One of list, host and key is set.
type target struct {
	list []string // host:port each

	server     string // host:port of the DNS server, or empty
	host, port string // the name to be looked up there

	etcd []string // host:port each
	key  string   // what the keys of the replicas begin with, without the last slash
}

var errTarget = errors.New("discovery: want " + Want)

func parse(text string) (target, error) {
	scheme, rest, has := strings.Cut(text, "://")
	if !has {
		list, err := addresses(text)
		return target{list: list}, err
	}
	host, path, _ := strings.Cut(rest, "/")
	switch scheme {
	case "dns":
		name, port, err := net.SplitHostPort(path)
		if err != nil || name == "" || checkAddress(path) != nil || strings.ContainsAny(path, "/ ") {
			return target{}, bad(text)
		}
		if host != "" && !strings.Contains(host, ":") {
			host = net.JoinHostPort(host, "53")
		}
		if host != "" && checkAddress(host) != nil {
			return target{}, bad(text)
		}
		return target{server: host, host: name, port: port}, nil
	case "etcd":
		list, err := addresses(host)
		key := strings.Trim(path, "/")
		if err != nil || key == "" {
			return target{}, bad(text)
		}
		return target{etcd: list, key: key}, nil
	}
	return target{}, bad(text)
}

func bad(text string) error { return fmt.Errorf("%w, got %q", errTarget, text) }

// addresses reads host:port,host:port…, where no host is this one.
func addresses(text string) ([]string, error) {
	var list []string
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if strings.HasPrefix(part, ":") {
			part = "localhost" + part
		}
		if checkAddress(part) != nil {
			return nil, bad(text)
		}
		if !slices.Contains(list, part) {
			list = append(list, part)
		}
	}
	return list, nil
}

// checkAddress wants a host and a port that can be called.
func checkAddress(text string) error {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" || strings.ContainsAny(host, "/ ,") {
		return errTarget
	}
	return nil
}

// name is what gRPC and its errors call the target.
func (t target) name() string {
	switch {
	case t.key != "":
		return t.key
	case t.host != "":
		return net.JoinHostPort(t.host, t.port)
	}
	return strings.Join(t.list, ",")
}
