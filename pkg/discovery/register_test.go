package discovery

import (
	"strings"
	"testing"
	"time"
)

// A replica that listens everywhere finds its address also where the first server of
// etcd has no name any more.
func TestOwnAddressByAnyServer(t *testing.T) {
	for _, c := range []struct {
		name string
		etcd []string
		want string
	}{
		{"the first", []string{"127.0.0.1:2379", "gone.invalid:2379"}, "127.0.0.1:7102"},
		{"the next", []string{"gone.invalid:2379", "127.0.0.1:2379"}, "127.0.0.1:7102"},
		{"none", []string{"gone.invalid:2379", "lost.invalid:2379"}, ""},
	} {
		r, err := NewRegistration(RegistrationConfig{Etcd: c.etcd, Key: "auth", Address: ":7102", Lease: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.address(t.Context())
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: got %q, %v", c.name, got, err)
		}
		if c.want == "" && (!strings.Contains(err.Error(), "gone.invalid") || !strings.Contains(err.Error(), "lost.invalid")) {
			t.Errorf("%s: the error does not name all of them: %v", c.name, err)
		}
	}
}
