// Package proxyprotocol reads the header that a proxy puts before the bytes of a
// client, in both versions of the PROXY protocol, and says from where the client
// has connected. It works on bytes as they come in and keeps none.
//
// It refuses to believe a header: who may send one is Trusted's to say, and who
// asks is the listener. It writes no header, and does not look into the additions
// of version 2 (type-length-value), not even at their checksum: TCP has its own.
//
// The format is section 2 of HAProxy's proxy-protocol.txt.
package proxyprotocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

const (
	// MaxHeader bounds a header, in bytes: 16, the 216 of the longest addresses, and
	// room for the additions that proxies make. A v1 header has at most 107.
	MaxHeader = 4096

	maxV1 = 107
	v2    = "\r\n\r\n\x00\r\nQUIT\n"
	v1    = "PROXY "
	// fixed is a v2 header before the addresses.
	fixed = len(v2) + 4
)

// Errors that Parse wraps.
var (
	// ErrShort: the bytes begin a header; with more of them it can be read.
	ErrShort = errors.New("header is not whole yet")
	// ErrMalformed: the bytes are no header, whatever may follow.
	ErrMalformed = errors.New("malformed PROXY header")
)

// Parse reads the header that b begins with, and returns how long it is. source
// is from where the client has connected to the proxy; it is not valid where the
// header has no address to tell: the proxy speaks for itself (LOCAL), or does not
// know (UNKNOWN, UNSPEC), or was connected by a Unix socket. Then it is the
// connection's own. IPv4 in IPv6 is returned as IPv4.
//
// The error is ErrShort while more bytes may make b a header, which is never so
// from MaxHeader on. Version 2 is read without an allocation, version 1 with two of
// an address' text.
func Parse(b []byte) (source netip.AddrPort, n int, err error) {
	switch {
	case begins(b, v2):
		return parseV2(b)
	case begins(b, v1):
		return parseV1(b)
	}
	return source, 0, malformed("want PROXY or the signature of version 2 at first")
}

// Announced reports whether b begins with a header, whole or not. It takes a
// header's first bytes: what is shorter is none.
func Announced(b []byte) bool {
	return bytes.HasPrefix(b, []byte(v1)) || bytes.HasPrefix(b, []byte(v2))
}

// begins reports whether b begins with prefix, as far as there is something of it.
func begins(b []byte, prefix string) bool {
	n := min(len(b), len(prefix))
	return string(b[:n]) == prefix[:n]
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// parseV2 reads
//
//	bytes  0 … 11  signature
//	       12      version, 2, and command: 0 LOCAL, 1 PROXY
//	       13      family: 0 UNSPEC, 1 IPv4, 2 IPv6, 3 Unix; and transport: 0 UNSPEC, 1 stream, 2 datagram
//	       14, 15  length of what follows
//	       16 …    addresses of client and proxy, then their ports, then additions
//
// of which the second and the third were compared as far as they are there.
func parseV2(b []byte) (source netip.AddrPort, n int, err error) {
	if len(b) > 12 && (b[12]>>4 != 2 || b[12]&15 > 1) {
		return source, 0, malformed("got version and command %#02x, want 0x20 or 0x21", b[12])
	}
	if len(b) > 13 && (b[13]>>4 > 3 || b[13]&15 > 2) {
		return source, 0, malformed("got family and transport %#02x", b[13])
	}
	if len(b) < fixed {
		return source, 0, ErrShort
	}
	local, family := b[12]&15 == 0, b[13]>>4
	length := int(binary.BigEndian.Uint16(b[14:]))
	n = fixed + length
	if n > MaxHeader {
		return source, 0, malformed("got %d bytes, want at most %d", n, MaxHeader)
	}
	addresses := [...]int{0, 12, 36, 216}[family]
	if !local && length < addresses {
		return source, 0, malformed("got %d bytes after the length, want at least %d", length, addresses)
	}
	if len(b) < n {
		return source, 0, ErrShort
	}
	if local {
		return source, n, nil
	}
	switch b := b[fixed:]; family {
	case 1:
		source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), binary.BigEndian.Uint16(b[8:]))
	case 2:
		source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), binary.BigEndian.Uint16(b[32:]))
	}
	return source, n, nil
}

// parseV1 reads one line,
//
//	PROXY TCP4 CLIENT PROXY CLIENT-PORT PROXY-PORT\r\n
//
// or with TCP6, or with UNKNOWN and anything behind it.
func parseV1(b []byte) (source netip.AddrPort, n int, err error) {
	end := bytes.IndexByte(b[:min(len(b), maxV1)], '\n')
	if end < 0 {
		if len(b) >= maxV1 {
			return source, 0, malformed("got no end of the line in %d bytes", maxV1)
		}
		return source, 0, ErrShort
	}
	n = end + 1
	if b[end-1] != '\r' { // there is "PROXY " before it
		return source, 0, malformed("want \\r\\n at the end of the line")
	}
	line := b[len(v1) : end-1]
	protocol, rest, _ := bytes.Cut(line, []byte{' '})
	is4 := string(protocol) == "TCP4"
	switch {
	case string(protocol) == "UNKNOWN":
		return source, n, nil
	case !is4 && string(protocol) != "TCP6":
		return source, 0, malformed("got protocol %.20q, want TCP4, TCP6 or UNKNOWN", protocol)
	}
	var addresses [2]netip.Addr
	for i := range addresses {
		var text []byte
		text, rest, _ = bytes.Cut(rest, []byte{' '})
		a, err := netip.ParseAddr(string(text))
		if err != nil || a.Is4() != is4 || a.Zone() != "" {
			return source, 0, malformed("got address %.50q, want one of %s", text, protocol)
		}
		addresses[i] = a
	}
	first, second, _ := bytes.Cut(rest, []byte{' '})
	from, ok := port(first)
	if _, too := port(second); !ok || !too {
		return source, 0, malformed("got ports %.20q, want two", rest)
	}
	return netip.AddrPortFrom(addresses[0].Unmap(), from), n, nil
}

// port reads a decimal number without zeros before it.
func port(text []byte) (uint16, bool) {
	if len(text) == 0 || len(text) > 1 && text[0] == '0' {
		return 0, false
	}
	p, err := strconv.ParseUint(string(text), 10, 16)
	return uint16(p), err == nil
}
