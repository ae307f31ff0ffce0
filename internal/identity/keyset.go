package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
)

// When the keys of a provider are fetched.
const (
	// keysFresh is how long a set is used before it is fetched again.
	keysFresh = 15 * time.Minute
	// keysUsable is how long a set is used while it cannot be fetched again.
	keysUsable = 24 * time.Hour
	// fetchTimeout bounds one fetch.
	fetchTimeout = 10 * time.Second
	// minBackOff and maxBackOff bound the time between two fetches: it doubles
	// with each that brought nothing new, and is the least after one that did.
	minBackOff = 5 * time.Second
	maxBackOff = 2 * time.Minute
	// maxJWKs bounds the keys of a set.
	maxJWKs = 200
)

// publicKey is a key of a set that may sign tokens.
type publicKey struct {
	id  string
	alg string // the one it is for, or ""
	raw any
}

// keySet is the JWK set of a provider. A token whose key is not in it makes it
// be fetched again, since the provider may have changed its keys - but never
// more often than the back-off says, however many such tokens come.
type keySet struct {
	fetch func(ctx context.Context) ([]byte, error)
	log   *slog.Logger

	fetching chan struct{} // holds a token while somebody fetches

	mu        sync.Mutex // guards what follows
	keys      []publicKey
	digest    [sha256.Size]byte
	fetchedAt time.Time // of keys
	triedAt   time.Time
	backOff   time.Duration
}

func newKeySet(fetch func(ctx context.Context) ([]byte, error), log *slog.Logger) *keySet {
	return &keySet{fetch: fetch, log: log, fetching: make(chan struct{}, 1), backOff: minBackOff}
}

// find returns the keys that may have signed a token with that header. An error
// is ErrUnavailable or ctx's.
func (s *keySet) find(ctx context.Context, h tokenHeader, now time.Time) ([]any, error) {
	s.mu.Lock()
	found, age, due := s.lookup(h), now.Sub(s.fetchedAt), s.due(now)
	have := !s.fetchedAt.IsZero() && age < keysUsable
	s.mu.Unlock()
	switch {
	case have && len(found) > 0 && age < keysFresh:
		return found, nil
	case !due && have:
		return found, nil
	case !due:
		return nil, fmt.Errorf("%w: the last attempt failed and the next is not due", ErrUnavailable)
	case have && len(found) > 0: // old, but good enough not to wait for
		select {
		case s.fetching <- struct{}{}:
		default:
			return found, nil
		}
	default:
		select {
		case s.fetching <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
	}
	s.refresh(ctx, now)
	<-s.fetching
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetchedAt.IsZero() || now.Sub(s.fetchedAt) >= keysUsable {
		return nil, fmt.Errorf("%w: they could not be fetched", ErrUnavailable)
	}
	return s.lookup(h), nil
}

// due tells whether a fetch is allowed. mu is held.
func (s *keySet) due(now time.Time) bool {
	return s.triedAt.IsZero() || now.Sub(s.triedAt).Abs() >= s.backOff
}

// lookup returns the keys that h may mean. A token that names no key may be
// signed with the only one there is for its algorithm. mu is held.
func (s *keySet) lookup(h tokenHeader) []any {
	var found []any
	for _, k := range s.keys {
		if fits(k.raw, h.Alg) && (k.alg == "" || k.alg == h.Alg) && (h.Kid == "" || h.Kid == k.id) {
			found = append(found, k.raw)
		}
	}
	if h.Kid == "" && len(found) > 1 {
		return nil
	}
	return found
}

// refresh fetches the set, unless somebody just did. The caller holds fetching.
// The fetch does not end with the request that happened to need it.
func (s *keySet) refresh(ctx context.Context, now time.Time) {
	s.mu.Lock()
	due := s.due(now)
	if due {
		s.triedAt = now
	}
	s.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	text, err := s.fetch(ctx)
	var keys []publicKey
	if err == nil {
		keys, err = parseSet(text)
	}
	digest := sha256.Sum256(text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.backOff = min(2*s.backOff, maxBackOff)
		s.log.Error("the keys of the OpenID provider could not be fetched", "error", err, "again_after", s.backOff)
		return
	}
	if fresh := now.Sub(s.fetchedAt) < keysFresh; fresh && digest == s.digest {
		s.backOff = min(2*s.backOff, maxBackOff) // fetched for nothing
	} else {
		s.backOff = minBackOff
	}
	s.keys, s.digest, s.fetchedAt = keys, digest, now
}

// parseSet reads a JWK set. Keys that cannot sign tokens are left out.
func parseSet(text []byte) ([]publicKey, error) {
	set, err := jwk.Parse(text, jwk.WithIgnoreParseError(true))
	if err != nil {
		return nil, errors.New("not a JWK set")
	}
	if set.Len() > maxJWKs {
		return nil, fmt.Errorf("a JWK set of more than %d keys", maxJWKs)
	}
	var keys []publicKey
	for i := range set.Len() {
		key, _ := set.Key(i)
		if use, ok := key.KeyUsage(); ok && use != "sig" {
			continue
		}
		k := publicKey{}
		public, err := key.PublicKey()
		if err != nil || jwk.Export(public, &k.raw) != nil {
			continue
		}
		k.id, _ = key.KeyID()
		if alg, ok := key.Algorithm(); ok {
			k.alg = alg.String()
		}
		keys = append(keys, k)
	}
	return keys, nil
}
