package difftest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	"github.com/go-json-experiment/json"
	"github.com/golang-jwt/jwt/v5"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
)

// The world: agents a to e, keys of one repeated byte, a being the root.
var (
	now  = time.Unix(1_800_000_000, 0)
	path = []asap.AgentURN{
		"urn:asap:agent:a", "urn:asap:agent:b", "urn:asap:agent:c", "urn:asap:agent:d", "urn:asap:agent:e",
		"urn:asap:agent:a", "urn:asap:agent:b", "urn:asap:agent:c", "urn:asap:agent:d",
	}
)

func keyOf(agent asap.AgentURN) ed25519.PrivateKey {
	seed := agent[len(agent)-1] - 'a' + 1
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

var publicKeys = func() map[asap.AgentURN]ed25519.PublicKey {
	out := map[asap.AgentURN]ed25519.PublicKey{}
	for _, agent := range path[:5] {
		out[agent] = keyOf(agent).Public().(ed25519.PublicKey)
	}
	return out
}()

func publicOf(agent asap.AgentURN) ed25519.PublicKey { return publicKeys[agent] }

func newPolicy(tb testing.TB) *delegation.Policy {
	tb.Helper()
	ring := new(delegation.KeyRing)
	for _, agent := range path[:5] {
		if err := ring.Add(agent, delegation.Key{Public: publicOf(agent)}); err != nil {
			tb.Fatal(err)
		}
	}
	return &delegation.Policy{Keys: ring, IsRoot: delegation.Roots(path[0]), Revoked: delegation.NewRevocationSet().Revoked}
}

// chainOf makes a valid chain of n links.
func chainOf(tb testing.TB, n int) string {
	tb.Helper()
	token := ""
	for i := range n {
		limit := int64(100 - i)
		terms := delegation.Terms{
			Issuer: path[i], Delegate: path[i+1], TokenID: fmt.Sprintf("del_%d", i),
			IssuedAt: now.Add(-time.Minute), ExpiresAt: now.Add(time.Hour),
			Scopes: []string{delegation.ScopeTaskExecute, delegation.ScopeDataRead}, MaxTasks: &limit,
		}
		var err error
		if i == 0 {
			token, err = delegation.Issue(terms, keyOf(path[0]))
		} else {
			token, err = delegation.Attenuate(token, terms, keyOf(path[i]))
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	return token
}

// jws signs any header and payload with a's key.
func jws(header, payload string) string {
	enc := base64.RawURLEncoding
	text := enc.EncodeToString([]byte(header)) + "." + enc.EncodeToString([]byte(payload))
	return text + "." + enc.EncodeToString(ed25519.Sign(keyOf(path[0]), []byte(text)))
}

// claims is what all three libraries read out of a link.
type claims struct {
	Issuer, Audience, ID string
	IssuedAt, Expiry     int64
	Scopes               []string
}

func claimsOf(l delegation.Link) claims {
	return claims{string(l.Issuer), string(l.Delegate), l.TokenID, l.IssuedAtUnix, l.ExpiresAtUnix, l.Scopes}
}

func (c claims) equal(o claims) bool {
	scopes := slices.Equal(c.Scopes, o.Scopes)
	c.Scopes, o.Scopes = nil, nil
	return scopes && fmt.Sprint(c) == fmt.Sprint(o)
}

// ed25519Name lets golang-jwt know RFC 9864's name of the algorithm.
type ed25519Name struct{ *jwt.SigningMethodEd25519 }

func (ed25519Name) Alg() string { return "Ed25519" }

func TestMain(m *testing.M) {
	jwt.RegisterSigningMethod("Ed25519", func() jwt.SigningMethod { return ed25519Name{jwt.SigningMethodEdDSA} })
	m.Run()
}

// golangJWT verifies one link as strictly as golang-jwt can; iat may lie 30
// seconds ahead, as with us. Its claims go into a map, because into a struct it
// reads names of any case: "SCP" would take the place of "scp".
func golangJWT(link string) (claims, error) {
	raw := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(link, raw, func(*jwt.Token) (any, error) {
		issuer, err := raw.GetIssuer()
		return publicOf(asap.AgentURN(issuer)), err
	}, jwt.WithValidMethods([]string{"EdDSA", "Ed25519"}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(),
		jwt.WithLeeway(delegation.ClockSkew), jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return claims{}, err
	}
	var out claims
	out.Issuer, _ = raw.GetIssuer()
	audience, _ := raw.GetAudience()
	out.Audience = strings.Join(audience, " ")
	out.ID, _ = raw["jti"].(string)
	if at, _ := raw.GetIssuedAt(); at != nil {
		out.IssuedAt = at.Unix()
	}
	if at, _ := raw.GetExpirationTime(); at != nil {
		out.Expiry = at.Unix()
	}
	scopes, _ := raw["scp"].([]any)
	for _, s := range scopes {
		out.Scopes = append(out.Scopes, fmt.Sprint(s))
	}
	return out, nil
}

type joseClaims struct {
	josejwt.Claims

	Scopes []string `json:"scp"`
}

// goJose verifies one link with go-jose. It knows neither RFC 9864's name nor
// asap-chain, so of a link with one of them it only says whether that is its
// only objection.
func goJose(link string) (claims, error) {
	token, err := josejwt.ParseSigned(link, []jose.SignatureAlgorithm{jose.EdDSA, "Ed25519"})
	if err != nil {
		return claims{}, err
	}
	var out joseClaims
	if err := token.UnsafeClaimsWithoutVerification(&out); err != nil {
		return claims{}, err
	}
	header := token.Headers[0]
	_, isChild := header.ExtraHeaders["crit"]
	err = token.Claims(publicOf(asap.AgentURN(out.Issuer)), new(joseClaims))
	switch {
	case isChild && err != nil && strings.Contains(err.Error(), "crit"):
	case header.Algorithm == "Ed25519" && (errors.Is(err, jose.ErrUnsupportedAlgorithm) || errors.Is(err, jose.ErrCryptoFailure)):
	case err != nil:
		return claims{}, err
	case isChild || header.Algorithm == "Ed25519":
		return claims{}, errors.New("go-jose has learnt something: hold it to more here")
	}
	if err := out.ValidateWithLeeway(josejwt.Expected{Time: now}, delegation.ClockSkew); err != nil {
		return claims{}, err
	}
	return claims{out.Issuer, strings.Join(out.Audience, " "), out.ID, out.IssuedAt.Time().Unix(), out.Expiry.Time().Unix(), out.Scopes}, nil
}

// bringsKeys tells whether a header holds a key or a certificate. go-jose wants
// those to be sound, and we, who never use them, do not look into them.
func bringsKeys(link string) bool {
	text, _, _ := strings.Cut(link, ".")
	raw, err := base64.RawURLEncoding.DecodeString(text)
	var header map[string]any
	if err != nil || json.Unmarshal(raw, &header) != nil {
		return false
	}
	_, jwk := header["jwk"]
	_, x5c := header["x5c"]
	return jwk || x5c
}

// compare fails if we accept a token of which the others refuse a link, or
// read another one. It reports whether we accept it.
func compare(t *testing.T, policy *delegation.Policy, token string) bool {
	t.Helper()
	read, err := delegation.Parse(token)
	if err != nil {
		return false
	}
	grant, err := delegation.Verify(token, policy, delegation.Query{Caller: read.Actor(), Action: read.Leaf().Scopes[0], Now: now})
	if err != nil {
		return false
	}
	links := grant.Links()
	for i, link := range strings.Split(token, delegation.Separator) {
		want := claimsOf(links[i])
		peers := map[string]func(string) (claims, error){"golang-jwt": golangJWT, "go-jose": goJose}
		if bringsKeys(link) {
			delete(peers, "go-jose")
		}
		for name, peer := range peers {
			if got, err := peer(link); err != nil || !got.equal(want) {
				t.Errorf("link %d: we accept %+v, %s says %v, %+v\n%s", i, want, name, err, got, link)
			}
		}
	}
	return true
}

const rootClaims = `{"iss":"urn:asap:agent:a","aud":"urn:asap:agent:b","jti":"del_root","iat":1799999940,"exp":1800003600,"scp":["task.execute","data.read"]`

// payloads are accepted or refused; either way the comparison must hold.
var payloads = []string{
	rootClaims + `}`,
	rootClaims + `,"nbf":1800000000}`,
	rootClaims + `,"nbf":1800000030}`,
	rootClaims + `,"SCP":["*"],"Exp":1,"ISS":"x"}`,
	rootClaims + `,"x-asap-constraints":{"max_tasks":1,"max_cost_usd":1e-3},"res":["https://x"],"del_max_depth":1}`,
	strings.ReplaceAll(rootClaims, `"urn:asap:agent:b"`, `["urn:asap:agent:b"]`) + `}`,
	strings.ReplaceAll(rootClaims, `1799999940`, `1800000030`) + `}`,
	strings.ReplaceAll(rootClaims, `del_root`, `\u0064el\/`) + ` , "x" : [ { "y" : null } ] }`,
	rootClaims + `,"scp":["*"]}`,
	strings.ReplaceAll(rootClaims, `1800003600`, `1800000000`) + `}`,
	strings.ReplaceAll(rootClaims, `1800003600`, `1.8000036e9`) + `}`,
	`[]`, `null`, ``,
}

var headers = []string{
	`{"alg":"EdDSA","typ":"JWT"}`, `{"typ":"JWT","alg":"EdDSA"}`, `{"alg":"Ed25519"}`, `{"alg":"EdDSA","kid":"k","typ":"jwt"}`,
	`{"alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":"gTl3Dqh9F19Wo1Rmw0x-zMuNipG07jeiXfYPW4_Js5Q"}}`,
	`{"alg":"EdDSA","crit":["asap-chain"],"asap-chain":1}`, `{"alg":"none"}`, `{"alg":"HS256"}`, `{"alg":"EdDSA","alg":"none"}`,
	`{"alg":"EdDSA","crit":["b64"],"b64":false}`, `{}`,
}

func TestSignedTokens(t *testing.T) {
	policy := newPolicy(t)
	accepted := 0
	for _, header := range headers {
		for _, payload := range payloads {
			if compare(t, policy, jws(header, payload)) {
				accepted++
			}
		}
	}
	if accepted < 20 {
		t.Errorf("only %d tokens are accepted: nothing is compared", accepted)
	}
}

func TestChains(t *testing.T) {
	policy := newPolicy(t)
	for n := 1; n <= delegation.MaxLinks; n++ {
		if !compare(t, policy, chainOf(t, n)) {
			t.Errorf("the chain of %d links is refused", n)
		}
	}
}

// FuzzSigned signs whatever the fuzzer thinks of.
func FuzzSigned(f *testing.F) {
	policy := newPolicy(f)
	for _, header := range headers {
		f.Add(header, payloads[0])
	}
	for _, payload := range payloads {
		f.Add(headers[0], payload)
	}
	f.Fuzz(func(t *testing.T, header, payload string) { compare(t, policy, jws(header, payload)) })
}

// FuzzToken changes tokens that were good.
func FuzzToken(f *testing.F) {
	policy := newPolicy(f)
	for n := 1; n <= 3; n++ {
		f.Add(chainOf(f, n))
	}
	f.Add(jws(headers[2], payloads[0]))
	f.Fuzz(func(t *testing.T, token string) { compare(t, policy, token) })
}
