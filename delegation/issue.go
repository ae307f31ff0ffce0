package delegation

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// DefaultLifetime is how long a token lives if nobody says otherwise.
const DefaultLifetime = 24 * time.Hour

// NewTokenID returns a fresh jti: "del_" and a ULID.
func NewTokenID(ids *asap.IDSource, now time.Time) string { return "del_" + ids.New(now) }

// Terms are what a delegator gives: the content of one link.
type Terms struct {
	// Issuer delegates to Delegate.
	Issuer, Delegate asap.AgentURN
	// TokenID is the jti; see [NewTokenID].
	TokenID string
	// KeyID names the signing key for verifiers, if the issuer has several.
	KeyID string
	// IssuedAt and ExpiresAt are cut to whole seconds.
	IssuedAt, ExpiresAt time.Time
	// NotBefore is left out if zero.
	NotBefore time.Time
	// Scopes holds at least one scope.
	Scopes []string
	// MaxTasks and MaxNanoUSD limit what may be used; nil adds no limit.
	MaxTasks, MaxNanoUSD *int64
	// MaxDepth is the highest index a link below may have: the link's own index
	// forbids further delegation. Nil leaves it open.
	MaxDepth *int64
	// Resources restricts the token to servers, by URN or origin.
	Resources []string
	// ConfirmJKT binds the token to the delegate's key, see [Thumbprint].
	ConfirmJKT string
}

// Issue makes a root token. The result is a token that [Parse] reads, or an
// error that says which term cannot stand.
func Issue(t Terms, key ed25519.PrivateKey) (string, error) {
	token, err := sign(t, key, nil)
	if err != nil {
		return "", fmt.Errorf("issue delegation: %w", err)
	}
	if _, err := Parse(token); err != nil {
		return "", fmt.Errorf("issue delegation: %w", err)
	}
	return token, nil
}

// Attenuate appends a link to a token: its holder, t.Issuer, passes a part of
// what it was given on to t.Delegate. Terms wider than the token are an error,
// a *Refusal of the step that would refuse the result; [Clamp] narrows them
// first. The token itself is read, not verified.
func Attenuate(token string, t Terms, key ed25519.PrivateKey) (string, error) {
	parent, err := Parse(token)
	if err != nil {
		return "", fmt.Errorf("narrow delegation: %w", err)
	}
	link, err := sign(t, key, parent)
	if err != nil {
		return "", fmt.Errorf("narrow delegation: %w", err)
	}
	token += Separator + link
	child, err := Parse(token)
	if err != nil {
		return "", fmt.Errorf("narrow delegation: %w", err)
	}
	for _, check := range []func([]Link) *Refusal{checkLinkage, checkCeiling, checkNarrowing} {
		if r := check(child.links); r != nil {
			return "", fmt.Errorf("narrow delegation: %w", r)
		}
	}
	return token, nil
}

// Clamp narrows terms to what the chain allows: an expiry, limits and a depth
// ceiling beyond an ancestor's are lowered to it, an earlier time of issue is
// raised, scopes and resources the chain lacks are dropped. If no scope is left,
// [Attenuate] refuses the result; resources of which none are left are an error.
func Clamp(parent *Chain, t Terms) (Terms, error) {
	leaf := parent.Leaf()
	if end := parent.ExpiresAt(); t.ExpiresAt.After(end) {
		t.ExpiresAt = end
	}
	if t.IssuedAt.Before(leaf.IssuedAt()) {
		t.IssuedAt = leaf.IssuedAt()
	}
	if !slices.Contains(leaf.Scopes, ScopeAll) {
		if slices.Contains(t.Scopes, ScopeAll) {
			t.Scopes = leaf.Scopes
		} else {
			t.Scopes = slices.DeleteFunc(slices.Clone(t.Scopes), func(s string) bool { return !slices.Contains(leaf.Scopes, s) })
		}
	}
	tasks, nanoUSD := parent.Limits()
	if exceeds(t.MaxTasks, tasks) {
		t.MaxTasks = tasks
	}
	if exceeds(t.MaxNanoUSD, nanoUSD) {
		t.MaxNanoUSD = nanoUSD
	}
	var resources []string
	for i := range parent.links {
		l := &parent.links[i]
		if exceeds(t.MaxDepth, l.MaxDepth) {
			t.MaxDepth = l.MaxDepth
		}
		if len(l.Resources) > 0 {
			resources = l.Resources
		}
	}
	if len(t.Resources) > 0 && len(resources) > 0 {
		t.Resources = slices.DeleteFunc(slices.Clone(t.Resources), func(s string) bool { return !slices.Contains(resources, s) })
		if len(t.Resources) == 0 {
			return t, errors.New("none of the servers named is among those of the token")
		}
	}
	return t, nil
}

