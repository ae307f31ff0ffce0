package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/internal/httpapi"
	"github.com/asap-protocol/asap-go/internal/identity"
)

// callers tells both of the node's interfaces who sends a request, in the words
// of each, and how many more it may send.
type callers struct {
	auth    *identity.Authenticator
	keys    *identity.KeyRing
	keysDir string
	local   bool // the node serves this machine alone
	demand  bool // credentials, even from this machine
	limiter *agent.RateLimiter
	origins *http.CrossOriginProtection
	now     func() time.Time
	close   func()
}

// newCallers reads the keys of the configuration. The operator token must be
// there.
func newCallers(c *Config, hosted []*agent.Agent, now func() time.Time, log *slog.Logger, more ...identity.KeySource) (*callers, error) {
	w := &callers{
		keys: identity.NewKeyRing(now, more...), keysDir: c.keysDir(), local: c.Loopback(), demand: c.Auth.Required,
		origins: http.NewCrossOriginProtection(), now: now, close: func() {},
	}
	if err := w.readKeys(); err != nil {
		return nil, err
	}
	operator := identity.NewOperatorToken(c.operatorToken)
	if err := operator.Reload(); err != nil {
		return nil, err
	}
	w.auth = &identity.Authenticator{Operator: operator, Keys: w.keys, Audiences: []asap.AgentURN{asap.AgentURN(c.URN)}, Now: now}
	for _, a := range hosted {
		w.auth.Audiences = append(w.auth.Audiences, a.URN())
	}
	if o := c.Auth.OIDC; o.Issuer != "" {
		transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 10 * time.Second, MaxIdleConns: 2, IdleConnTimeout: time.Minute}
		w.close = transport.CloseIdleConnections
		var err error
		w.auth.OIDC, err = identity.NewOIDC(identity.OIDCConfig{
			Issuer: o.Issuer, Audiences: words(o.Audience), Algorithms: words(o.Algorithms), AgentClaim: o.AgentClaim,
			RequiredScope: o.RequiredScope, Fetch: fetcher(transport, o.JWKSURL), Log: log,
		})
		if err != nil {
			return nil, fmt.Errorf("%w: auth.%w", ErrConfig, err)
		}
	}
	rate, burst := c.Limits.RequestsPerSec, c.Limits.RequestsBurst
	if rate == 0 && !w.local {
		rate = 50
	}
	if burst == 0 {
		burst = max(1, int(4*rate))
	}
	if rate > 0 {
		w.limiter = agent.NewRateLimiter(rate, burst)
	}
	return w, nil
}

func words(s string) []string { return strings.Fields(strings.ReplaceAll(s, ",", " ")) }

// readKeys reads the directory of keys again.
func (w *callers) readKeys() error {
	keys, err := identity.ReadKeys(os.DirFS(w.keysDir))
	if err == nil {
		err = w.keys.Replace(keys)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", w.keysDir, err)
	}
	return nil
}

// reload reads the keys and the operator token again; what cannot be read stays
// as it was.
func (w *callers) reload() error {
	return errors.Join(w.readKeys(), w.auth.Operator.Reload())
}

// maxJWKSBytes bounds a JWK set.
const maxJWKSBytes = 1 << 20

// fetcher gets the document at a URL, which the configuration has checked. A
// redirect is not followed: the keys come from where the operator said.
func fetcher(transport http.RoundTripper, from string) func(context.Context) ([]byte, error) {
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", "application/jwk-set+json, application/json")
		res, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer func() { _ = res.Body.Close() }() // only read
		body, err := io.ReadAll(io.LimitReader(res.Body, maxJWKSBytes+1))
		switch {
		case err != nil:
			return nil, err
		case res.StatusCode != http.StatusOK:
			return nil, fmt.Errorf("the issuer's keys: %s", res.Status)
		case len(body) > maxJWKSBytes:
			return nil, fmt.Errorf("the issuer's keys: more than %d bytes", maxJWKSBytes)
		}
		return body, nil
	}
}

// who tells who sends r, in the words of package identity.
func (w *callers) who(r *http.Request) (identity.Caller, error) {
	c := identity.Credentials{Authorization: r.Header.Values("Authorization")}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		c.Certificate = r.TLS.VerifiedChains[0][0]
	}
	return w.auth.Authenticate(r.Context(), c)
}

