// Package grpcauth secures gRPC between services: by certificates that both sides
// show each other, by a token that all services know, or by both. A Guard has the
// options of servers and of callers, so that the two sides fit, and servers refuse
// who does not show what they ask for, with UNAUTHENTICATED and a line in the log.
//
// It refuses to know users: who a client of a gate is, is told by the Auth service.
// And it knows no service: whoever may call one may call all that a server has.
package grpcauth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/sirupsen/logrus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/certificates"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/tracing"
)

// Config says what services show each other. All that is set is asked for: with
// authorities and tokens, a caller needs both. The zero Config is plain text and
// lets everybody call, which is for one machine.
type Config struct {
	// Files are the certificate of this process, which it shows as server and as
	// caller, and the authorities of all others'. With a certificate, servers speak
	// TLS; with authorities too, callers must have a certificate of theirs. Callers
	// speak TLS with either, and take the system's authorities where there are none.
	Files certificates.Config
	// ServerName is what is in the certificates of all servers; where it is empty, a
	// server's must have the host by which it is called.
	ServerName string
	// Names are those of which a caller's certificate must have one, as a DNS name
	// or URI, with commas between; any will do where it is empty.
	Names string
	// Tokens are those that servers take, with commas between; callers show the
	// first. A new one is made known as the second, then put first, and then the
	// old one is left out.
	Tokens string
	// Log gets refusals, and what happens to the files; logrus' standard logger
	// where it is nil.
	Log logrus.FieldLogger
}

// Settings declares the settings.
func (c *Config) Settings(s settings.Set) {
	s.Text(&c.Files.Cert, "grpc-cert", "", "PEM file with the certificate that this process shows other services, as server and as caller; read again when it is renewed")
	s.Text(&c.Files.Key, "grpc-key", "", "PEM file with the key of grpc-cert")
	s.Text(&c.Files.CA, "grpc-ca", "", "PEM file with the authorities of all services' certificates; with it, whoever calls needs one")
	s.Text(&c.ServerName, "grpc-server-name", "", "name in the certificates of the services that are called; where empty, the host by which each is called")
	s.Text(&c.Names, "grpc-names", "", "names with commas between, of which a caller's certificate must have one; where empty, any will do")
	s.Secret(&c.Tokens, "service-token", "", "what services show each other, besides certificates if there are any; of several with commas between, each is taken and the first is shown")
}

// Check says what is wrong with serving at host:port: ErrOpen, where it is not on
// the loopback interface and callers need not show anything. It reads no file.
func (c *Config) Check(address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("grpc: %w", err)
	}
	if c.mutual() || c.Tokens != "" || settings.Loopback(address) {
		return nil
	}
	return fmt.Errorf("%s: %w", address, ErrOpen)
}

// mutual says whether callers need a certificate.
func (c *Config) mutual() bool { return c.Files.Cert != "" && c.Files.CA != "" }

// ErrOpen says that everybody who reaches an address could call there.
var ErrOpen = errors.New("gRPC is open to everybody: want grpc-ca with grpc-cert, or service-token")

// Guard secures the servers and callers of a process. Its methods are safe to call
// at once.
type Guard struct {
	cfg      Config
	files    *certificates.Files // nil for plain text
	names    []string
	tokens   *tokens // nil for none
	refusals *refusals
}

// New reads the files, and starts nothing.
func New(cfg Config) (*Guard, error) {
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	g := &Guard{cfg: cfg, names: list(cfg.Names), refusals: newRefusals(cfg.Log)}
	var err error
	if g.tokens, err = newTokens(cfg.Tokens); err != nil {
		return nil, err
	}
	if cfg.Files.Cert != "" || cfg.Files.Key != "" || cfg.Files.CA != "" {
		cfg.Files.Log = cfg.Log
		if g.files, err = certificates.New(cfg.Files); err != nil {
			return nil, fmt.Errorf("grpc: %w", err)
		}
	}
	if len(g.names) > 0 && cfg.Files.CA == "" {
		return nil, errors.New("grpc: grpc-names are for callers whose certificates are checked: want grpc-ca")
	}
	return g, nil
}

func list(text string) (parts []string) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

// Run follows the certificates' files until ctx ends.
func (g *Guard) Run(ctx context.Context) error {
	if g.files != nil {
		return g.files.Run(ctx)
	}
	<-ctx.Done()
	return nil
}

// ServerOptions are those of a server. It is an error to have authorities and no
// certificate: that is enough for a caller only.
func (g *Guard) ServerOptions() ([]grpc.ServerOption, error) {
	var options []grpc.ServerOption
	if g.files != nil {
		if g.cfg.Files.Cert == "" {
			return nil, errors.New("grpc: a server with grpc-ca wants grpc-cert and grpc-key, too")
		}
		options = append(options, grpc.Creds(g.newTransport()))
	}
	if g.cfg.mutual() || g.tokens != nil {
		// Not a tap, although it is asked before a message is read: of a stream that a
		// tap refuses gRPC keeps the timer, for as long as the caller has said.
		options = append(options,
			grpc.ChainUnaryInterceptor(func(ctx context.Context, in any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				if err := g.admit(ctx, info.FullMethod); err != nil {
					return nil, err
				}
				return next(ctx, in)
			}),
			grpc.ChainStreamInterceptor(func(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
				if err := g.admit(stream.Context(), info.FullMethod); err != nil {
					return err
				}
				return next(service, stream)
			}))
	}
	return options, nil
}

// DialOptions are those of a caller; they come after others that would say the
// opposite.
func (g *Guard) DialOptions() []grpc.DialOption {
	var options []grpc.DialOption
	if g.files != nil {
		options = append(options, grpc.WithTransportCredentials(g.newTransport()))
	}
	if g.tokens != nil {
		options = append(options, grpc.WithPerRPCCredentials(g.tokens))
	}
	return options
}

func (g *Guard) newTransport() credentials.TransportCredentials {
	server := &tls.Config{}
	if g.cfg.mutual() {
		// Certificates are looked at in ServerHandshake, and refused in the call:
		// what TLS itself refuses looks like a server that is not there.
		server.ClientAuth = tls.RequestClientCert
	}
	return &transport{g, credentials.NewTLS(g.serverConfig(server))}
}

func (g *Guard) serverConfig(base *tls.Config) *tls.Config {
	if g.cfg.Files.Cert == "" {
		return base // of a caller, who never serves
	}
	return g.files.Server(base)
}

// admit says whether who makes a call may.
func (g *Guard) admit(ctx context.Context, method string) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		p = new(peer.Peer)
	}
	var reason error
	if g.cfg.mutual() {
		info, ok := p.AuthInfo.(caller)
		if reason = info.refused; !ok {
			reason = errNoCertificate
		}
	}
	if reason == nil && g.tokens != nil {
		reason = g.tokens.check(ctx)
	}
	if reason == nil {
		return nil
	}
	g.refusals.log(p.Addr, method, reason, tracing.Fields(ctx))
	st, err := status.New(codes.Unauthenticated, "this service refuses its caller: "+reason.Error()).WithDetails(detail())
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	return st.Err()
}

func detail() *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{Reason: "CALLER_UNAUTHENTICATED", Domain: "minigate"}
}

// Refused reports whether an error of a call says that the server refuses this
// process. Other errors with UNAUTHENTICATED are about what was asked.
func Refused(err error) bool {
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.Unauthenticated {
		return false
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == detail().GetReason() && info.GetDomain() == detail().GetDomain() {
			return true
		}
	}
	return false
}
