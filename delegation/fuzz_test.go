package delegation

import (
	"strings"
	"testing"

	asap "github.com/asap-protocol/asap-go"
)

// addTokens seeds a fuzz target with tokens good and bad.
func addTokens(f *testing.F) {
	f.Helper()
	for _, n := range []int{1, 2, 3, 8} {
		f.Add(chainOf(f, n))
	}
	for _, c := range readRecorded(f).Validation {
		f.Add(c.Token)
	}
	f.Add(limitedToken())
	f.Add("~.~")
}

func limitedToken() string {
	return rootToken(`,"x-asap-constraints":{"max_tasks":5,"max_cost_usd":1.25e-3},"res":["https://x"],"del_max_depth":2`)
}

// FuzzParse: reading never panics, stays within the limits, and agrees with
// Inspect and with itself.
func FuzzParse(f *testing.F) {
	addTokens(f)
	f.Fuzz(func(t *testing.T, token string) {
		chain, err := Parse(token)
		if _, again := Inspect(token, at(testNow)); (again == nil) != (err == nil) {
			t.Fatalf("Parse says %v, Inspect %v", err, again)
		}
		if err != nil {
			if r := AsRefusal(err); r == nil || r.Step > StepShape {
				t.Fatalf("not a refusal of shape: %v", err)
			}
			return
		}
		if len(token) > MaxTokenBytes || len(chain.Links()) != strings.Count(token, Separator)+1 || len(chain.Links()) > MaxLinks {
			t.Fatalf("%d links of %d bytes", len(chain.Links()), len(token))
		}
		for _, l := range chain.Links() {
			_, issuer := asap.ParseAgentURN(string(l.Issuer))
			_, holder := asap.ParseAgentURN(string(l.Delegate))
			if issuer != nil || holder != nil || l.TokenID == "" || len(l.Scopes) == 0 || l.ExpiresAtUnix <= l.IssuedAtUnix {
				t.Fatalf("%+v", l)
			}
		}
	})
}

// FuzzVerify: only what the world's keys signed is accepted, and the cache
// agrees.
func FuzzVerify(f *testing.F) {
	addTokens(f)
	policy := testPolicy(f)
	verifier := NewVerifier(*policy)
	valid := map[string]bool{limitedToken(): true}
	for n := 1; n <= MaxLinks; n++ {
		valid[chainOf(f, n)] = true
	}
	f.Fuzz(func(t *testing.T, token string) {
		query := ask(agentB, ScopeTaskExecute)
		if chain, err := Parse(token); err == nil {
			query.Caller = chain.Actor()
		}
		_, err := Verify(token, policy, query)
		for range 2 {
			if _, again := verifier.Verify(token, query); (again == nil) != (err == nil) || (err != nil && again.Error() != err.Error()) {
				t.Fatalf("Verify says %v, the cache %v", err, again)
			}
		}
		if err == nil && !valid[token] {
			t.Fatalf("accepted: %s", token)
		}
	})
}

// FuzzSignatureInput: structured fields never panic, and what is read stands in
// the text as it is.
func FuzzSignatureInput(f *testing.F) {
	f.Add(`asap=("@method" "x";sf);created=1;keyid="k\"";tag="asap-delegation", b=:AAAA:`)
	f.Fuzz(func(t *testing.T, text string) {
		members, err := parseDictionary(text)
		if err != nil {
			return
		}
		for _, m := range members {
			again, err := parseDictionary(m.key + "=" + m.raw)
			if err != nil || len(again) != 1 || again[0].raw != m.raw || len(again[0].items) != len(m.items) {
				t.Fatalf("%q read again: %+v, %v", m.raw, again, err)
			}
		}
	})
}
