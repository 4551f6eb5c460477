package failure_test

import (
	"testing"

	"github.com/motto123/minigate/pkg/failure"
	"github.com/motto123/minigate/proto/commonpb"
)

func TestWords(t *testing.T) {
	for rule, want := range map[string]string{
		"required": "x: is missing", "required_without=room": "x: is missing", "email": "x: is not an e-mail address",
		"min=3": "x: at least 3 characters", "max=32": "x: at most 32 characters", "maxbytes=128": "x: at most 128 bytes",
		"gte=0": "x: must be 0 or more", "lte=200": "x: must be 200 or less", "excluded_with=account": "x: can not go together with account",
		"len=6": "x: must have exactly 6 characters", "self": "x: self",
	} {
		if got := failure.Words([]*commonpb.Violation{{Field: "x", Rule: rule}}); got != want {
			t.Errorf("%s: got %q, want %q", rule, got, want)
		}
	}
	got := failure.Words([]*commonpb.Violation{{Field: "account", Rule: "min=3"}, {Field: "email", Rule: "required"}})
	if want := "account: at least 3 characters; email: is missing"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := failure.Words(nil); got != "" {
		t.Errorf("nothing broken: %q", got)
	}
}
