package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jws"

	asap "github.com/asap-protocol/asap-go"
)

// AdminScope is the scope that makes the holder of an access token the operator.
const AdminScope = "asap:admin"

// minRSABits is the shortest RSA key that may sign tokens.
const minRSABits = 2048

// Algorithms lists the signature algorithms that access tokens may have, in
// alphabetical order: asymmetric ones alone. The first of each family is the
// one meant if a configuration names none; see [DefaultAlgorithms].
func Algorithms() []string {
	return []string{"ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"}
}

// DefaultAlgorithms are those of a configuration that names none.
func DefaultAlgorithms() []string { return []string{"RS256", "ES256", "EdDSA"} }

// OIDCConfig says whose access tokens are taken. Issuer, Audiences and Fetch are
// required.
type OIDCConfig struct {
	// Issuer must be the iss of every token.
	Issuer string
	// Audiences are the names of which aud must hold one.
	Audiences []string
	// Algorithms are those tokens may be signed with; empty means
	// [DefaultAlgorithms].
	Algorithms []string
	// AgentClaim names the claim that holds the agent's URN; empty means sub.
	AgentClaim string
	// RequiredScope is demanded of every token, if it is not empty. A token with
	// [AdminScope] has every scope.
	RequiredScope string
	// Fetch gets the provider's JWK set. It is called by one goroutine at a time.
	Fetch func(ctx context.Context) ([]byte, error)
	// Log hears of fetches that failed; nil: nobody.
	Log *slog.Logger
}

// OIDC verifies access tokens of an OpenID provider (RFC 9068 and those like
// it): signature, algorithm, issuer, audience and expiry, all of them required.
// It is safe for concurrent use.
type OIDC struct {
	cfg  OIDCConfig
	keys *keySet
}

// NewOIDC checks cfg. It fetches nothing yet.
func NewOIDC(cfg OIDCConfig) (*OIDC, error) {
	if cfg.Issuer == "" || len(cfg.Audiences) == 0 || slices.Contains(cfg.Audiences, "") || cfg.Fetch == nil {
		return nil, errors.New("oidc: issuer, audience and the address of the keys are required")
	}
	if len(cfg.Algorithms) == 0 {
		cfg.Algorithms = DefaultAlgorithms()
	}
	for _, alg := range cfg.Algorithms {
		if !slices.Contains(Algorithms(), alg) {
			return nil, fmt.Errorf("oidc: algorithm %q is not one of %s", alg, strings.Join(Algorithms(), ", "))
		}
	}
	if cfg.AgentClaim == "" {
		cfg.AgentClaim = "sub"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &OIDC{cfg: cfg, keys: newKeySet(cfg.Fetch, cfg.Log)}, nil
}

// verify tells whose access token it is.
func (o *OIDC) verify(ctx context.Context, token string, now time.Time) (Caller, error) {
	header, err := readHeader(token)
	if err == nil && !slices.Contains(o.cfg.Algorithms, header.Alg) {
		err = errors.New("its alg is not one this node takes")
	}
	if err != nil {
		return Caller{}, fmt.Errorf("%w: access token: %w", ErrInvalid, err)
	}
	keys, err := o.keys.find(ctx, header, now)
	if err != nil {
		return Caller{}, err
	}
	for _, key := range keys {
		alg, _ := jwa.LookupSignatureAlgorithm(header.Alg) // it is in the list
		payload, err := jws.Verify([]byte(token), jws.WithKey(alg, key))
		if err != nil {
			continue
		}
		caller, err := o.caller(payload, now)
		if err != nil && !errors.Is(err, ErrScope) {
			err = fmt.Errorf("%w: access token: %w", ErrInvalid, err)
		}
		return caller, err
	}
	return Caller{}, fmt.Errorf("%w: access token: no key of the issuer has signed it", ErrInvalid)
}

// tokenHeader is what decides of a JOSE header.
type tokenHeader struct {
	Alg  string         `json:"alg"`
	Kid  string         `json:"kid"`
	Typ  string         `json:"typ"`
	Crit jsontext.Value `json:"crit"`
	B64  jsontext.Value `json:"b64"`
}

// readHeader reads the header of a compact JWS. Keys and addresses of keys that
// it may hold are not looked at: a token does not say whom to trust.
func readHeader(token string) (h tokenHeader, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return h, errors.New("it has not three parts")
	}
	for i, part := range parts {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || strings.ContainsAny(part, "\r\n") {
			return h, errors.New("it is not base64url")
		}
		if i == 0 {
			if err := json.Unmarshal(raw, &h); err != nil {
				return h, errors.New("its header is not strict JSON")
			}
		}
	}
	typ := strings.TrimPrefix(strings.ToLower(h.Typ), "application/")
	switch {
	case h.Crit != nil || h.B64 != nil:
		return h, errors.New("it demands extensions")
	case typ != "" && typ != "jwt" && typ != "at+jwt":
		return h, errors.New("its typ is not that of an access token")
	case len(h.Kid) > 256:
		return h, errors.New("its kid is too long")
	}
	return h, nil
}

