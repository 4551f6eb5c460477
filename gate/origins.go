package gate

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gobwas/ws"

	"github.com/motto123/minigate/pkg/settings"
)

// Origins are web pages that may open a WebSocket, as RFC 6454 writes them
// (scheme://host:port); "*" is any.
type Origins []string

// Settings declares them.
func (o *Origins) Settings(s settings.Set) {
	s.Var(o, "gate-origins", "web pages that may connect beside those of the gate's own host (scheme://host:port with commas between, * for any, or nothing)")
}

// Set takes what String returns, for settings.
func (o *Origins) Set(text string) error {
	var all Origins
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" && strings.TrimSpace(text) == "" {
			break
		}
		u, err := url.Parse(part)
		if part != "*" && (err != nil || u.Scheme == "" || u.Host == "" || part != u.Scheme+"://"+u.Host) {
			return fmt.Errorf("got %q, want scheme://host:port, or *", part)
		}
		all = append(all, part)
	}
	*o = all
	return nil
}

func (o *Origins) String() string { return strings.Join(*o, ",") }

// Type names the kind of value, for help.
func (o *Origins) Type() string { return "origins" }

// allow reports whether a page from origin may connect to this host. Without an
// origin it is no page.
func (o Origins) allow(origin, host string) bool {
	if origin == "" || slices.Contains(o, "*") {
		return true
	}
	if _, of, ok := strings.Cut(origin, "://"); ok && strings.EqualFold(of, host) {
		return true
	}
	return slices.ContainsFunc(o, func(allowed string) bool { return strings.EqualFold(allowed, origin) })
}

// upgrader is the upgrade by RFC 6455, for the pages that may ask for it.
func (w *webSocket) upgrader() ws.Upgrader {
	var origin, host string
	return ws.Upgrader{
		OnHost: func(h []byte) error { host = string(h); return nil },
		OnHeader: func(key, value []byte) error {
			if strings.EqualFold(string(key), "Origin") {
				origin = string(value)
			}
			return nil
		},
		OnBeforeUpgrade: func() (ws.HandshakeHeader, error) {
			g := w.owner().gate
			if g.cfg.Origins.allow(origin, host) {
				return nil, nil
			}
			g.refused(w.session.address, fmt.Sprintf("a page from %.200q may not connect to %.200q (gate-origins)", origin, host), nil)
			return nil, ws.RejectConnectionError(ws.RejectionStatus(http.StatusForbidden),
				ws.RejectionReason("pages from this origin may not connect here"))
		},
	}
}
