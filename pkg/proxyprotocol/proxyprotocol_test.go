package proxyprotocol

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/motto123/minigate/pkg/settings"
)

// b2 is a header of version 2, byte by byte in hexadecimal; spaces are for people.
func b2(t testing.TB, text string) string {
	t.Helper()
	b, err := hex.DecodeString("0d0a0d0a000d0a515549540a" + strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const zero = "0.0.0.0:0" // stands for no source

func golden(t testing.TB) map[string]string {
	t.Helper()
	unix := strings.Repeat("2f", 216)
	return map[string]string{
		// Version 1.
		"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n":                              "192.168.0.1:56324",
		"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n":                     "255.255.255.255:65535",
		"PROXY TCP4 1.2.3.4 5.6.7.8 0 0\r\n":                                             "1.2.3.4:0",
		"PROXY TCP6 2001:db8::1 ::1 56324 443\r\n":                                       "[2001:db8::1]:56324",
		"PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n":                                          "1.2.3.4:1",
		"PROXY UNKNOWN\r\n":                                                              zero,
		"PROXY UNKNOWN 1.2.3.4 a b c\r\n":                                                zero,
		"PROXY UNKNOWN " + strings.Repeat("f", 91) + "\r\n":                              zero, // 107 bytes
		"PROXY TCP6 " + strings.Repeat(ones+" ", 2) + "65535 65535\r\n":                  "[" + ones + "]:65535",
		b2(t, "21 11 000c  01020304 05060708 dc04 01bb"):                                 "1.2.3.4:56324",
		b2(t, "21 12 000c  01020304 05060708 dc04 01bb"):                                 "1.2.3.4:56324", // UDP
		b2(t, "21 21 0024  20010db8000000000000000000000001 "+loop6+" dc04 01bb"):        "[2001:db8::1]:56324",
		b2(t, "21 22 0024  20010db8000000000000000000000001 "+loop6+" dc04 01bb"):        "[2001:db8::1]:56324",
		b2(t, "21 21 0024  00000000000000000000ffff01020304 "+loop6+" dc04 01bb"):        "1.2.3.4:56324",
		b2(t, "21 31 00d8  "+unix):                                                       zero,
		b2(t, "21 32 00d9  "+unix+"00"):                                                  zero,
		b2(t, "21 00 0000"):                                                              zero, // PROXY of nothing known
		b2(t, "21 00 0003  616263"):                                                      zero,
		b2(t, "20 00 0000"):                                                              zero, // LOCAL
		b2(t, "20 11 000c  01020304 05060708 dc04 01bb"):                                 zero,
		b2(t, "20 11 0001  00"):                                                          zero,            // whatever is there is skipped
		b2(t, "21 11 0013  01020304 05060708 dc04 01bb  03 0004 deadbeef"):               "1.2.3.4:56324", // a wrong CRC32c
		b2(t, "21 11 000d  01020304 05060708 dc04 01bb  ff"):                             "1.2.3.4:56324", // half an addition
		b2(t, "21 11 0ff0  01020304 05060708 dc04 01bb") + strings.Repeat("x", 0xff0-12): "1.2.3.4:56324", // MaxHeader
	}
}

const (
	ones  = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
	loop6 = "00000000000000000000000000000001"
)

// TestParse: whole headers are read, wherever what comes after them begins, and
// less of them is never wrong and never enough.
func TestParse(t *testing.T) {
	for text, want := range golden(t) {
		var source netip.AddrPort
		if want != zero {
			source = netip.MustParseAddrPort(want)
		}
		for _, behind := range []string{"", "\r\n", "PROXY TCP4", "\x01\x02\x03"} {
			got, n, err := Parse([]byte(text + behind))
			if got != source || n != len(text) || err != nil {
				t.Errorf("%q: got %v, %d, %v, want %v, %d", text, got, n, err, source, len(text))
			}
		}
		for i := range text {
			if got, n, err := Parse([]byte(text[:i])); !errors.Is(err, ErrShort) || n != 0 || got.IsValid() {
				t.Errorf("%q: got %v, %d, %v", text[:i], got, n, err)
			}
			if announced := Announced([]byte(text[:i])); announced != (i >= 12 || text[0] == 'P' && i >= 6) {
				t.Errorf("%q is announced: %v", text[:i], announced)
			}
		}
	}
}

func TestMalformed(t *testing.T) {
	for _, text := range []string{
		"G", "GET / HTTP/1.1\r\n", "PROXX", "proxy TCP4", "PROXY\r\n", "\n", "\r\n\r\n\x00\r\nQUIT\r", "\x01\x00\x00\x10",
		"PROXY \r\n", "PROXY \n", "PROXY TCP4\r\n", "PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", "PROXY UNKNOWN\n", "PROXY UNKNOWNX\r\n", "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 1_0 2\r\n",
		"PROXY TCP4 1.2.3.4\r\n", "PROXY TCP4 1.2.3.4 5.6.7.8\r\n", "PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
		"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n", "PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n", "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n", "PROXY TCP4 1.2.3.4 host 1 2\r\n",
		"PROXY TCP4 ::1 ::1 1 2\r\n", "PROXY TCP4 ::ffff:1.2.3.4 5.6.7.8 1 2\r\n", "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
		"PROXY TCP6 ::1 1.2.3.4 1 2\r\n",
		"PROXY " + strings.Repeat("x", 101), "PROXY UNKNOWN " + strings.Repeat("f", 92) + "\r\n", // 107 without an end, 108
		b2(t, "11"), b2(t, "22"), b2(t, "2f"), b2(t, "31 11 000c"), b2(t, "01"),
		b2(t, "21 41"), b2(t, "21 13"), b2(t, "21 f1"), b2(t, "20 13"),
		b2(t, "21 11 000b"), b2(t, "21 21 0023"), b2(t, "21 31 00d7"), b2(t, "21 12 0000"),
		b2(t, "21 11 0ff1"), b2(t, "20 00 0ff1"), b2(t, "21 11 ffff"),
	} {
		for _, behind := range []string{"", " more\r\n", strings.Repeat("x", MaxHeader)} {
			if got, n, err := Parse([]byte(text + behind)); !errors.Is(err, ErrMalformed) || n != 0 || got.IsValid() {
				t.Errorf("%q: got %v, %d, %v", text, got, n, err)
			}
		}
	}
	if _, _, err := Parse(nil); !errors.Is(err, ErrShort) {
		t.Errorf("nothing: got %v", err)
	}
}

func TestAllocations(t *testing.T) {
	trusted := Trusted{netip.MustParsePrefix("10.0.0.0/8")}
	for text := range golden(t) {
		b := []byte(text)
		if n := testing.AllocsPerRun(100, func() {
			if source, _, err := Parse(b); err != nil || trusted.Contains(source.Addr()) {
				t.Error(source, err)
			}
		}); n > 2 || n > 0 && text[0] != 'P' {
			t.Errorf("%q: %v allocations", text, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for text := range golden(f) {
		f.Add([]byte(text), []byte("hello"))
	}
	f.Fuzz(func(t *testing.T, b, behind []byte) {
		source, n, err := Parse(b)
		again, m, more := Parse(append(bytes.Clone(b), behind...))
		switch {
		case err == nil:
			if n < 1 || n > len(b) || n > MaxHeader {
				t.Fatalf("got %d of %d bytes", n, len(b))
			}
			if again != source || m != n || more != nil {
				t.Errorf("with more behind it: got %v, %d, %v, want %v, %d", again, m, more, source, n)
			}
			if _, _, err := Parse(b[:n-1]); !errors.Is(err, ErrShort) {
				t.Errorf("without its last byte: got %v", err)
			}
			if !Announced(b) || source.Addr().Is4In6() || source.Addr().Zone() != "" {
				t.Errorf("got %v of %q", source, b)
			}
		case errors.Is(err, ErrShort):
			if len(b) >= MaxHeader || n != 0 {
				t.Errorf("%d bytes are not enough: %d, %v", len(b), n, err)
			}
		case errors.Is(err, ErrMalformed):
			if !errors.Is(more, ErrMalformed) {
				t.Errorf("%q is malformed, and with %q behind it: %v", b, behind, more)
			}
		default:
			t.Errorf("got %v", err)
		}
	})
}

// FuzzRoundTrip reads what a proxy would have written.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4}, uint16(80), []byte("x"))
	f.Add(bytes.Repeat([]byte{0x20}, 16), uint16(65535), []byte{})
	f.Fuzz(func(t *testing.T, ip []byte, port uint16, additions []byte) {
		a, ok := netip.AddrFromSlice(ip)
		if !ok || len(additions) > 1024 {
			return
		}
		v1, v2 := "TCP6", append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, 0x21)
		if a.Is4() {
			v1, v2[13] = "TCP4", 0x11
		}
		v2 = binary.BigEndian.AppendUint16(v2, uint16(2*len(ip)+4+len(additions)))
		v2 = append(append(v2, ip...), ip...)
		v2 = binary.BigEndian.AppendUint16(v2, port)
		v2 = append(append(v2, 0, 80), additions...)
		for _, b := range [][]byte{fmt.Appendf(nil, "PROXY %s %v %v %d 80\r\n", v1, a, a, port), v2} {
			source, n, err := Parse(b)
			if want := netip.AddrPortFrom(a.Unmap(), port); source != want || n != len(b) || err != nil {
				t.Errorf("%q: got %v, %d, %v, want %v, %d", b, source, n, err, want, len(b))
			}
		}
	})
}

func TestTrusted(t *testing.T) {
	var nobody, some Trusted
	s := settings.Set{FlagSet: pflag.NewFlagSet("test", pflag.ContinueOnError)}
	some.Settings(s)
	if err := s.Parse([]string{"--proxy-from", "10.0.0.0/8, 192.168.1.7,2001:db8::/32,::1"}); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"10.0.0.0": true, "10.255.255.255": true, "::ffff:10.1.2.3": true, "192.168.1.7": true, "2001:db8:ffff::1": true, "::1": true, "::1%eth0": true,
		"9.255.255.255": false, "11.0.0.0": false, "192.168.1.8": false, "2001:db9::": false, "::2": false, "127.0.0.1": false,
	} {
		a := netip.MustParseAddr(text)
		if some.Contains(a) != want {
			t.Errorf("%v is trusted: %v", a, !want)
		}
		if nobody.Contains(a) {
			t.Errorf("%v is trusted by nobody", a)
		}
	}
	if some.Contains(netip.Addr{}) {
		t.Error("no address is trusted")
	}
	if got, want := s.Lookup("proxy-from").Value.String(), "10.0.0.0/8,192.168.1.7/32,2001:db8::/32,::1/128"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, text := range []string{"10.0.0.1/8", "10.0.0.0/33", "x", "10.0.0.0/8,", ",", "1.2.3.4:5", "fe80::1%eth0", "::ffff:10.0.0.0/104", "::ffff:10.0.0.1"} {
		if err := some.Set(text); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%q: got %v", text, err)
		}
	}
	if !some.Contains(netip.MustParseAddr("10.0.0.1")) {
		t.Error("a bad list has changed what is trusted")
	}
	if err := some.Set(" "); err != nil || some != nil || some.String() != "" {
		t.Errorf("nothing: got %v, %v", some, err)
	}
}

func BenchmarkParse(b *testing.B) {
	for name, text := range map[string]string{
		"v1": "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", "v2": b2(b, "21 11 000c  01020304 05060708 dc04 01bb"),
	} {
		b.Run(name, func(b *testing.B) {
			header := []byte(text)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Parse(header); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
