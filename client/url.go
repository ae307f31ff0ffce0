package client

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

const (
	endpointPath  = "/asap"
	socketPath    = "/asap/ws"
	wellKnownPath = "/.well-known/asap/"
)

// parseBase reads the URL of an agent: scheme http or https (ws and wss mean
// the same hosts), a host, perhaps a path. The result is http or https and has
// neither a trailing slash nor a query. A path that already names the endpoint
// (/asap or /asap/ws, as manifests state it) is cut back to its base.
func parseBase(raw string, insecure bool) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("agent URL: %w", errors.Unwrap(err)) // the outer error repeats the URL
	}
	switch u.Scheme {
	case "http", "https":
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	default:
		return nil, fmt.Errorf("agent URL: scheme %q is not http, https, ws or wss", u.Scheme)
	}
	switch {
	case u.Hostname() == "":
		return nil, errors.New("agent URL: no host")
	case u.User != nil:
		return nil, errors.New("agent URL: credentials do not belong in it")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("agent URL: query and fragment are not allowed")
	}
	if u.Scheme == "http" && !insecure && !loopback(u.Hostname()) {
		return nil, fmt.Errorf("agent URL: host %q: %w", u.Hostname(), ErrInsecureURL)
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	if cut, ok := strings.CutSuffix(path, socketPath); ok {
		path = cut
	} else {
		path = strings.TrimSuffix(path, endpointPath)
	}
	base := url.URL{Scheme: u.Scheme, Host: u.Host}
	return base.JoinPath(strings.TrimRight(path, "/")), nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// below returns base with path appended.
func below(base *url.URL, path string) string {
	return strings.TrimRight(base.String(), "/") + path
}

// socketURL returns the WebSocket URL below base.
func socketURL(base *url.URL) string {
	u := *base
	u.Scheme = "ws" + strings.TrimPrefix(base.Scheme, "http")
	return below(&u, socketPath)
}

// manifestURL reads where a manifest is: a URL that ends in .json names it, any
// other is the agent's and gets the well-known path.
func manifestURL(raw string, insecure bool) (string, error) {
	base, err := parseBase(raw, insecure)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(base.Path, ".json") {
		return base.String(), nil
	}
	return below(base, wellKnownPath+"manifest.json"), nil
}
