package tail

import "testing"

// What could not be masked, by the worker or here, is not shown as if it were empty.
func TestWhatIsLeftOutIsNotEmpty(t *testing.T) {
	for name, c := range map[string]struct {
		dataType uint8
		data     string
	}{
		"zeros for protobuf":   {2, "\x00\x00\x00\x00"},
		"zeros for JSON":       {1, "\x00\x00\x00\x00"},
		"zeros for text":       {0, "\x00\x00\x00\x00"},
		"no such message":      {2, "\x0a\x7fxx"},
		"no JSON":              {1, `{"a"`},
		"text, maybe a secret": {0, "text"},
	} {
		if got := string(Payload(c.dataType, "auth.LoginRequest", []byte(c.data))); got != `{"bytes":4}` {
			t.Errorf("%s is shown as %s", name, got)
		}
	}
	// Field 99 is all there is, and nobody knows it.
	if got := string(Payload(2, "auth.LoginRequest", []byte{0x98, 0x06, 0x01})); got != "{}" {
		t.Errorf("a message of which nothing is left is shown as %s", got)
	}
	if got := string(Payload(2, "auth.LoginRequest", nil)); got != "{}" {
		t.Errorf("an empty message is shown as %s", got)
	}
}
