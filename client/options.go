package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/asap-protocol/asap-go"
)

// A TokenSource supplies the bearer token of requests. Token is called for
// every request and every WebSocket connection, by many goroutines at once, and
// should cache. Its error ends the call before anything is sent.
type TokenSource interface {
	Token(ctx context.Context) (string, error)
}

// StaticToken is a TokenSource that always supplies itself.
type StaticToken string

// Token returns the token.
func (t StaticToken) Token(context.Context) (string, error) { return string(t), nil }

// An Option configures a [Client], a [Socket] or a [Discovery]. Options that
// do not concern what is being made are ignored, so one list can serve all
// three. A bad value is reported by the constructor.
type Option func(*options) error

type options struct {
	sender      asap.AgentURN
	tokens      TokenSource
	delegation  string
	insecure    bool
	transport   http.RoundTripper
	tls         *tls.Config
	userAgent   string
	timeout     time.Duration // of one attempt
	retry       RetryPolicy
	breaker     *breaker
	compression Compression
	maxAnswer   int64
	maxConns    int

	socket    socketOptions
	discovery discoveryOptions
}

const (
	connectTimeout   = 10 * time.Second
	defaultTimeout   = 60 * time.Second
	defaultMaxAnswer = 10 << 20
	defaultMaxConns  = 100
)

func newOptions(opts []Option) (*options, error) {
	o := &options{
		userAgent:   "asap-go",
		timeout:     defaultTimeout,
		retry:       DefaultRetryPolicy(),
		compression: CompressGzip,
		maxAnswer:   defaultMaxAnswer,
		maxConns:    defaultMaxConns,
		socket:      defaultSocketOptions(),
		discovery:   defaultDiscoveryOptions(),
	}
	for _, opt := range opts {
		if err := opt(o); err != nil {
			return nil, err
		}
	}
	if o.retry.Jitter == nil {
		o.retry.Jitter = rand.Float64
	}
	return o, nil
}

// WithSender sets the URN that envelopes made by the task methods carry as
// their sender. An authenticating agent compares it with the caller's identity.
func WithSender(urn asap.AgentURN) Option {
	return func(o *options) error {
		if _, err := asap.ParseAgentURN(string(urn)); err != nil {
			return fmt.Errorf("sender %q: %w", urn, err)
		}
		o.sender = urn
		return nil
	}
}

// WithTokenSource sends "Authorization: Bearer" with what source supplies.
func WithTokenSource(source TokenSource) Option {
	return func(o *options) error {
		o.tokens = source
		return nil
	}
}

// WithDelegation sends the delegation token (a JWT, or a chain of them joined
// by "~") in the header X-ASAP-Delegation-Token of every request. Over a
// WebSocket it holds for the connection.
func WithDelegation(token string) Option {
	return func(o *options) error {
		if !headerSafe(token) {
			return errors.New("delegation token: empty, or holds characters a header cannot carry")
		}
		o.delegation = token
		return nil
	}
}

// WithInsecure permits plain http and ws URLs to hosts that are not loopback.
// Tokens and tasks are then readable on the way.
func WithInsecure() Option {
	return func(o *options) error {
		o.insecure = true
		return nil
	}
}

// WithTransport replaces the connection pool, for instance by one that
// presents a client certificate or is instrumented. It must not follow
// redirects. [WithTLSConfig] then has no effect. The transport stays the
// caller's: Close does not touch it.
func WithTransport(rt http.RoundTripper) Option {
	return func(o *options) error {
		if rt == nil {
			return errors.New("transport: nil")
		}
		o.transport = rt
		return nil
	}
}

// WithTLSConfig sets the TLS configuration of the connection pool: a private
// CA, a client certificate. It is cloned.
func WithTLSConfig(c *tls.Config) Option {
	return func(o *options) error {
		o.tls = c.Clone()
		return nil
	}
}

// WithUserAgent sets the User-Agent header; the default is "asap-go".
func WithUserAgent(name string) Option {
	return func(o *options) error {
		if !headerSafe(name) {
			return errors.New("user agent: empty, or holds characters a header cannot carry")
		}
		o.userAgent = name
		return nil
	}
}

