package identity

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
)

const (
	// MaxTokenLifetime is the longest time between iat and exp of a token that
	// an agent signed.
	MaxTokenLifetime = time.Hour
	// ClockSkew is how far in the future iat and nbf may lie. Expiry has no
	// leeway.
	ClockSkew = 30 * time.Second
	// MaxTokenBytes bounds the bearer tokens that are looked at.
	MaxTokenBytes = 16 << 10
)

var (
	// ErrNone says that nothing was presented.
	ErrNone = errors.New("no credentials")
	// ErrInvalid says that what was presented proves nothing.
	ErrInvalid = errors.New("invalid credentials")
	// ErrScope says that an access token is good but lacks the scope this node
	// demands of all.
	ErrScope = errors.New("insufficient scope")
	// ErrUnavailable says that the keys of the OpenID provider cannot be had, so
	// that nobody knows whether its tokens are good. Later they may be.
	ErrUnavailable = errors.New("the keys of the token issuer are not available")
)

// Role is what a caller is.
type Role int

// The roles.
const (
	Nobody Role = iota
	Agent
	Operator
)

// Caller is who sends a request. The zero Caller is nobody.
type Caller struct {
	Role Role
	URN  asap.AgentURN // of an Agent
}

// Credentials are what a caller presented.
type Credentials struct {
	// Authorization holds the values of that header field, one for each time it
	// was sent.
	Authorization []string
	// Certificate is the client certificate, if TLS verified one against the
	// node's certificate authorities. Nil: none.
	Certificate *x509.Certificate
}

// Authenticator tells who presents credentials. Its members are not changed once
// it is used, and it is safe for concurrent use. Members that are nil prove
// nothing.
type Authenticator struct {
	Operator *OperatorToken
	Keys     *KeyRing
	OIDC     *OIDC
	// Audiences are the URNs a token may be meant for: the node's own and those
	// of the agents it hosts.
	Audiences []asap.AgentURN
	// Now is the clock.
	Now func() time.Time

	verified verifiedTokens
}

// Authenticate tells who presents c. Its error is, or wraps, one of the four of
// this package. With a certificate and a bearer token both must be good, and
// name the same agent unless the token is the operator's.
func (a *Authenticator) Authenticate(ctx context.Context, c Credentials) (Caller, error) {
	certified, err := certified(c.Certificate, a.Now())
	if err != nil {
		return Caller{}, err
	}
	if len(c.Authorization) == 0 {
		if certified == "" {
			return Caller{}, ErrNone
		}
		return Caller{Role: Agent, URN: certified}, nil
	}
	token, err := bearer(c.Authorization)
	if err != nil {
		return Caller{}, err
	}
	caller, err := a.bearer(ctx, token)
	if err == nil && caller.Role == Agent && certified != "" && caller.URN != certified {
		return Caller{}, fmt.Errorf("%w: the token and the certificate name different agents", ErrInvalid)
	}
	return caller, err
}

// bearer finds the token in an Authorization header; the case of the scheme is
// free (RFC 9110, section 11.1).
func bearer(values []string) (string, error) {
	if len(values) != 1 {
		return "", fmt.Errorf("%w: more than one Authorization header", ErrInvalid)
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	token = strings.Trim(token, " ")
	if !ok || token == "" || !strings.EqualFold(scheme, "bearer") {
		return "", fmt.Errorf("%w: no bearer token", ErrInvalid)
	}
	if len(token) > MaxTokenBytes {
		return "", fmt.Errorf("%w: a token of more than %d bytes", ErrInvalid, MaxTokenBytes)
	}
	return token, nil
}

// bearer tells whose token it is. Which kind it is of shows in its text, which
// everybody can see: an agent's names an agent as its issuer.
func (a *Authenticator) bearer(ctx context.Context, token string) (Caller, error) {
	if a.Operator != nil && a.Operator.Is(token, a.Now()) {
		return Caller{Role: Operator}, nil
	}
	if before, known := a.verified.get(token); known {
		return a.agentToken(token, before)
	}
	parsed, agentErr := delegation.ParseAgentToken(token)
	if agentErr == nil {
		return a.agentToken(token, verifiedToken{parsed: parsed})
	}
	if a.OIDC != nil {
		return a.OIDC.verify(ctx, token, a.Now())
	}
	return Caller{}, fmt.Errorf("%w: %w", ErrInvalid, agentErr)
}

// agentToken checks a token that an agent signed. before.key is the key that has
// verified its signature, nil if none has yet.
func (a *Authenticator) agentToken(token string, before verifiedToken) (Caller, error) {
	t, now := before.parsed, a.Now()
	keys := a.Keys.usable(t.Issuer, t.KeyID, now)
	known := len(keys) > 0
	if !known {
		keys = []ed25519.PublicKey{nobodysKey()}
	}
	signed := before.key != nil && slices.ContainsFunc(keys, func(key ed25519.PublicKey) bool { return bytes.Equal(key, before.key) })
	for _, key := range keys {
		if !signed && t.SignedBy(key) {
			signed = true
			if known {
				a.verified.put(token, verifiedToken{t, key})
			}
		}
	}
	refuse := func(why string) (Caller, error) { return Caller{}, fmt.Errorf("%w: %s", ErrInvalid, why) }
	unix, skew := now.Unix(), int64(ClockSkew/time.Second)
	switch {
	case !known:
		return refuse("no usable key of the agent is known")
	case !signed:
		return refuse("not signed with a key of the agent")
	case t.Subject != t.Issuer:
		return refuse("sub and iss differ")
	case t.ExpiresAtUnix <= t.IssuedAtUnix:
		return refuse("exp is not after iat")
	case t.ExpiresAtUnix-t.IssuedAtUnix > int64(MaxTokenLifetime/time.Second):
		return refuse("a lifetime of more than an hour")
	case t.IssuedAtUnix > unix+skew, t.NotBeforeUnix > unix+skew:
		return refuse("from the future")
	case unix >= t.ExpiresAtUnix:
		return refuse("expired")
	case !slices.ContainsFunc(a.Audiences, func(urn asap.AgentURN) bool { return slices.Contains(t.Audience, string(urn)) }):
		return refuse("meant for somebody else")
	}
	return Caller{Role: Agent, URN: t.Issuer}, nil
}

// nobodysKey is a point of the curve whose private key nobody knows: the
// encoding of y = 3. It is verified against where an agent has no key.
func nobodysKey() ed25519.PublicKey {
	key := make(ed25519.PublicKey, ed25519.PublicKeySize)
	key[0] = 3
	return key
}

// certified returns the agent a client certificate names as URI in its subject
// alternative names, or "" if it names none.
func certified(cert *x509.Certificate, now time.Time) (asap.AgentURN, error) {
	if cert == nil {
		return "", nil
	}
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) { // a connection may outlive it
		return "", fmt.Errorf("%w: the certificate is not in force", ErrInvalid)
	}
	var found asap.AgentURN
	for _, uri := range cert.URIs {
		text := uri.String()
		if !strings.HasPrefix(strings.ToLower(text), "urn:asap:agent:") {
			continue
		}
		urn, err := asap.ParseAgentURN(text)
		switch {
		case err != nil:
			return "", fmt.Errorf("%w: certificate: %w", ErrInvalid, err)
		case found != "":
			return "", fmt.Errorf("%w: the certificate names two agents", ErrInvalid)
		}
		found = urn
	}
	return found, nil
}
