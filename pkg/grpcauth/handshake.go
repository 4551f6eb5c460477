package grpcauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"google.golang.org/grpc/credentials"
)

// transport makes TLS connections with the certificates of the moment, and finds
// out who calls.
type transport struct {
	guard  *Guard
	server credentials.TransportCredentials
}

// caller is what a handshake said of who calls.
type caller struct {
	credentials.TLSInfo
	refused error // nil where the certificate is a good one
}

var errNoCertificate = errors.New("no certificate")

// ClientHandshake is of a caller. authority is the host, with or without its port.
func (t *transport) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if t.guard.cfg.ServerName != "" {
		authority = t.guard.cfg.ServerName
	}
	return credentials.NewTLS(t.guard.files.Client("")).ClientHandshake(ctx, authority, conn)
}

// ServerHandshake lets everybody in who speaks TLS, and notes whether its
// certificate is good.
func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.server.ServerHandshake(raw)
	if err != nil {
		if !errors.Is(err, io.EOF) { // somebody who only looked whether the port is open
			t.guard.refusals.log(raw.RemoteAddr(), "", err, nil)
		}
		return nil, nil, err
	}
	of, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, nil, errors.Join(fmt.Errorf("grpc: got %T of a TLS handshake", info), conn.Close())
	}
	return conn, caller{of, t.guard.verify(&of.State)}, nil
}

// verify says what is wrong with a caller's certificate.
func (g *Guard) verify(state *tls.ConnectionState) error {
	if !g.cfg.mutual() {
		return nil
	}
	if len(state.PeerCertificates) == 0 {
		return errNoCertificate
	}
	leaf, between := state.PeerCertificates[0], x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: g.files.Authorities(), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return fmt.Errorf("certificate of %q: %w", leaf.Subject, err)
	}
	if len(g.names) == 0 {
		return nil
	}
	names := slices.Clone(leaf.DNSNames)
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	if !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(g.names, name) }) {
		return fmt.Errorf("certificate of %q: got the names %q, want one of %q", leaf.Subject, names, g.names)
	}
	return nil
}

// Info tells gRPC what this is.
func (t *transport) Info() credentials.ProtocolInfo { return t.server.Info() }

// Clone returns another one.
func (t *transport) Clone() credentials.TransportCredentials {
	return &transport{t.guard, t.server.Clone()}
}

// OverrideServerName is deprecated, and not used by gRPC.
func (t *transport) OverrideServerName(string) error {
	return errors.New("grpc: the name of servers is set by Config.ServerName")
}