// WithTimeout bounds each attempt of an HTTP request, from connecting to the
// last byte of the answer; the default is 60 s. The whole call is bounded by
// its context.
func WithTimeout(d time.Duration) Option {
	return func(o *options) error {
		if d <= 0 {
			return errors.New("timeout: must be positive")
		}
		o.timeout = d
		return nil
	}
}

// WithRetry replaces [DefaultRetryPolicy].
func WithRetry(p RetryPolicy) Option {
	return func(o *options) error {
		if p.Attempts < 1 || p.Base < 0 || p.Max < p.Base {
			return errors.New("retry policy: needs at least 1 attempt and 0 <= Base <= Max")
		}
		o.retry = p
		return nil
	}
}

// WithCircuitBreaker makes calls fail at once with [ErrCircuitOpen] after
// threshold calls in a row got no usable answer, until cooldown is over and a
// single trial succeeds. v1.3.0 uses 5 and 60 s. Refusals, including 4xx, are
// answers and close the circuit; 5xx and 429 after the last retry are not.
// Without this option there is no breaker.
func WithCircuitBreaker(threshold int, cooldown time.Duration) Option {
	return func(o *options) error {
		if threshold < 1 || cooldown <= 0 {
			return errors.New("circuit breaker: needs a threshold of at least 1 and a positive cool-down")
		}
		o.breaker = &breaker{threshold: threshold, cooldown: cooldown}
		return nil
	}
}

// WithCompression chooses how HTTP bodies above 1,024 bytes are encoded, if that
// makes them shorter; the default is [CompressGzip].
func WithCompression(c Compression) Option {
	return func(o *options) error {
		switch c {
		case CompressNone, CompressGzip, CompressBrotli:
			o.compression = c
			return nil
		}
		return fmt.Errorf("compression %q: unknown", c)
	}
}

// WithMaxAnswerBytes bounds an answer (over a WebSocket: a frame); the default
// is 10 MiB. A longer one is [ErrAnswerTooLarge].
func WithMaxAnswerBytes(n int64) Option {
	return func(o *options) error {
		if n < 1 {
			return errors.New("answer limit: must be positive")
		}
		o.maxAnswer = n
		return nil
	}
}

// WithMaxConnections bounds the connections to one host; requests beyond them
// wait for a free one. The default is 100. [WithTransport] makes it void.
func WithMaxConnections(n int) Option {
	return func(o *options) error {
		if n < 1 {
			return errors.New("connections: must be positive")
		}
		o.maxConns = n
		return nil
	}
}

// newHTTPClient returns an http.Client of its own that follows no redirects,
// and what closes its idle connections.
func (o *options) newHTTPClient() (*http.Client, func()) {
	rt, closeIdle := o.transport, func() {}
	if rt == nil {
		t := &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext,
			TLSClientConfig:       o.tls,
			TLSHandshakeTimeout:   connectTimeout,
			MaxIdleConns:          o.maxConns,
			MaxIdleConnsPerHost:   o.maxConns,
			MaxConnsPerHost:       o.maxConns,
			IdleConnTimeout:       30 * time.Second,
			ExpectContinueTimeout: time.Second,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true, // an answer is limited by the bytes it has, not those it unfolds to
		}
		rt, closeIdle = t, t.CloseIdleConnections
	}
	return &http.Client{
		Transport:     rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, closeIdle
}

// header returns the headers that every request of these options has.
func (o *options) header(ctx context.Context) (http.Header, error) {
	h := http.Header{"User-Agent": {o.userAgent}}
	if o.tokens != nil {
		token, err := o.tokens.Token(ctx)
		if err != nil {
			return nil, fmt.Errorf("bearer token: %w", err)
		}
		if !headerSafe(token) {
			return nil, errors.New("bearer token: empty, or holds characters a header cannot carry")
		}
		h.Set("Authorization", "Bearer "+token)
	}
	if o.delegation != "" {
		h.Set(DelegationHeader, o.delegation)
	}
	return h, nil
}

// DelegationHeader is the HTTP header that carries a delegation token.
const DelegationHeader = "X-ASAP-Delegation-Token"

// headerSafe reports whether s is non-empty visible ASCII, blanks allowed inside.
func headerSafe(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return s != "" && s[0] != ' ' && s[len(s)-1] != ' '
}
