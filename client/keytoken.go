package client

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/asap-protocol/asap-go"
)

// MaxTokenLifetime is the longest a token of [KeyTokens] may live.
const MaxTokenLifetime = time.Hour

// KeyTokens is a TokenSource for agents that prove who they are with their own
// key: it signs short-lived bearer tokens, which are JWTs (EdDSA) with iss and
// sub the agent's URN, aud the node's, iat, exp and a fresh jti. One token
// serves until a fifth of its lifetime is left. Call [NewKeyTokens].
type KeyTokens struct {
	key             ed25519.PrivateKey
	agent, audience asap.AgentURN
	lifetime        time.Duration
	ids             *asap.IDSource

	mu    sync.Mutex // guards token and renew
	token string
	renew time.Time
}

// NewKeyTokens returns a source of tokens that say: the holder is agent, towards
// the node with the URN audience. lifetime is at least a second and at most
// [MaxTokenLifetime]; 0 means 5 minutes.
func NewKeyTokens(key ed25519.PrivateKey, agent, audience asap.AgentURN, lifetime time.Duration) (*KeyTokens, error) {
	if lifetime == 0 {
		lifetime = 5 * time.Minute
	}
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("token key: not an Ed25519 private key")
	}
	for what, urn := range map[string]asap.AgentURN{"agent": agent, "audience": audience} {
		if _, err := asap.ParseAgentURN(string(urn)); err != nil {
			return nil, fmt.Errorf("token %s %q: %w", what, urn, err)
		}
	}
	if lifetime < time.Second || lifetime > MaxTokenLifetime {
		return nil, fmt.Errorf("token lifetime %v: must be between 1s and %v", lifetime, MaxTokenLifetime)
	}
	return &KeyTokens{key: key, agent: agent, audience: audience, lifetime: lifetime, ids: asap.NewIDSource()}, nil
}

// Token returns a token that is good for a while yet. It never fails.
func (k *KeyTokens) Token(context.Context) (string, error) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.token == "" || !now.Before(k.renew) {
		k.token = signToken(k.key, k.agent, k.audience, k.ids.New(now), now, k.lifetime)
		k.renew = now.Add(k.lifetime - k.lifetime/5)
	}
	return k.token, nil
}

func signToken(key ed25519.PrivateKey, agent, audience asap.AgentURN, id string, now time.Time, lifetime time.Duration) string {
	// URNs and ULIDs need no escapes.
	claims := fmt.Appendf(nil, `{"iss":"%s","sub":"%s","aud":"%s","iat":%d,"exp":%d,"jti":"%s"}`,
		agent, agent, audience, now.Unix(), now.Add(lifetime).Unix(), id)
	b64 := base64.RawURLEncoding
	signed := b64.EncodeToString([]byte(`{"alg":"EdDSA","typ":"JWT"}`)) + "." + b64.EncodeToString(claims)
	return signed + "." + b64.EncodeToString(ed25519.Sign(key, []byte(signed)))
}
