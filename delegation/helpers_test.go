package delegation

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// The world of the tests: agents a, b, c, d, e and m with keys of one repeated
// byte, a being the only root. The clock stands at testNow.
const testNow = 1_800_000_000

var seeds = map[asap.AgentURN]byte{
	agentA: 1, agentB: 2, agentC: 3, agentD: 4, agentE: 5, agentM: 9,
}

const (
	agentA asap.AgentURN = "urn:asap:agent:a"
	agentB asap.AgentURN = "urn:asap:agent:b"
	agentC asap.AgentURN = "urn:asap:agent:c"
	agentD asap.AgentURN = "urn:asap:agent:d"
	agentE asap.AgentURN = "urn:asap:agent:e"
	agentM asap.AgentURN = "urn:asap:agent:m"
)

func keyOf(agent asap.AgentURN) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seeds[agent]}, ed25519.SeedSize))
}

func publicOf(agent asap.AgentURN) ed25519.PublicKey {
	return keyOf(agent).Public().(ed25519.PublicKey)
}

func testRing(t testing.TB) *KeyRing {
	t.Helper()
	ring := new(KeyRing)
	for agent := range seeds {
		if err := ring.Add(agent, Key{Public: publicOf(agent)}); err != nil {
			t.Fatal(err)
		}
	}
	return ring
}

func testPolicy(t testing.TB) *Policy {
	t.Helper()
	return &Policy{Keys: testRing(t), IsRoot: Roots(agentA), Revoked: NewRevocationSet().Revoked}
}

func at(unix int64) time.Time { return time.Unix(unix, 0) }

func ask(caller asap.AgentURN, action string) Query {
	return Query{Caller: caller, Action: action, Now: at(testNow)}
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jws signs any header and payload.
func jws(header, payload string, key ed25519.PrivateKey) string {
	text := encode([]byte(header)) + "." + encode([]byte(payload))
	return text + "." + encode(ed25519.Sign(key, []byte(text)))
}

// rootToken signs the usual claims of a root link a>b with more claims spliced
// in at the end, such as `,"nbf":5`.
func rootToken(more string) string {
	return jws(rootHeader, rootClaims+more+"}", keyOf(agentA))
}

const rootClaims = `{"iss":"urn:asap:agent:a","aud":"urn:asap:agent:b","jti":"del_root","iat":1799999940,"exp":1800003600,"scp":["task.execute","data.read"]`

// claims edits the usual root claims: each pair replaces a part of the text.
func claims(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(rootClaims + "}") }

// terms are the usual terms of a link.
func terms(issuer, delegate asap.AgentURN, tokenID string) Terms {
	return Terms{
		Issuer: issuer, Delegate: delegate, TokenID: tokenID,
		IssuedAt: at(testNow - 60), ExpiresAt: at(testNow + 3600),
		Scopes: []string{ScopeTaskExecute, ScopeDataRead},
	}
}

func mustIssue(t testing.TB, terms Terms) string {
	t.Helper()
	token, err := Issue(terms, keyOf(terms.Issuer))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// child signs a link below token without any of Attenuate's checks.
func child(t testing.TB, token string, terms Terms) string {
	t.Helper()
	parent, err := Parse(token)
	if err != nil {
		t.Fatal(err)
	}
	link, err := sign(terms, keyOf(terms.Issuer), parent)
	if err != nil {
		t.Fatal(err)
	}
	return token + Separator + link
}

// chainOf makes a valid chain a>b>c>d>e>a>b>c>d of n links.
func chainOf(t testing.TB, n int) string {
	t.Helper()
	path := []asap.AgentURN{agentA, agentB, agentC, agentD, agentE, agentA, agentB, agentC, agentD}
	token := mustIssue(t, terms(path[0], path[1], "del_0"))
	for i := 1; i < n; i++ {
		next, err := Attenuate(token, terms(path[i], path[i+1], "del_"+string(rune('0'+i))), keyOf(path[i]))
		if err != nil {
			t.Fatal(err)
		}
		token = next
	}
	return token
}

func number(v int64) *int64 { return &v }

// wantCode fails unless err is a refusal with the code ("" for none), at the
// link (NoLink for any).
func wantCode(t *testing.T, err error, code asap.Code, link int) {
	t.Helper()
	r := AsRefusal(err)
	switch {
	case r == nil && err != nil:
		t.Fatalf("not a refusal: %v", err)
	case r == nil && code != "":
		t.Fatalf("accepted, want %s", code)
	case r != nil && r.Code != code:
		t.Fatalf("got %v, want %q", r, code)
	case r != nil && link != NoLink && r.Link != link:
		t.Fatalf("got %v, want link %d", r, link)
	}
}
