package settings

import "regexp"

// Kubernetes tells each container of a namespace of each service in it, after whose
// name the variables are called: those of the services minigate and minigate-gate
// look like settings.
var (
	linkName  = regexp.MustCompile(`^MINIGATE(_[A-Z0-9]+)*_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	linkPort  = regexp.MustCompile(`^MINIGATE(_[A-Z0-9]+)*_PORT$`)
	linkValue = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

// serviceLink says of a variable that is no setting that it is not meant to be one.
func serviceLink(v variable) bool {
	return linkName.MatchString(v.name) || linkPort.MatchString(v.name) && linkValue.MatchString(v.value)
}
