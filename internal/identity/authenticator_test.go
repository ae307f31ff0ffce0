package identity

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/delegation"
)

func certificate(t *testing.T, uris ...string) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{NotBefore: at(testNow - 100), NotAfter: at(testNow + 100)}
	for _, text := range uris {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = append(c.URIs, u)
	}
	return c
}

// What is presented, and who that is.
func TestAuthenticate(t *testing.T) {
	a := testAuthenticator(t)
	isA, isB := Caller{Role: Agent, URN: agentA}, Caller{Role: Agent, URN: agentB}
	expired := certificate(t, string(agentA))
	expired.NotAfter = at(testNow - 1)
	future := certificate(t, string(agentA))
	future.NotBefore = at(testNow + 1)
	root := issueDelegation(t)
	one := func(token string) []string { return []string{"Bearer " + token} }
	signed := func(claims string) []string { return one(jwt(key(1), agentHeader, claims)) }
	good := agentToken(key(1), agentA, node)
	for _, c := range []struct {
		name string
		give Credentials
		want Caller
		err  error
	}{
		{"nothing", Credentials{}, Caller{}, ErrNone},
		{"agent, for the node", Credentials{Authorization: one(good)}, isA, nil},
		{"agent, for one it hosts", Credentials{Authorization: one(agentToken(key(1), agentA, echo))}, isA, nil},
		{"scheme in lower case", Credentials{Authorization: []string{"bearer  " + good + " "}}, isA, nil},
		{"second key", Credentials{Authorization: one(agentToken(key(11), agentA, node))}, isA, nil},
		{"second key, named", Credentials{Authorization: one(jwt(key(11), `{"alg":"Ed25519","kid":"second"}`, agentClaims(agentA, node, testNow, testNow+1)))}, isA, nil},
		{"of just now, by a fast clock", Credentials{Authorization: signed(agentClaims(agentA, node, testNow+30, testNow+60))}, isA, nil},
		{"of one hour", Credentials{Authorization: signed(agentClaims(agentA, node, testNow-1, testNow+3599))}, isA, nil},
		{"several audiences", Credentials{Authorization: signed(`{"iss":"urn:asap:agent:a","sub":"urn:asap:agent:a","aud":["x","urn:asap:agent:node"],"iat":1800000000,"exp":1800000001,"nbf":1800000030}`)}, isA, nil},
		{"operator", Credentials{Authorization: one("asap_op_secret")}, Caller{Role: Operator}, nil},
		{"certificate", Credentials{Certificate: certificate(t, "https://example.com", string(agentB))}, isB, nil},
		{"certificate and token", Credentials{Authorization: one(good), Certificate: certificate(t, string(agentA))}, isA, nil},
		{"operator over a certificate", Credentials{Authorization: one("asap_op_secret"), Certificate: certificate(t, string(agentA))}, Caller{Role: Operator}, nil},
		{"certificate of no agent", Credentials{Certificate: certificate(t, "https://example.com")}, Caller{}, ErrNone},
		{"token, certificate of no agent", Credentials{Authorization: one(good), Certificate: certificate(t)}, isA, nil},

		{"other scheme", Credentials{Authorization: []string{"Basic Zm9v"}}, Caller{}, ErrInvalid},
		{"empty", Credentials{Authorization: []string{""}}, Caller{}, ErrInvalid},
		{"no token", Credentials{Authorization: []string{"Bearer "}}, Caller{}, ErrInvalid},
		{"two headers", Credentials{Authorization: []string{"Bearer " + good, "Bearer " + good}}, Caller{}, ErrInvalid},
		{"huge", Credentials{Authorization: one(strings.Repeat("x.", MaxTokenBytes))}, Caller{}, ErrInvalid},
		{"garbage", Credentials{Authorization: one("garbage")}, Caller{}, ErrInvalid},
		{"garbage with dots", Credentials{Authorization: one("a.b.c")}, Caller{}, ErrInvalid},
		{"nearly the operator's", Credentials{Authorization: one("asap_op_secre")}, Caller{}, ErrInvalid},
		{"alg none", Credentials{Authorization: one(jwt(key(1), `{"alg":"none"}`, agentClaims(agentA, node, testNow, testNow+60)))}, Caller{}, ErrInvalid},
		{"alg none, unsigned", Credentials{Authorization: one(strings.Join(strings.Split(jwt(key(1), `{"alg":"none"}`, agentClaims(agentA, node, testNow, testNow+60)), ".")[:2], ".") + ".")}, Caller{}, ErrInvalid},
		{"HS256 with the public key", Credentials{Authorization: one(hs256(public(1), agentClaims(agentA, node, testNow, testNow+60)))}, Caller{}, ErrInvalid},
		{"another's key", Credentials{Authorization: one(agentToken(key(2), agentA, node))}, Caller{}, ErrInvalid},
		{"unknown key", Credentials{Authorization: one(agentToken(key(77), agentA, node))}, Caller{}, ErrInvalid},
		{"unknown agent", Credentials{Authorization: one(agentToken(key(77), "urn:asap:agent:nobody", node))}, Caller{}, ErrInvalid},
		{"key named that there is not", Credentials{Authorization: one(jwt(key(11), `{"alg":"EdDSA","kid":"third"}`, agentClaims(agentA, node, testNow, testNow+60)))}, Caller{}, ErrInvalid},
		{"for somebody else", Credentials{Authorization: one(agentToken(key(1), agentA, "urn:asap:agent:elsewhere"))}, Caller{}, ErrInvalid},
		{"for the agent itself", Credentials{Authorization: one(agentToken(key(1), agentA, agentA))}, Caller{}, ErrInvalid},
		{"in another's name", Credentials{Authorization: signed(`{"iss":"urn:asap:agent:a","sub":"urn:asap:agent:b","aud":"urn:asap:agent:node","iat":1800000000,"exp":1800000060}`)}, Caller{}, ErrInvalid},
		{"expired now", Credentials{Authorization: signed(agentClaims(agentA, node, testNow-60, testNow))}, Caller{}, ErrInvalid},
		{"expired long ago", Credentials{Authorization: signed(agentClaims(agentA, node, 1, 2))}, Caller{}, ErrInvalid},
		{"from the future", Credentials{Authorization: signed(agentClaims(agentA, node, testNow+31, testNow+60))}, Caller{}, ErrInvalid},
		{"not yet", Credentials{Authorization: signed(`{"iss":"urn:asap:agent:a","sub":"urn:asap:agent:a","aud":"urn:asap:agent:node","iat":1800000000,"exp":1800000060,"nbf":1800000031}`)}, Caller{}, ErrInvalid},
		{"of a day", Credentials{Authorization: signed(agentClaims(agentA, node, testNow, testNow+86400))}, Caller{}, ErrInvalid},
		{"at the end of time", Credentials{Authorization: signed(agentClaims(agentA, node, 1<<63-2, 1<<63-1))}, Caller{}, ErrInvalid},
		{"ends before it begins", Credentials{Authorization: signed(agentClaims(agentA, node, testNow+10, testNow+5))}, Caller{}, ErrInvalid},
		{"URN with a line feed", Credentials{Authorization: signed(agentClaims(agentA+"\n", node, testNow, testNow+60))}, Caller{}, ErrInvalid},
		{"audience with a line feed", Credentials{Authorization: signed(agentClaims(agentA, node+"\n", testNow, testNow+60))}, Caller{}, ErrInvalid},
		{"a delegation", Credentials{Authorization: one(root)}, Caller{}, ErrInvalid},
		{"certificate expired", Credentials{Certificate: expired}, Caller{}, ErrInvalid},
		{"certificate not yet", Credentials{Certificate: future}, Caller{}, ErrInvalid},
		{"certificate of two", Credentials{Certificate: certificate(t, string(agentA), string(agentB))}, Caller{}, ErrInvalid},
		{"certificate of an odd URN", Credentials{Certificate: certificate(t, "urn:asap:agent:A")}, Caller{}, ErrInvalid},
		{"certificate in odd case", Credentials{Certificate: certificate(t, "URN:asap:agent:a/../b")}, Caller{}, ErrInvalid},
		{"certificate and another's token", Credentials{Authorization: one(good), Certificate: certificate(t, string(agentB))}, Caller{}, ErrInvalid},
		{"certificate and a bad token", Credentials{Authorization: one("x.y.z"), Certificate: certificate(t, string(agentA))}, Caller{}, ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := a.Authenticate(t.Context(), c.give)
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %+v, %v, want %+v, %v", got, err, c.want, c.err)
			}
			for _, header := range c.give.Authorization {
				if _, token, _ := strings.Cut(header, " "); err != nil && len(token) > 4 && strings.Contains(err.Error(), token) {
					t.Errorf("the error shows a credential: %v", err)
				}
			}
		})
	}
}

