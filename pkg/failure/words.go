package failure

import (
	"strings"

	"github.com/motto123/minigate/proto/commonpb"
)

// Words says for people which fields broke which rules: "account: at least 3
// characters; email: is missing". A rule is what a Violation has, a validate tag
// such as "min=3".
func Words(violations []*commonpb.Violation) string {
	var b strings.Builder
	for i, v := range violations {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(v.GetField() + ": " + words(v.GetRule()))
	}
	return b.String()
}

// words are those of one rule. What a rule of another service means is not known
// here, so that one is shown as it is.
func words(rule string) string {
	name, value, _ := strings.Cut(rule, "=")
	switch name {
	case "required", "required_without":
		// Which other field would do instead is for the documentation: a service
		// need not have it yet.
		return "is missing"
	case "excluded_with":
		return "can not go together with " + value
	case "email":
		return "is not an e-mail address"
	case "numeric":
		return "is not a number"
	case "account":
		return "may have only letters, digits, '.', '_' and '-'"
	case "len":
		return "must have exactly " + value + " characters"
	case "min":
		return "at least " + value + " characters"
	case "max":
		return "at most " + value + " characters"
	case "maxbytes":
		return "at most " + value + " bytes"
	case "gte":
		return "must be " + value + " or more"
	case "gt":
		return "must be more than " + value
	case "lte":
		return "must be " + value + " or less"
	case "lt":
		return "must be less than " + value
	}
	return rule
}
