package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// The world of the tests: the clock stands at testNow, the node is node and
// hosts echo, and agents a and b have keys of one repeated byte.
const (
	testNow = 1_800_000_000

	agentA asap.AgentURN = "urn:asap:agent:a"
	agentB asap.AgentURN = "urn:asap:agent:b"
	node   asap.AgentURN = "urn:asap:agent:node"
	echo   asap.AgentURN = "urn:asap:agent:echo"
)

func at(unix int64) time.Time { return time.Unix(unix, 0).UTC() }

func key(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func public(b byte) ed25519.PublicKey { return key(b).Public().(ed25519.PublicKey) }

// jwt signs header and claims with an Ed25519 key.
func jwt(signer ed25519.PrivateKey, header, claims string) string {
	b64 := base64.RawURLEncoding
	signed := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(claims))
	return signed + "." + b64.EncodeToString(ed25519.Sign(signer, []byte(signed)))
}

const agentHeader = `{"alg":"EdDSA","typ":"JWT"}`

func agentClaims(agent, audience asap.AgentURN, iat, exp int64) string {
	return fmt.Sprintf(`{"iss":%q,"sub":%q,"aud":%q,"iat":%d,"exp":%d}`, agent, agent, audience, iat, exp)
}

func agentToken(signer ed25519.PrivateKey, agent, audience asap.AgentURN) string {
	return jwt(signer, agentHeader, agentClaims(agent, audience, testNow-60, testNow+240))
}

func testRing(t testing.TB, keys ...Key) *KeyRing {
	t.Helper()
	ring := NewKeyRing(func() time.Time { return at(testNow) })
	if err := ring.Replace(keys); err != nil {
		t.Fatal(err)
	}
	return ring
}

// testAuthenticator knows keys 1 and 11 of a, 2 of b, and the operator's token.
func testAuthenticator(t testing.TB) *Authenticator {
	t.Helper()
	return &Authenticator{
		Operator:  NewOperatorToken(func() (string, error) { return "asap_op_secret", nil }),
		Keys:      testRing(t, Key{Agent: agentA, Public: public(1)}, Key{Agent: agentA, ID: "second", Public: public(11)}, Key{Agent: agentB, Public: public(2)}),
		Audiences: []asap.AgentURN{node, echo},
		Now:       func() time.Time { return at(testNow) },
	}
}