// sign writes one link, below parent if that is not nil.
func sign(t Terms, key ed25519.PrivateKey, parent *Chain) (string, error) {
	if len(key) != ed25519.PrivateKeySize {
		return "", errors.New("not an Ed25519 private key")
	}
	if t.KeyID != "" && !visible(t.KeyID, MaxTokenIDBytes) {
		return "", fmt.Errorf("kid must have 1 to %d printable ASCII characters", MaxTokenIDBytes)
	}
	claims, err := appendClaims(make([]byte, 0, 512), t, parent)
	if err != nil {
		return "", err
	}
	header := rootHeader
	if parent != nil {
		header = childHeader
	}
	if t.KeyID != "" {
		header = header[:len(header)-1] + `,"kid":"` + t.KeyID + `"}`
	}
	enc := base64.RawURLEncoding
	text := enc.AppendEncode(make([]byte, 0, 1024), []byte(header))
	text = enc.AppendEncode(append(text, '.'), claims)
	signature := ed25519.Sign(key, text)
	return string(enc.AppendEncode(append(text, '.'), signature)), nil
}

// appendClaims writes the claims in the order of v1.3.0. Every text is checked
// to need no escaping.
func appendClaims(dst []byte, t Terms, parent *Chain) ([]byte, error) {
	for _, urn := range []asap.AgentURN{t.Issuer, t.Delegate} {
		if _, err := asap.ParseAgentURN(string(urn)); err != nil {
			return nil, err
		}
	}
	if !visible(t.TokenID, MaxTokenIDBytes) {
		return nil, fmt.Errorf("jti must have 1 to %d printable ASCII characters", MaxTokenIDBytes)
	}
	if t.IssuedAt.Unix() < 0 || t.ExpiresAt.Unix() < 0 || (!t.NotBefore.IsZero() && t.NotBefore.Unix() < 0) {
		return nil, errors.New("a time before 1970")
	}
	dst = append(dst, `{"iss":"`...)
	dst = append(dst, t.Issuer...)
	dst = append(dst, `","aud":"`...)
	dst = append(dst, t.Delegate...)
	dst = append(dst, `","jti":"`...)
	dst = append(dst, t.TokenID...)
	dst = strconv.AppendInt(append(dst, `","iat":`...), t.IssuedAt.Unix(), 10)
	dst = strconv.AppendInt(append(dst, `,"exp":`...), t.ExpiresAt.Unix(), 10)
	var err error
	if dst, err = appendStrings(dst, "scp", t.Scopes, validScope); err != nil {
		return nil, err
	}
	if dst, err = appendConstraints(dst, t); err != nil {
		return nil, err
	}
	if !t.NotBefore.IsZero() {
		dst = strconv.AppendInt(append(dst, `,"nbf":`...), t.NotBefore.Unix(), 10)
	}
	if parent != nil {
		hash := parent.Leaf().Hash()
		dst = base64.RawURLEncoding.AppendEncode(append(dst, `,"par_hash":"`...), hash[:])
		dst = strconv.AppendInt(append(dst, `","del_depth":`...), int64(len(parent.links)), 10)
	}
	if t.MaxDepth != nil {
		if *t.MaxDepth < 0 {
			return nil, errors.New("a depth ceiling below zero")
		}
		dst = strconv.AppendInt(append(dst, `,"del_max_depth":`...), *t.MaxDepth, 10)
	}
	if len(t.Resources) > 0 {
		isResource := func(s string) bool { return visible(s, MaxResourceBytes) }
		if dst, err = appendStrings(dst, "res", t.Resources, isResource); err != nil {
			return nil, err
		}
	}
	if t.ConfirmJKT != "" {
		if !visible(t.ConfirmJKT, MaxTokenIDBytes) {
			return nil, errors.New("cnf.jkt is not base64url of 32 bytes")
		}
		dst = append(append(append(dst, `,"cnf":{"jkt":"`...), t.ConfirmJKT...), `"}`...)
	}
	return append(dst, '}'), nil
}

func appendStrings(dst []byte, name string, texts []string, check func(string) bool) ([]byte, error) {
	if len(texts) == 0 || len(texts) > MaxScopes {
		return nil, fmt.Errorf("%s must hold 1 to %d texts", name, MaxScopes)
	}
	dst = append(append(append(dst, `,"`...), name...), `":[`...)
	for i, s := range texts {
		if !check(s) {
			return nil, fmt.Errorf("%s: %.60q is not allowed there", name, s)
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), s...), '"')
	}
	return append(dst, ']'), nil
}

func appendConstraints(dst []byte, t Terms) ([]byte, error) {
	if t.MaxTasks == nil && t.MaxNanoUSD == nil {
		return dst, nil
	}
	dst = append(dst, `,"`+constraintsName+`":{`...)
	if t.MaxTasks != nil {
		if *t.MaxTasks < 0 {
			return nil, errors.New("max_tasks below zero")
		}
		dst = strconv.AppendInt(append(dst, `"max_tasks":`...), *t.MaxTasks, 10)
	}
	if t.MaxNanoUSD != nil {
		if *t.MaxNanoUSD < 0 || *t.MaxNanoUSD > MaxLimitNanoUSD {
			return nil, errors.New("max_cost_usd must be 0 to 9000000000 dollars")
		}
		if t.MaxTasks != nil {
			dst = append(dst, ',')
		}
		dst = appendUSD(append(dst, `"max_cost_usd":`...), *t.MaxNanoUSD)
	}
	return append(dst, '}'), nil
}
