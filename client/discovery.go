package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go"
)

const (
	discoveryTimeout  = 10 * time.Second
	maxManifestBytes  = 1 << 20
	defaultTTL        = 300 * time.Second
	maxTTL            = 86400 * time.Second
	defaultCacheBound = 1000
)

type discoveryOptions struct {
	keys             []ed25519.PublicKey            // trusted for every manifest
	keysOf           map[string][]ed25519.PublicKey // by URL as given, trusted for that manifest alone
	requireSignature bool
	bound            int
}

func defaultDiscoveryOptions() discoveryOptions {
	return discoveryOptions{keysOf: map[string][]ed25519.PublicKey{}, bound: defaultCacheBound}
}

// WithTrustedKeys makes signatures of these Ed25519 keys trusted on every
// manifest. As soon as any key is trusted for a manifest, here or by
// [WithManifestKeys], a signed manifest must verify with one of them; the key it
// carries itself then counts for nothing.
func WithTrustedKeys(keys ...ed25519.PublicKey) Option {
	return func(o *options) error {
		if err := checkKeys(keys); err != nil {
			return err
		}
		o.discovery.keys = append(o.discovery.keys, keys...)
		return nil
	}
}

// WithManifestKeys is [WithTrustedKeys] for the manifest at one URL, written as
// it will be given to [Discovery.Discover].
func WithManifestKeys(agentURL string, keys ...ed25519.PublicKey) Option {
	return func(o *options) error {
		if err := checkKeys(keys); err != nil {
			return err
		}
		target, err := manifestURL(agentURL, true)
		if err != nil {
			return err
		}
		o.discovery.keysOf[target] = append(o.discovery.keysOf[target], keys...)
		return nil
	}
}

func checkKeys(keys []ed25519.PublicKey) error {
	for _, k := range keys {
		if err := asap.CheckPublicKey(k); err != nil {
			return fmt.Errorf("trusted key: %w", err)
		}
	}
	return nil
}

// WithRequiredSignature refuses manifests that are not signed ([ErrUnsigned]).
// v1.3.0 accepts them, and so does this package without the option.
func WithRequiredSignature() Option {
	return func(o *options) error {
		o.discovery.requireSignature = true
		return nil
	}
}

// WithManifestCache bounds how many manifests a [Discovery] remembers; the
// least recently used goes first. The default is 1,000; 0 turns the cache off.
func WithManifestCache(n int) Option {
	return func(o *options) error {
		if n < 0 {
			return errors.New("manifest cache: negative bound")
		}
		o.discovery.bound = n
		return nil
	}
}

// Discovered is a manifest and what speaks for it. It is shared by all who ask
// for the same URL: do not change it.
type Discovered struct {
	// Manifest is valid, and if it was signed, its signature verifies.
	Manifest *asap.Manifest
	// Signed is what the manifest came in, or nil if it was plain.
	Signed *asap.SignedManifest
	// Trusted reports that one of the configured keys signed it. A signature by
	// the key that the manifest itself carries proves integrity, not identity.
	Trusted bool
	// URL is where it was read.
	URL string
}

// Discovery reads manifests (core.md, sections 16 and 19) and remembers them for
// as long as Cache-Control says: max-age between 1 and 86,400 s, else 300 s.
// Then it asks whether they changed (ETag). It is safe for concurrent use;
// several callers who ask for one URL at a time cause one request.
type Discovery struct {
	opts      *options
	transport *transport

	mu      sync.Mutex // guards entries, the url and used of each, and uses
	entries map[string]*cached
	uses    uint64
}

// cached is one manifest. Whoever holds the token in busy may touch what follows
// it.
type cached struct {
	url     string
	used    uint64 // when it was asked for last, counted in uses of the cache
	busy    chan struct{}
	found   *Discovered
	etag    string
	expires time.Time
}

// NewDiscovery returns a Discovery with an empty cache and a connection pool of
// its own.
func NewDiscovery(opts ...Option) (*Discovery, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	return newDiscovery(o, newTransport(o)), nil
}

func newDiscovery(o *options, t *transport) *Discovery {
	return &Discovery{opts: o, transport: t, entries: map[string]*cached{}}
}

// Close closes the idle connections.
func (d *Discovery) Close() { d.transport.closeIdle() }

// Discover returns the manifest of the agent at agentURL, plain or signed. A
// URL that ends in ".json" is the manifest's own; to any other the well-known
// path is added.
//
// The error is a *[RemoteError] for a status other than 200, else a
// *[TransportError]; that wraps [ErrInvalidAnswer], [ErrUnsigned] or
// [ErrUntrusted] where the document is to blame. Failures are not remembered, and
// a manifest that is out of date is not served in place of one.
func (d *Discovery) Discover(ctx context.Context, agentURL string) (*Discovered, error) {
	target, err := manifestURL(agentURL, d.opts.insecure)
	if err != nil {
		return nil, err
	}
	entry := d.entry(target)
	select {
	case entry.busy <- struct{}{}:
		defer func() { <-entry.busy }()
	case <-ctx.Done():
		return nil, failure("wait", target, 0, false, ctx.Err())
	}
	if entry.found != nil && time.Now().Before(entry.expires) {
		return entry.found, nil
	}
	return d.refresh(ctx, entry)
}

