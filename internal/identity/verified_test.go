package identity

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Of a token that was verified before nothing but its signature is taken on
// trust: its time, its audience and its key are judged again.
func TestTokenSeenBefore(t *testing.T) {
	a := testAuthenticator(t)
	now := at(testNow)
	a.Now = func() time.Time { return now }
	credentials := Credentials{Authorization: []string{"Bearer " + agentToken(key(1), agentA, node)}}
	good := func(when string) {
		t.Helper()
		if got, err := a.Authenticate(t.Context(), credentials); err != nil || got.URN != agentA {
			t.Errorf("%s: %+v, %v", when, got, err)
		}
	}
	bad := func(when string) {
		t.Helper()
		if got, err := a.Authenticate(t.Context(), credentials); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", when, got, err)
		}
	}
	good("first")
	if len(a.verified.tokens) != 1 {
		t.Fatal(len(a.verified.tokens))
	}
	good("again")

	now = at(testNow + 240)
	bad("expired")
	now = at(testNow)
	good("in time")

	a.Audiences = []asap.AgentURN{echo}
	bad("for another node")
	a.Audiences = []asap.AgentURN{node}

	replace := func(keys ...Key) {
		t.Helper()
		if err := a.Keys.Replace(keys); err != nil {
			t.Fatal(err)
		}
	}
	replace(Key{Agent: agentA, Public: public(5)})
	bad("the agent has another key")
	replace(Key{Agent: agentB, Public: public(1)})
	bad("the key is another agent's")
	replace()
	bad("the agent has no key")
	replace(Key{Agent: agentA, Public: public(1)}, Key{Agent: agentA, Public: public(1), Compromised: true})
	bad("the key is compromised")
	replace(Key{Agent: agentA, Public: public(5)}, Key{Agent: agentA, Public: public(1)})
	good("the key is back, beside another")
}

// What is remembered is bounded, forged tokens and those of unknown agents are
// not remembered at all, and neither are very long ones.
func TestTokensRemembered(t *testing.T) {
	a := testAuthenticator(t)
	ask := func(token string) {
		_, _ = a.Authenticate(t.Context(), Credentials{Authorization: []string{"Bearer " + token}})
	}
	ask(agentToken(key(5), agentA, node))
	ask(agentToken(key(1), "urn:asap:agent:stranger", node))
	ask(jwt(key(1), agentHeader, strings.Replace(agentClaims(agentA, node, testNow, testNow+1), "{", fmt.Sprintf(`{"x":%q,`, strings.Repeat("x", maxVerifiedBytes)), 1)))
	if n := len(a.verified.tokens); n != 0 {
		t.Errorf("%d tokens are remembered", n)
	}
	for i := range maxVerified + 10 {
		a.verified.put(fmt.Sprint(i), verifiedToken{})
	}
	if n := len(a.verified.tokens); n != 10 {
		t.Errorf("%d tokens are remembered", n)
	}
}

// Whether a key is sound is found out once, for bounded many.
func TestSoundKeys(t *testing.T) {
	var s soundKeys
	for range 2 {
		if !s.check(public(1)) || s.check(make([]byte, 32)) || s.check(nil) {
			t.Error("sound is not told from unsound")
		}
	}
	s.keys = make(map[[32]byte]bool)
	for i := range maxSoundKeys {
		s.keys[[32]byte{byte(i), byte(i >> 8), byte(i >> 16)}] = false
	}
	if !s.check(public(1)) || len(s.keys) != 1 {
		t.Error(len(s.keys))
	}
}

// BenchmarkAuthenticate is what a request pays to say who it is: with a token
// that was seen before, and with a new one.
func BenchmarkAuthenticate(b *testing.B) {
	a := testAuthenticator(b)
	credentials := Credentials{Authorization: []string{"Bearer " + agentToken(key(1), agentA, node)}}
	for _, seen := range []bool{true, false} {
		b.Run(fmt.Sprintf("seen=%t", seen), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !seen {
					a.verified = verifiedTokens{}
				}
				if _, err := a.Authenticate(b.Context(), credentials); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
