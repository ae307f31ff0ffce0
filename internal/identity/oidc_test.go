package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
)

const issuerURL = "https://issuer.example"

// provider is an OpenID provider without a network.
type provider struct {
	t *testing.T

	mu      sync.Mutex
	set     jwk.Set
	private map[string]crypto.Signer
	broken  error
	raw     []byte // instead of set
	extra   string // keys the library would not make
	fetches atomic.Int64
	wait    chan struct{} // if not nil, a fetch waits for it
}

func newProvider(t *testing.T) *provider {
	return &provider{t: t, set: jwk.NewSet(), private: map[string]crypto.Signer{}}
}

// add makes a key for alg and publishes it with the members given.
func (p *provider) add(kid, alg string, members map[string]any) crypto.Signer {
	p.t.Helper()
	var signer crypto.Signer
	var err error
	switch {
	case strings.HasSuffix(kid, "short"):
		signer, err = rsa.GenerateKey(rand.Reader, 1024)
	case alg[0] == 'R' || alg[0] == 'P':
		signer, err = rsa.GenerateKey(rand.Reader, 2048)
	case alg == "EdDSA":
		_, signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[alg]
		signer, err = ecdsa.GenerateKey(curve, rand.Reader)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.publish(kid, signer.Public(), members)
	p.private[kid] = signer
	return signer
}

func (p *provider) publish(kid string, public any, members map[string]any) {
	p.t.Helper()
	if r, ok := public.(*rsa.PublicKey); ok && r.N.BitLen() < minRSABits {
		p.extra += fmt.Sprintf(`{"kty":"RSA","kid":%q,"e":"AQAB","n":%q},`, kid, base64.RawURLEncoding.EncodeToString(r.N.Bytes()))
		return
	}
	key, err := jwk.Import(public)
	if err != nil {
		p.t.Fatal(err)
	}
	if kid != "" {
		members = merge(members, map[string]any{"kid": kid})
	}
	for name, value := range members {
		if err := key.Set(name, value); err != nil {
			p.t.Fatal(err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.set.AddKey(key); err != nil {
		p.t.Fatal(err)
	}
}

func merge(list ...map[string]any) map[string]any {
	out := map[string]any{}
	for _, m := range list {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

func (p *provider) fetch(ctx context.Context) ([]byte, error) {
	p.fetches.Add(1)
	if p.wait != nil {
		select {
		case <-p.wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.broken != nil:
		return nil, p.broken
	case p.raw != nil:
		return p.raw, nil
	}
	text, err := json.Marshal(p.set)
	return bytes.Replace(text, []byte(`"keys":[`), []byte(`"keys":[`+p.extra), 1), err
}

// token signs claims with a key; the header says what it says.
func (p *provider) token(signer crypto.Signer, alg, header string, claims map[string]any) string {
	p.t.Helper()
	payload, err := json.Marshal(claims, json.Deterministic(true))
	if err != nil {
		p.t.Fatal(err)
	}
	return signJWS(p.t, signer, alg, header, payload)
}

func signJWS(t *testing.T, signer crypto.Signer, alg, header string, payload []byte) string {
	t.Helper()
	b64 := base64.RawURLEncoding
	a, _ := jwa.LookupSignatureAlgorithm(alg)
	headers := jws.NewHeaders()
	// RSA and Ed25519 by hand, so that the header can say what is not so; ECDSA,
	// whose signatures have a form of their own, by the library.
	signed := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString(payload)
	var signature []byte
	var err error
	switch k := signer.(type) {
	case ed25519.PrivateKey:
		signature = ed25519.Sign(k, []byte(signed))
	case *rsa.PrivateKey:
		h := map[byte]crypto.Hash{'2': crypto.SHA256, '3': crypto.SHA384, '5': crypto.SHA512}[alg[2]]
		sum := h.New()
		sum.Write([]byte(signed))
		if alg[0] == 'P' {
			signature, err = rsa.SignPSS(rand.Reader, k, h, sum.Sum(nil), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			signature, err = rsa.SignPKCS1v15(rand.Reader, k, h, sum.Sum(nil))
		}
	case *ecdsa.PrivateKey:
		if err := json.Unmarshal([]byte(header), &headers); err != nil {
			t.Fatal(err)
		}
		var out []byte
		if out, err = jws.Sign(payload, jws.WithKey(a, k, jws.WithProtectedHeaders(headers))); err == nil {
			return string(out)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + b64.EncodeToString(signature)
}

func accessClaims(change map[string]any) map[string]any {
	c := merge(map[string]any{"iss": issuerURL, "aud": "asap", "sub": string(agentA), "iat": testNow - 10, "exp": testNow + 300}, change)
	for k, v := range c {
		if v == nil {
			delete(c, k)
		}
	}
	return c
}

func testOIDC(t *testing.T, p *provider, change func(*OIDCConfig)) *OIDC {
	t.Helper()
	cfg := OIDCConfig{Issuer: issuerURL, Audiences: []string{"asap", "other"}, Fetch: p.fetch}
	if change != nil {
		change(&cfg)
	}
	o, err := NewOIDC(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestAccessTokens(t *testing.T) {
	p := newProvider(t)
	r := p.add("r", "RS256", nil)
	p.add("r2", "RS256", nil)
	e := p.add("e", "ES256", map[string]any{"alg": "ES256", "use": "sig"})
	d := p.add("d", "EdDSA", nil)
	short := p.add("short", "RS256", nil)
	enc := p.add("enc", "RS256", map[string]any{"use": "enc"})
	only512 := p.add("only512", "RS512", map[string]any{"alg": "RS512"})
	e384 := p.add("e384", "ES384", nil)
	p.publish("hmac", []byte(strings.Repeat("s", 32)), nil)
	stranger := newProvider(t).add("r", "RS256", nil)
	auth := testAuthenticator(t)
	isA := Caller{Role: Agent, URN: agentA}
	good := func(change map[string]any) string {
		return p.token(r, "RS256", `{"alg":"RS256","kid":"r","typ":"at+jwt"}`, accessClaims(change))
	}
	for _, c := range []struct {
		name, token string
		want        Caller
		err         error
	}{
		{"RS256", good(nil), isA, nil},
		{"ES256", p.token(e, "ES256", `{"alg":"ES256","kid":"e"}`, accessClaims(nil)), isA, nil},
		{"EdDSA", p.token(d, "EdDSA", `{"alg":"EdDSA","kid":"d","typ":"JWT"}`, accessClaims(nil)), isA, nil},
		{"no kid, one key of its kind", p.token(d, "EdDSA", `{"alg":"EdDSA"}`, accessClaims(nil)), isA, nil},
		{"several audiences", good(map[string]any{"aud": []string{"x", "other"}}), isA, nil},
		{"fractions of seconds", good(map[string]any{"exp": testNow + 0.5, "nbf": testNow + 29.5}), isA, nil},
		{"no iat", good(map[string]any{"iat": nil}), isA, nil},
		{"operator by scope", good(map[string]any{"sub": "auth0|7", "scope": "openid asap:admin"}), Caller{Role: Operator}, nil},
		{"operator by list of scopes", good(map[string]any{"sub": "auth0|7", "scp": []string{"asap:admin"}}), Caller{Role: Operator}, nil},
		{"nearly the scope", good(map[string]any{"scope": "asap:administrate asap:admi"}), isA, nil},

		{"sub is no agent", good(map[string]any{"sub": "auth0|7"}), Caller{}, ErrInvalid},
		{"sub with a line feed", good(map[string]any{"sub": string(agentA) + "\n"}), Caller{}, ErrInvalid},
		{"no sub", good(map[string]any{"sub": nil}), Caller{}, ErrInvalid},
		{"sub is a number", good(map[string]any{"sub": 5}), Caller{}, ErrInvalid},
		{"other issuer", good(map[string]any{"iss": issuerURL + "/"}), Caller{}, ErrInvalid},
		{"no issuer", good(map[string]any{"iss": nil}), Caller{}, ErrInvalid},
		{"other audience", good(map[string]any{"aud": "asap2"}), Caller{}, ErrInvalid},
		{"no audience", good(map[string]any{"aud": nil}), Caller{}, ErrInvalid},
		{"expired", good(map[string]any{"exp": testNow}), Caller{}, ErrInvalid},
		{"no expiry", good(map[string]any{"exp": nil}), Caller{}, ErrInvalid},
		{"expiry zero", good(map[string]any{"exp": 0}), Caller{}, ErrInvalid},
		{"expiry negative", good(map[string]any{"exp": -1}), Caller{}, ErrInvalid},
		{"expiry a text", good(map[string]any{"exp": "1800000300"}), Caller{}, ErrInvalid},
		{"expiry beyond reason", good(map[string]any{"exp": 1e300}), Caller{}, ErrInvalid},
		{"not yet", good(map[string]any{"nbf": testNow + 31}), Caller{}, ErrInvalid},
		{"from the future", good(map[string]any{"iat": testNow + 31}), Caller{}, ErrInvalid},
		{"scope a number", good(map[string]any{"scope": 5}), Caller{}, ErrInvalid},
		{"a stranger's key", p.token(stranger, "RS256", `{"alg":"RS256","kid":"r"}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"the kid of another key", p.token(d, "EdDSA", `{"alg":"EdDSA","kid":"r"}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"no kid, several keys", p.token(r, "RS256", `{"alg":"RS256"}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"an algorithm that is not taken", p.token(r, "RS512", `{"alg":"RS512","kid":"r"}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"a curve that is not taken", p.token(e384, "ES384", `{"alg":"ES384","kid":"e384"}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"a key for another algorithm", p.token(only512, "RS256", `{"alg":"RS256","kid":"only512"}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"a key for encryption", p.token(enc, "RS256", `{"alg":"RS256","kid":"enc"}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"a short key", p.token(short, "RS256", `{"alg":"RS256","kid":"short"}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"none", p.token(r, "RS256", `{"alg":"none","kid":"r"}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"HS256", p.token(r, "RS256", `{"alg":"HS256","kid":"hmac"}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"crit", p.token(r, "RS256", `{"alg":"RS256","kid":"r","crit":["b64"],"b64":true}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"another kind of token", p.token(r, "RS256", `{"alg":"RS256","kid":"r","typ":"logout+jwt"}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"kid too long", p.token(r, "RS256", `{"alg":"RS256","kid":"`+strings.Repeat("k", 257)+`"}`, accessClaims(nil)), Caller{}, ErrInvalid},
		{"header twice", p.token(r, "RS256", `{"alg":"RS256","kid":"r"}`, accessClaims(nil))[1:], Caller{}, ErrInvalid},
		{"header not JSON", "e30x." + strings.SplitN(good(nil), ".", 2)[1], Caller{}, ErrInvalid},
		{"tampered", good(nil)[:len(good(nil))-4] + "AAAA", Caller{}, ErrInvalid},
		{"two parts", "a.b", Caller{}, ErrInvalid},
		{"line feed", good(nil) + "\n", Caller{}, ErrInvalid},
		{"claims twice", signJWS(t, r, "RS256", `{"alg":"RS256","kid":"r"}`, []byte(`{"iss":"`+issuerURL+`","aud":"asap","sub":"urn:asap:agent:a","sub":"urn:asap:agent:b","exp":1800000300}`)), Caller{}, ErrInvalid},
		{"claims no object", signJWS(t, r, "RS256", `{"alg":"RS256","kid":"r"}`, []byte(`[1]`)), Caller{}, ErrInvalid},
		{"an agent's own token", agentToken(key(1), agentA, node), isA, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			auth.OIDC = testOIDC(t, p, nil)
			got, err := auth.Authenticate(t.Context(), Credentials{Authorization: []string{"Bearer " + c.token}})
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %+v, %v, want %+v, %v", got, err, c.want, c.err)
			}
		})
	}
	t.Run("PS and ES by configuration", func(t *testing.T) {
		auth.OIDC = testOIDC(t, p, func(c *OIDCConfig) { c.Algorithms = []string{"PS256", "ES384", "RS512"} })
		for _, token := range []string{
			p.token(r, "PS256", `{"alg":"PS256","kid":"r"}`, accessClaims(nil)),
			p.token(e384, "ES384", `{"alg":"ES384","kid":"e384"}`, accessClaims(nil)),
			p.token(only512, "RS512", `{"alg":"RS512","kid":"only512"}`, accessClaims(nil)),
		} {
			if got, err := auth.OIDC.verify(t.Context(), token, at(testNow)); got != isA || err != nil {
				t.Errorf("%+v, %v", got, err)
			}
		}
		if _, err := auth.OIDC.verify(t.Context(), good(nil), at(testNow)); !errors.Is(err, ErrInvalid) {
			t.Errorf("RS256 where it is not configured: %v", err)
		}
	})
	t.Run("other claim, scope demanded", func(t *testing.T) {
		o := testOIDC(t, p, func(c *OIDCConfig) { c.AgentClaim, c.RequiredScope = "https://x/agent", "asap:execute" })
		for _, c := range []struct {
			claims map[string]any
			want   Caller
			err    error
		}{
			{map[string]any{"https://x/agent": string(agentB), "scope": "asap:read asap:execute"}, Caller{Role: Agent, URN: agentB}, nil},
			{map[string]any{"https://x/agent": string(agentB), "scope": []string{"asap:execute"}}, Caller{Role: Agent, URN: agentB}, nil},
			{map[string]any{"https://x/agent": string(agentB), "scope": "asap:read"}, Caller{}, ErrScope},
			{map[string]any{"https://x/agent": string(agentB)}, Caller{}, ErrScope},
			{map[string]any{"scope": "asap:execute"}, Caller{}, ErrInvalid},
			{map[string]any{"scope": "asap:admin"}, Caller{Role: Operator}, nil},
		} {
			if got, err := o.verify(t.Context(), good(c.claims), at(testNow)); got != c.want || !errors.Is(err, c.err) {
				t.Errorf("%v: %+v, %v", c.claims, got, err)
			}
		}
	})
}

func TestOIDCConfiguration(t *testing.T) {
	fetch := func(context.Context) ([]byte, error) { return nil, nil }
	for _, cfg := range []OIDCConfig{
		{}, {Issuer: "x", Audiences: []string{"y"}}, {Issuer: "x", Fetch: fetch}, {Audiences: []string{"y"}, Fetch: fetch},
		{Issuer: "x", Audiences: []string{""}, Fetch: fetch},
		{Issuer: "x", Audiences: []string{"y"}, Fetch: fetch, Algorithms: []string{"HS256"}},
		{Issuer: "x", Audiences: []string{"y"}, Fetch: fetch, Algorithms: []string{"none"}},
	} {
		if _, err := NewOIDC(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// Floods of tokens with keys nobody knows fetch the keys a few times, whatever
// their number; a rotation in the middle is noticed within the back-off.
func TestFloodAndRotation(t *testing.T) {
	p := newProvider(t)
	old := p.add("old", "EdDSA", nil)
	o := testOIDC(t, p, nil)
	token := func(signer crypto.Signer, kid string) string {
		return p.token(signer, "EdDSA", `{"alg":"EdDSA","kid":"`+kid+`"}`, accessClaims(map[string]any{"exp": testNow + 90_000}))
	}
	good := token(old, "old")
	verify := func(token string, after time.Duration) error {
		_, err := o.verify(t.Context(), token, at(testNow).Add(after))
		return err
	}
	if err := verify(good, 0); err != nil || p.fetches.Load() != 1 {
		t.Fatalf("%v after %d fetches", err, p.fetches.Load())
	}
	// Ten minutes of garbage, 100 a second.
	garbage := make([]string, 100)
	for i := range garbage {
		garbage[i] = token(old, fmt.Sprintf("garbage-%d", i))
	}
	for second := range 600 {
		for _, g := range garbage {
			if err := verify(g, time.Duration(second)*time.Second); !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
		}
	}
	if n := p.fetches.Load(); n > 12 {
		t.Errorf("60,000 tokens of garbage in ten minutes caused %d fetches", n)
	}
	if err := verify(good, 600*time.Second); err != nil {
		t.Errorf("after the flood: %v", err)
	}
	// The provider changes its key: the new one is taken at the next fetch, and
	// the old one no more.
	fresh := newProvider(t)
	next := fresh.add("next", "EdDSA", nil)
	p.mu.Lock()
	p.set = fresh.set
	p.mu.Unlock()
	renewed := token(next, "next")
	if err := verify(renewed, 600*time.Second+maxBackOff); err != nil {
		t.Errorf("the new key: %v", err)
	}
	if err := verify(good, 600*time.Second+maxBackOff); !errors.Is(err, ErrInvalid) {
		t.Errorf("the old key: %v", err)
	}
	before := p.fetches.Load()
	for range 1000 {
		if err := verify(renewed, 600*time.Second+maxBackOff); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.fetches.Load() - before; n != 0 {
		t.Errorf("1,000 good tokens caused %d fetches", n)
	}
}

// While the keys cannot be fetched, the last ones serve for a day; without any
// nobody knows, which is not the same as no.
func TestProviderDown(t *testing.T) {
	p := newProvider(t)
	signer := p.add("k", "EdDSA", nil)
	token := p.token(signer, "EdDSA", `{"alg":"EdDSA","kid":"k"}`, accessClaims(map[string]any{"exp": testNow + 200_000}))
	p.broken = errors.New("connection refused")
	var log bytes.Buffer
	o := testOIDC(t, p, func(c *OIDCConfig) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	verify := func(after time.Duration) error {
		_, err := o.verify(t.Context(), token, at(testNow).Add(after))
		return err
	}
	for i := range 100 {
		if err := verify(time.Duration(i) * time.Millisecond); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrInvalid) {
			t.Fatal(err)
		}
	}
	if p.fetches.Load() != 1 || strings.Count(log.String(), "could not be fetched") != 1 || strings.Contains(log.String(), token) {
		t.Errorf("%d fetches, log:\n%s", p.fetches.Load(), log.String())
	}
	p.broken = nil
	if err := verify(time.Minute); err != nil {
		t.Fatalf("when it is up again: %v", err)
	}
	for _, raw := range []string{"not JSON", `{"keys":[` + strings.Repeat(`{"kty":"OKP","crv":"Ed25519","x":"AA"},`, 0) + manyKeys(maxJWKs+1) + `]}`} {
		p.raw = []byte(raw)
		if err := verify(time.Hour); err != nil {
			t.Errorf("with the keys of an hour ago: %v", err)
		}
	}
	p.raw, p.broken = nil, errors.New("connection refused")
	if err := verify(23 * time.Hour); err != nil {
		t.Errorf("with the keys of a day ago: %v", err)
	}
	if err := verify(25 * time.Hour); !errors.Is(err, ErrUnavailable) {
		t.Errorf("with older ones: %v", err)
	}
}

func manyKeys(n int) string {
	one := `{"kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(public(1)) + `"}`
	return strings.TrimSuffix(strings.Repeat(one+",", n), ",")
}

// Callers that come while the keys are being fetched wait for that one fetch, or
// use the old keys; none of them can end it by going away.
func TestOneFetchAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProvider(t)
		signer := p.add("k", "EdDSA", nil)
		token := p.token(signer, "EdDSA", `{"alg":"EdDSA","kid":"k"}`, accessClaims(map[string]any{"exp": testNow + 90_000}))
		p.wait = make(chan struct{})
		o := testOIDC(t, p, nil)
		errs := make(chan error, 50)
		leaving, leave := context.WithCancel(t.Context())
		go func() {
			_, err := o.verify(leaving, token, at(testNow))
			errs <- err
		}()
		synctest.Wait()
		for range cap(errs) - 1 {
			go func() {
				_, err := o.verify(t.Context(), token, at(testNow))
				errs <- err
			}()
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		// The second one is not even due while the first is on its way.
		if _, err := o.verify(gone, token, at(testNow).Add(minBackOff)); !errors.Is(err, ErrUnavailable) {
			t.Errorf("a caller that went away: %v", err)
		}
		leave()
		synctest.Wait()
		close(p.wait)
		unavailable := 0
		for range cap(errs) {
			if err := <-errs; errors.Is(err, ErrUnavailable) {
				unavailable++
			} else if err != nil {
				t.Error(err)
			}
		}
		if p.fetches.Load() != 1 {
			t.Errorf("%d fetches", p.fetches.Load())
		}
		// Old keys serve those who find somebody fetching new ones.
		p.wait = make(chan struct{})
		later := at(testNow).Add(keysFresh)
		first := make(chan error, 1)
		go func() {
			_, err := o.verify(t.Context(), token, later)
			first <- err
		}()
		synctest.Wait()
		if _, err := o.verify(t.Context(), token, later.Add(maxBackOff)); err != nil {
			t.Errorf("while others fetch: %v", err)
		}
		close(p.wait)
		if err := <-first; err != nil || p.fetches.Load() != 2 {
			t.Errorf("%v after %d fetches", err, p.fetches.Load())
		}
	})
}

func FuzzAccessToken(f *testing.F) {
	set := `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"` + base64.RawURLEncoding.EncodeToString(public(1)) + `"}]}`
	f.Add(jwt(key(1), `{"alg":"EdDSA","kid":"k"}`, `{"iss":"https://issuer.example","aud":"asap","sub":"urn:asap:agent:a","exp":1800000300}`))
	f.Add("e30.e30.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		o, err := NewOIDC(OIDCConfig{Issuer: issuerURL, Audiences: []string{"asap"}, Fetch: func(context.Context) ([]byte, error) { return []byte(set), nil }})
		if err != nil {
			t.Fatal(err)
		}
		who, err := o.verify(t.Context(), token, at(testNow))
		if err == nil && who.URN != agentA {
			t.Errorf("%q is %+v", token, who)
		}
		if err != nil && who != (Caller{}) {
			t.Errorf("%+v with %v", who, err)
		}
	})
}