func hs256(secret []byte, claims string) string {
	// The MAC does not matter: nothing computes one.
	b64 := base64.RawURLEncoding
	return b64.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + b64.EncodeToString([]byte(claims)) + "." + b64.EncodeToString(append(secret, secret...))
}

// issueDelegation returns a delegation of a to the node: a token of the same
// form with the same signer that says something else.
func issueDelegation(t *testing.T) string {
	t.Helper()
	return jwt(key(1), agentHeader, `{"iss":"urn:asap:agent:a","aud":"urn:asap:agent:node","jti":"del_1","iat":1800000000,"exp":1800000060,"scp":["task.execute"]}`)
}

// An authenticator without keys, tokens and providers lets nobody in.
func TestNothingConfigured(t *testing.T) {
	a := &Authenticator{Audiences: []asap.AgentURN{node}, Now: func() time.Time { return at(testNow) }}
	for _, token := range []string{"asap_op_secret", agentToken(key(1), agentA, node), "a.b.c"} {
		if who, err := a.Authenticate(t.Context(), Credentials{Authorization: []string{"Bearer " + token}}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v, %v", who, err)
		}
	}
}

// The tokens of package client are the ones that are taken here.
func TestClientTokens(t *testing.T) {
	a := testAuthenticator(t)
	a.Now = time.Now
	tokens, err := client.NewKeyTokens(key(1), agentA, node, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	token, err := tokens.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	who, err := a.Authenticate(t.Context(), Credentials{Authorization: []string{"Bearer " + token}})
	if err != nil || who.URN != agentA {
		t.Errorf("%+v, %v", who, err)
	}
}

// Where an agent has no key, a signature is verified all the same.
func TestNobodysKey(t *testing.T) {
	if err := delegation.CheckKey(nobodysKey()); err != nil {
		t.Errorf("verifying against it ends early: %v", err)
	}
	if ed25519.Verify(nobodysKey(), nil, make([]byte, 64)) {
		t.Error("it verifies nothing")
	}
}

// A new operator token is good at once and the old one no more; wrong ones do
// not keep it from being noticed for long, and do not cause many reads.
func TestOperatorToken(t *testing.T) {
	stored, reads, broken := "first", 0, error(nil)
	o := NewOperatorToken(func() (string, error) { reads++; return stored, broken })
	now := at(testNow)
	if !o.Is("first", now) || o.Is("second", now) || o.Is("", now) {
		t.Error("the first token is judged wrongly")
	}
	stored = "second"
	if !o.Is("second", now) || o.Is("first", now) {
		t.Error("the second token is judged wrongly")
	}
	before := reads
	for range 10_000 {
		if o.Is("guess", now) || o.Is("a.b.c", now) {
			t.Fatal("a guess was good")
		}
	}
	if reads-before > rereadBurst {
		t.Errorf("10,000 guesses caused %d reads", reads-before)
	}
	stored = "third"
	if o.Is("third", now) || !o.Is("third", now.Add(time.Second)) {
		t.Error("the third token is judged wrongly")
	}
	broken = errors.New("gone")
	if err := o.Reload(); !errors.Is(err, broken) || !o.Is("third", now) || o.Is("fourth", now.Add(time.Minute)) {
		t.Errorf("while the file cannot be read: %v", err)
	}
	stored, broken = "", nil
	if err := o.Reload(); err != nil || !o.Is("third", now) || o.Is("", now.Add(time.Hour)) {
		t.Errorf("an empty file: %v", err)
	}
	stored = "fourth"
	if err := o.Reload(); err != nil || o.Is("third", now) || !o.Is("fourth", now) {
		t.Errorf("after a reload: %v", err)
	}
}