// coded gives errors about credentials the codes that strangers get.
func coded(err error) error {
	switch {
	case errors.Is(err, identity.ErrUnavailable):
		return asap.CodeAuthUnavailable.Err("Authentication service unavailable")
	case errors.Is(err, identity.ErrScope):
		return asap.CodeForbidden.Err("Insufficient scope")
	}
	return fmt.Errorf("%w: %w", agent.ErrBadCredentials, err)
}

// agent tells the protocol's interface who sends r. The operator is no agent: it
// may send in the name of any, and that is recorded as not verified.
func (w *callers) agent(r *http.Request) (agent.Caller, error) {
	switch who, err := w.who(r); {
	case errors.Is(err, identity.ErrNone):
		return agent.Caller{}, agent.ErrNoCredentials
	case err != nil:
		return agent.Caller{}, coded(err)
	case who.Role == identity.Agent:
		return agent.Caller{URN: who.URN, Verified: true}, nil
	}
	return agent.Caller{}, nil
}

// rest tells the REST interface who sends r.
func (w *callers) rest(r *http.Request) (httpapi.Caller, error) {
	switch who, err := w.who(r); {
	case errors.Is(err, identity.ErrNone):
		return httpapi.Caller{}, nil
	case err != nil:
		return httpapi.Caller{}, coded(err)
	case who.Role == identity.Operator:
		return httpapi.Caller{Role: httpapi.Operator}, nil
	default:
		return httpapi.Caller{Role: httpapi.AgentRole, Agent: who.URN}, nil
	}
}

// limit takes a REST request off its caller's rate, which is the same as for the
// protocol.
func (w *callers) limit(r *http.Request, c httpapi.Caller) (retryAfterSeconds int, ok bool) {
	if w.limiter == nil {
		return 0, true
	}
	return w.limiter.Allow(r, agent.Caller{URN: c.Agent, Verified: c.Role == httpapi.AgentRole}, w.now())
}

// unverified tells whether a request without credentials may be taken: it comes
// from this machine, to a node that serves this machine alone, and neither
// through a proxy nor from a web page of somebody else, which would let others
// in: a page can send requests here, and make its own name resolve to here.
func (w *callers) unverified(r *http.Request) bool { return !w.demand && w.fromHere(r) }

func (w *callers) fromHere(r *http.Request) bool {
	if !w.local || !agent.FromLoopback(r) || w.origins.Check(r) != nil {
		return false
	}
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if len(r.Header.Values(h)) > 0 {
			return false
		}
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return loopback(strings.Trim(host, "[]"))
}

// metrics tells whether the figures may be read: from this machine, or by the
// operator.
func (w *callers) metrics(r *http.Request) bool {
	if w.fromHere(r) {
		return true
	}
	who, err := w.who(r)
	return err == nil && who.Role == identity.Operator
}

// keysDir is the directory of agents' keys.
func (c *Config) keysDir() string {
	if c.Auth.Keys != "" {
		return c.Auth.Keys
	}
	return filepath.Join(c.Data, "keys")
}

// validateAuth checks who may call, and over what.
func (c *Config) validateAuth(host string) (key, what string) {
	o := c.Auth.OIDC
	t := c.TLS
	switch {
	case (t.Certificate == "") != (t.Key == ""):
		return "tls.certificate", "a certificate and its key go together"
	case t.ClientCA != "" && t.Certificate == "":
		return "tls.client_ca", "certificates of clients need a certificate of the node: set tls.certificate"
	case t.ClientRequired && t.ClientCA == "":
		return "tls.client_required", "set tls.client_ca to the authorities whose certificates count"
	case !c.Insecure && t.Certificate == "" && !loopback(host):
		return "listen", fmt.Sprintf("%q is reachable from other machines, and this node has no TLS; set tls.certificate and tls.key, listen on 127.0.0.1, or set insecure: true behind a proxy that terminates TLS", c.Listen)
	case o == (OIDCConfig{}):
		return "", ""
	case o.Issuer == "" || len(words(o.Audience)) == 0 || o.JWKSURL == "":
		return "auth.oidc", "issuer, audience and jwks_url go together"
	}
	u, err := url.Parse(o.JWKSURL)
	if err != nil || u.Host == "" || u.User != nil || (u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname()))) {
		return "auth.oidc.jwks_url", "an https URL is needed, without a password in it"
	}
	if _, err := identity.NewOIDC(identity.OIDCConfig{Issuer: o.Issuer, Audiences: words(o.Audience), Algorithms: words(o.Algorithms),
		Fetch: func(context.Context) ([]byte, error) { return nil, nil }}); err != nil {
		return "auth.oidc.algorithms", err.Error()
	}
	return "", ""
}
