package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/asap-protocol/asap-go"
)

// Client calls one agent over HTTP. It is safe for concurrent use and keeps a
// connection pool of its own.
type Client struct {
	base      *url.URL
	opts      *options
	transport *transport
	discovery *Discovery
	ids       *asap.IDSource
	requests  atomic.Uint64
}

// New returns a client for the agent at baseURL, such as
// "https://agent.example.com". The protocol's endpoint is <baseURL>/asap; a URL
// that ends so, as manifests state it, is taken to be the endpoint. Plain http
// is refused unless the host is loopback or [WithInsecure] says so. Nothing is
// sent yet.
func New(baseURL string, opts ...Option) (*Client, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	base, err := parseBase(baseURL, o.insecure)
	if err != nil {
		return nil, err
	}
	t := newTransport(o)
	return &Client{
		base:      base,
		opts:      o,
		transport: t,
		discovery: newDiscovery(o, t),
		ids:       asap.NewIDSource(),
	}, nil
}

// URL returns the base URL of the agent, without trailing slash.
func (c *Client) URL() string { return below(c.base, "") }

// Close closes the idle connections. Calls under way are not disturbed.
func (c *Client) Close() { c.transport.closeIdle() }

// Send sends e and returns the agent's answer (core.md, sections 11 and 23). It
// does not change e: where its id, timestamp or version is missing, the copy
// that is sent has one.
//
// All attempts, see [RetryPolicy], carry the same bytes: envelope id, timestamp
// and X-Idempotency-Key. The key is the envelope's id, so a caller that repeats
// a Send with the same envelope repeats the key too.
//
// The error is a *[RemoteError] if the agent refused, else a *[TransportError];
// anything else is a fault of the call itself, with nothing sent.
func (c *Client) Send(ctx context.Context, e *asap.Envelope) (*asap.Envelope, error) {
	sent := prepare(e, c.ids, time.Now())
	key := idempotencyKey(sent.ID, c.ids, time.Now())
	id := "req-" + strconv.FormatUint(c.requests.Add(1), 10)
	body, encoding := compress(asap.AppendRPCSend(nil, asap.StringID(id), sent, key), c.opts.compression)

	h, err := c.opts.header(ctx)
	if err != nil {
		return nil, err
	}
	h.Set("Content-Type", "application/json")
	h.Set("Accept", "application/json")
	h.Set("X-Idempotency-Key", key)
	if encoding != "" {
		h.Set("Content-Encoding", encoding)
	}
	target := below(c.base, endpointPath)
	if !c.opts.breaker.allow(time.Now()) {
		return nil, failure("connect", target, 0, false, ErrCircuitOpen)
	}
	answered, err := c.post(ctx, request{
		method: http.MethodPost, url: target, header: h, body: body, maxAnswer: c.opts.maxAnswer,
	})
	c.opts.breaker.conclude(ctx, err, time.Now())
	return answered, err
}

func (c *Client) post(ctx context.Context, req request) (*asap.Envelope, error) {
	ans, err := c.transport.do(ctx, req, c.opts.retry)
	if err != nil {
		return nil, err
	}
	if ans.status < 200 || ans.status > 299 {
		return nil, statusError(ans, time.Now())
	}
	e, err := parseAnswer(ans.body)
	var remote *RemoteError
	if errors.As(err, &remote) {
		remote.HTTPStatus = ans.status
		remote.EarlierUnanswered = ans.lost
		return nil, remote
	}
	if err != nil {
		return nil, failure("receive", req.url, ans.attempts, true, err)
	}
	return e, nil
}

// conclude tells the breaker what a call it allowed came to.
func (b *breaker) conclude(ctx context.Context, err error, now time.Time) {
	var remote *RemoteError
	switch {
	case err == nil:
		b.success()
	case errors.As(err, &remote):
		if retryable(remote.HTTPStatus) {
			b.failure(now)
		} else {
			b.success()
		}
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		b.release()
	default:
		b.failure(now)
	}
}

// prepare returns a copy of e with everything that a sent envelope has.
func prepare(e *asap.Envelope, ids *asap.IDSource, now time.Time) *asap.Envelope {
	sent := *e
	if sent.ID == "" {
		sent.ID = ids.NewEnvelopeID(now)
	}
	if !sent.TimestampSet {
		sent.Timestamp, sent.TimestampSet = now.UTC(), true
	}
	if sent.ASAPVersion == "" {
		sent.ASAPVersion = asap.DefaultASAPVersion
	}
	return &sent
}

// idempotencyKey is the envelope's id where a header can carry it.
func idempotencyKey(id asap.EnvelopeID, ids *asap.IDSource, now time.Time) string {
	if s := string(id); len(s) <= 128 && headerSafe(s) {
		return s
	}
	return ids.New(now)
}

// get fetches a document of the agent, once: v1.3.0's client does not retry
// discovery either.
func (t *transport) get(ctx context.Context, target string, h http.Header, limit int64) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, discoveryTimeout)
	defer cancel()
	once := RetryPolicy{Attempts: 1, Jitter: func() float64 { return 0 }}
	return t.do(ctx, request{method: http.MethodGet, url: target, header: h, maxAnswer: limit}, once)
}