// fits tells whether a public key is one for alg.
func fits(key any, alg string) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return (strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")) && k.N.BitLen() >= minRSABits
	case *ecdsa.PublicKey:
		switch alg {
		case "ES256":
			return k.Curve == elliptic.P256()
		case "ES384":
			return k.Curve == elliptic.P384()
		case "ES512":
			return k.Curve == elliptic.P521()
		}
	case ed25519.PublicKey:
		return alg == "EdDSA" && asap.CheckPublicKey(k) == nil
	}
	return false
}

// numericDate is a time of RFC 7519: a JSON number of seconds, which may have a
// fraction.
type numericDate float64

// valid tells whether it is a number that can be a time.
func (d *numericDate) valid() bool {
	return d == nil || (float64(*d) >= 0 && float64(*d) <= math.MaxInt32*100)
}

func (d *numericDate) after(now time.Time) bool { return float64(*d) > float64(now.UnixMilli())/1000 }

// texts is a claim that is one text or a list of them.
type texts []string

// UnmarshalJSON reads either form.
func (t *texts) UnmarshalJSON(b []byte) error {
	if jsontext.Value(b).Kind() == '"' {
		*t = make(texts, 1)
		return json.Unmarshal(b, &(*t)[0])
	}
	return json.Unmarshal(b, (*[]string)(t))
}

// scopes are the words of all the texts.
func (t texts) scopes() []string { return strings.Fields(strings.Join(t, " ")) }

// caller judges the claims of a token whose signature is good.
func (o *OIDC) caller(payload []byte, now time.Time) (Caller, error) {
	var claims struct {
		Issuer    string       `json:"iss"`
		Audience  texts        `json:"aud"`
		Expires   *numericDate `json:"exp"`
		NotBefore *numericDate `json:"nbf"`
		Issued    *numericDate `json:"iat"`
		Scope     texts        `json:"scope"`
		Scp       texts        `json:"scp"`
	}
	var all map[string]jsontext.Value
	if json.Unmarshal(payload, &claims) != nil || json.Unmarshal(payload, &all) != nil {
		return Caller{}, errors.New("its claims are not of the right form")
	}
	soon := now.Add(ClockSkew)
	switch {
	case claims.Issuer != o.cfg.Issuer:
		return Caller{}, errors.New("another issuer")
	case !slices.ContainsFunc(o.cfg.Audiences, func(a string) bool { return slices.Contains(claims.Audience, a) }):
		return Caller{}, errors.New("meant for somebody else")
	case claims.Expires == nil || !claims.Expires.valid() || !claims.NotBefore.valid() || !claims.Issued.valid():
		return Caller{}, errors.New("without expiry, or with an impossible time")
	case !claims.Expires.after(now):
		return Caller{}, errors.New("expired")
	case claims.NotBefore != nil && claims.NotBefore.after(soon), claims.Issued != nil && claims.Issued.after(soon):
		return Caller{}, errors.New("from the future")
	}
	scopes := append(claims.Scope.scopes(), claims.Scp.scopes()...)
	if slices.Contains(scopes, AdminScope) {
		return Caller{Role: Operator}, nil
	}
	value := all[o.cfg.AgentClaim]
	var text string
	if value.Kind() != '"' || json.Unmarshal(value, &text) != nil {
		return Caller{}, errors.New("it names no agent")
	}
	urn, err := asap.ParseAgentURN(text)
	if err != nil {
		return Caller{}, errors.New("it names no agent")
	}
	if o.cfg.RequiredScope != "" && !slices.Contains(scopes, o.cfg.RequiredScope) {
		return Caller{}, ErrScope
	}
	return Caller{Role: Agent, URN: urn}, nil
}