// entry returns the cache entry of a URL, making one and dropping the least
// recently used as needed.
func (d *Discovery) entry(target string) *cached {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.uses++
	entry := d.entries[target]
	if entry == nil {
		entry = &cached{url: target, busy: make(chan struct{}, 1)}
		if d.opts.discovery.bound == 0 {
			return entry
		}
		d.entries[target] = entry
	}
	entry.used = d.uses
	if len(d.entries) > d.opts.discovery.bound {
		oldest := entry
		for _, e := range d.entries {
			if e.used < oldest.used {
				oldest = e
			}
		}
		delete(d.entries, oldest.url)
	}
	return entry
}

// refresh fetches the manifest of entry, or learns that it has not changed.
func (d *Discovery) refresh(ctx context.Context, entry *cached) (*Discovered, error) {
	header, err := d.opts.header(ctx)
	if err != nil {
		return nil, err
	}
	header.Del(DelegationHeader) // a manifest is public: nothing to delegate
	header.Del("Authorization")
	header.Set("Accept", "application/json")
	if entry.found != nil && entry.etag != "" {
		header.Set("If-None-Match", entry.etag)
	}
	ans, err := d.transport.get(ctx, entry.url, header, maxManifestBytes)
	if err != nil {
		return nil, err
	}
	switch {
	case ans.status == http.StatusNotModified && entry.found != nil:
	case ans.status == http.StatusOK:
		found, err := d.read(entry.url, ans.body)
		if err != nil {
			return nil, failure("receive", entry.url, 1, false, err)
		}
		entry.found, entry.etag = found, ans.header.Get("ETag")
	default:
		return nil, statusError(ans, time.Now())
	}
	entry.expires = time.Now().Add(freshFor(ans.header))
	return entry.found, nil
}

// freshFor returns how long an answer may be used without asking.
func freshFor(h http.Header) time.Duration {
	ttl := defaultTTL
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return 0
		case "max-age":
			n, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 64)
			if err == nil && n >= 1 && n <= int64(maxTTL/time.Second) {
				ttl = time.Duration(n) * time.Second
			}
		}
	}
	return ttl
}

// read reads a manifest, plain or signed, and checks who answers for it.
func (d *Discovery) read(target string, body []byte) (*Discovered, error) {
	var outer struct {
		Manifest  jsontext.Value `json:"manifest"`
		Signature jsontext.Value `json:"signature"`
	}
	if jsontext.Value(body).Kind() != '{' {
		return nil, fmt.Errorf("%w: manifest is not a JSON object", ErrInvalidAnswer)
	}
	if err := json.Unmarshal(body, &outer); err != nil {
		return nil, fmt.Errorf("%w: manifest: %w", ErrInvalidAnswer, err)
	}
	if outer.Manifest == nil {
		if d.opts.discovery.requireSignature {
			return nil, ErrUnsigned
		}
		m, err := asap.ParseManifest(body)
		if err != nil {
			return nil, fmt.Errorf("%w: manifest: %w", ErrInvalidAnswer, err)
		}
		return &Discovered{Manifest: m, URL: target}, nil
	}
	signed, err := asap.ParseSignedManifest(body)
	if err != nil {
		return nil, fmt.Errorf("%w: signed manifest: %w", ErrInvalidAnswer, err)
	}
	trusted, err := d.verify(target, signed)
	if err != nil {
		return nil, err
	}
	return &Discovered{Manifest: signed.Manifest, Signed: signed, Trusted: trusted, URL: target}, nil
}

// verify checks the signature with the keys that are trusted for target, or, if
// there are none, with the one the manifest carries.
func (d *Discovery) verify(target string, signed *asap.SignedManifest) (trusted bool, err error) {
	keys := append(slices.Clone(d.opts.discovery.keysOf[target]), d.opts.discovery.keys...)
	if len(keys) == 0 {
		if err := asap.VerifyManifest(signed, asap.VerifyOptions{}); err != nil {
			return false, fmt.Errorf("%w: %w", ErrInvalidAnswer, err)
		}
		return false, nil
	}
	for _, key := range keys {
		if err = asap.VerifyManifest(signed, asap.VerifyOptions{PublicKey: key}); err == nil {
			return true, nil
		}
	}
	return false, fmt.Errorf("%w: %w", ErrUntrusted, err)
}
