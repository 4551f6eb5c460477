package process

import "testing"

func TestServicesInTraces(t *testing.T) {
	for want, c := range map[string]struct {
		names []string
		gate  bool
	}{
		"minigate-gate": {nil, true}, "minigate-chat": {[]string{"chat"}, false}, "minigate-auth-email": {[]string{"auth", "email"}, false},
		"minigate-dev": {[]string{"auth", "chat", "echo", "email"}, true},
	} {
		if got := serviceOf(c.names, c.gate); got != want {
			t.Errorf("%v, %v: got %s, want %s", c.names, c.gate, got, want)
		}
	}
}
