package delegation

import (
	"crypto/ed25519"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	asap "github.com/asap-protocol/asap-go"
)

func TestIssueRefusesWhatCannotStand(t *testing.T) {
	for name, edit := range map[string]func(*Terms){
		"no issuer":          func(l *Terms) { l.Issuer = "" },
		"issuer no URN":      func(l *Terms) { l.Issuer = "a" },
		"delegate no URN":    func(l *Terms) { l.Delegate = `urn:asap:agent:a","x":"` },
		"no id":              func(l *Terms) { l.TokenID = "" },
		"id with quote":      func(l *Terms) { l.TokenID = `a"` },
		"kid with space":     func(l *Terms) { l.KeyID = "a b" },
		"no scopes":          func(l *Terms) { l.Scopes = nil },
		"33 scopes":          func(l *Terms) { l.Scopes = make([]string, 33) },
		"scope with star":    func(l *Terms) { l.Scopes = []string{"task.*"} },
		"no times":           func(l *Terms) { l.IssuedAt, l.ExpiresAt = time.Time{}, time.Time{} },
		"expired at birth":   func(l *Terms) { l.ExpiresAt = l.IssuedAt },
		"before 1970":        func(l *Terms) { l.NotBefore = at(-1) },
		"367 days":           func(l *Terms) { l.ExpiresAt = l.IssuedAt.Add(367 * 24 * time.Hour) },
		"tasks below zero":   func(l *Terms) { l.MaxTasks = number(-1) },
		"cost below zero":    func(l *Terms) { l.MaxNanoUSD = number(-1) },
		"cost above maximum": func(l *Terms) { l.MaxNanoUSD = number(MaxLimitNanoUSD + 1) },
		"depth below zero":   func(l *Terms) { l.MaxDepth = number(-1) },
		"res with space":     func(l *Terms) { l.Resources = []string{"a b"} },
		"jkt with quote":     func(l *Terms) { l.ConfirmJKT = `"` },
		"jkt short":          func(l *Terms) { l.ConfirmJKT = "abc" },
	} {
		own := terms(agentA, agentB, "del_x")
		edit(&own)
		if _, err := Issue(own, keyOf(agentA)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Issue(terms(agentA, agentB, "del_x"), nil); err == nil {
		t.Error("no key: no error")
	}
}

func TestIssueKeepsEveryTerm(t *testing.T) {
	own := terms(agentA, agentB, "del_x")
	own.KeyID, own.NotBefore = "k1", at(testNow-5)
	own.MaxTasks, own.MaxNanoUSD, own.MaxDepth = number(0), number(1), number(2)
	own.Resources = []string{"urn:asap:agent:server", "https://one.example:8443"}
	own.ConfirmJKT = Thumbprint(publicOf(agentB))
	chain, err := Parse(mustIssue(t, own))
	if err != nil {
		t.Fatal(err)
	}
	l := chain.Root()
	if l.Issuer != agentA || l.Delegate != agentB || l.TokenID != "del_x" || l.KeyID != "k1" ||
		!l.IssuedAt().Equal(own.IssuedAt) || !l.ExpiresAt().Equal(own.ExpiresAt) || l.NotBeforeUnix != testNow-5 ||
		!slices.Equal(l.Scopes, own.Scopes) || *l.LimitTasks != 0 || *l.LimitNanoUSD != 1 || *l.MaxDepth != 2 ||
		!slices.Equal(l.Resources, own.Resources) || l.ConfirmJKT != own.ConfirmJKT {
		t.Errorf("%+v", l)
	}
}

func TestNewTokenID(t *testing.T) {
	ids := asap.NewIDSource()
	first, second := NewTokenID(ids, at(testNow)), NewTokenID(ids, at(testNow))
	if !strings.HasPrefix(first, "del_") || len(first) != 30 || first >= second {
		t.Errorf("%s, %s", first, second)
	}
}

func TestAttenuateRefusals(t *testing.T) {
	token := chainOf(t, 1)
	for name, c := range map[string]struct {
		token string
		terms Terms
		key   ed25519.PrivateKey
		code  asap.Code
	}{
		"unreadable token":   {"x", terms(agentB, agentC, "del_x"), keyOf(agentB), asap.CodeDelegationMalformed},
		"not the holder":     {token, terms(agentC, agentD, "del_x"), keyOf(agentC), asap.CodeDelegationChainBroken},
		"ninth link":         {chainOf(t, 8), terms(agentD, agentE, "del_x"), keyOf(agentD), asap.CodeDelegationDepth},
		"wider":              {token, func() Terms { l := terms(agentB, agentC, "x"); l.Scopes = []string{"*"}; return l }(), keyOf(agentB), asap.CodeDelegationEscalation},
		"terms cannot stand": {token, func() Terms { l := terms(agentB, agentC, "x"); l.ExpiresAt = l.IssuedAt; return l }(), keyOf(agentB), asap.CodeDelegationMalformed},
	} {
		_, err := Attenuate(c.token, c.terms, c.key)
		if r := AsRefusal(err); r == nil || r.Code != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if _, err := Attenuate(token, terms(agentB, agentC, ""), keyOf(agentB)); err == nil || AsRefusal(err) != nil {
		t.Errorf("no id: %v", err)
	}
}

var path = []asap.AgentURN{agentA, agentB, agentC, agentD, agentE, agentA, agentB, agentC, agentD}

// within is the naive model of the rules of attenuation: whether the last of
// the links given adds nothing to those before it.
func within(links []Terms) bool {
	last := links[len(links)-1]
	for _, l := range links[:len(links)-1] {
		wild := slices.Contains(l.Scopes, ScopeAll)
		for _, s := range last.Scopes {
			if !wild && !slices.Contains(l.Scopes, s) {
				return false
			}
		}
		for _, r := range last.Resources {
			if len(l.Resources) > 0 && !slices.Contains(l.Resources, r) {
				return false
			}
		}
		for _, pair := range [][2]*int64{{last.MaxTasks, l.MaxTasks}, {last.MaxNanoUSD, l.MaxNanoUSD}, {last.MaxDepth, l.MaxDepth}} {
			if pair[0] != nil && pair[1] != nil && *pair[0] > *pair[1] {
				return false
			}
		}
		if last.ExpiresAt.After(l.ExpiresAt) || last.IssuedAt.Before(l.IssuedAt) {
			return false
		}
		if l.MaxDepth != nil && int64(len(links)-1) > *l.MaxDepth {
			return false
		}
	}
	return true
}

// TestAttenuationNeverWidens draws chains freely, and holds Attenuate and Verify
// against the model at every link.
func TestAttenuationNeverWidens(t *testing.T) {
	policy := testPolicy(t)
	rapid.Check(t, func(t *rapid.T) {
		links := []Terms{drawTerms(t, path[0], path[1], "del_0")}
		token, err := Issue(links[0], keyOf(path[0]))
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < MaxLinks; i++ {
			next := drawTerms(t, path[i], path[i+1], "del_"+strconv.Itoa(i))
			parent, err := Parse(token)
			if err != nil {
				t.Fatal(err)
			}
			if rapid.IntRange(0, 3).Draw(t, "free") > 0 { // else it is likely to be too wide
				if clamped, err := Clamp(parent, next); err == nil && len(clamped.Scopes) > 0 {
					next = clamped
				}
			}
			longer, err := Attenuate(token, next, keyOf(path[i]))
			ok := within(append(links, next))
			if ok != (err == nil) {
				t.Fatalf("link %d: Attenuate says %v, the model %v", i, err, ok)
			}
			link, err := sign(next, keyOf(path[i]), parent)
			if err != nil {
				t.Fatal(err)
			}
			action := next.Scopes[0]
			_, err = Verify(token+Separator+link, policy, Query{Caller: path[i+1], Action: action, Now: at(testNow)})
			if r := AsRefusal(err); ok && r != nil {
				t.Fatalf("link %d: made by Attenuate, refused: %v", i, r)
			} else if !ok && (r == nil || r.Link != i || (r.Code != asap.CodeDelegationEscalation && r.Code != asap.CodeDelegationDepth)) {
				t.Fatalf("link %d: wider than its parents, yet %v", i, err)
			}
			if !ok {
				return
			}
			token, links = longer, append(links, next)
		}
	})
}

// TestClamp: clamped terms are accepted, unless nothing is left of the scopes,
// and are never wider than those asked for.
func TestClamp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		root := drawTerms(t, agentA, agentB, "del_0")
		if root.MaxDepth != nil && *root.MaxDepth == 0 {
			root.MaxDepth = nil
		}
		token, err := Issue(root, keyOf(agentA))
		if err != nil {
			t.Fatal(err)
		}
		parent, err := Parse(token)
		if err != nil {
			t.Fatal(err)
		}
		asked := drawTerms(t, agentB, agentC, "del_1")
		got, err := Clamp(parent, asked)
		if err != nil || len(got.Scopes) == 0 {
			return
		}
		if _, err := Attenuate(token, got, keyOf(agentB)); err != nil {
			t.Fatal(err)
		}
		if exceeds(got.MaxDepth, asked.MaxDepth) || got.IssuedAt.Before(asked.IssuedAt) {
			t.Fatalf("asked %+v, got %+v", asked, got)
		}
		narrower := got
		narrower.MaxDepth, asked.MaxDepth = nil, nil
		if !slices.Contains(asked.Scopes, ScopeAll) && !within([]Terms{asked, narrower}) {
			t.Fatalf("asked %+v, got %+v", asked, got)
		}
	})
	root := terms(agentA, agentB, "del_0")
	root.Resources = []string{"https://one.example"}
	parent, err := Parse(mustIssue(t, root))
	if err != nil {
		t.Fatal(err)
	}
	asked := terms(agentB, agentC, "del_1")
	asked.Resources = []string{"https://two.example"}
	if _, err := Clamp(parent, asked); err == nil {
		t.Error("another server: no error")
	}
}

// TestEveryChangedByteIsRefused changes each byte of valid chains in turn, to
// values that matter and to random ones.
func TestEveryChangedByteIsRefused(t *testing.T) {
	policy := testPolicy(t)
	for n, caller := range map[int]asap.AgentURN{1: agentB, 3: agentD} {
		token := chainOf(t, n)
		if _, err := Verify(token, policy, ask(caller, ScopeDataRead)); err != nil {
			t.Fatal(err)
		}
		for i := range token {
			for _, c := range []byte{token[i] ^ 1, token[i] ^ 0x20, '\n', '=', '.', '~', 'A', 0xff} {
				if c == token[i] {
					continue
				}
				changed := token[:i] + string([]byte{c}) + token[i+1:]
				if _, err := Verify(changed, policy, ask(caller, ScopeDataRead)); AsRefusal(err) == nil {
					t.Fatalf("byte %d of %d links changed to %q is accepted", i, n, c)
				}
			}
			if _, err := Verify(token[:i], policy, ask(caller, ScopeDataRead)); err == nil {
				t.Fatalf("cut to %d bytes, accepted", i)
			}
			if _, err := Verify(token[:i]+token[i+1:], policy, ask(caller, ScopeDataRead)); err == nil {
				t.Fatalf("without byte %d, accepted", i)
			}
		}
	}
	verifier := NewVerifier(*policy)
	tokens := []string{chainOf(t, 1), chainOf(t, 2), chainOf(t, 3)}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "links")
		token := tokens[n-1]
		i := rapid.IntRange(0, len(token)-1).Draw(t, "at")
		b := rapid.Byte().Filter(func(b byte) bool { return b != token[i] }).Draw(t, "byte")
		changed := token[:i] + string([]byte{b}) + token[i+1:]
		if _, err := verifier.Verify(changed, ask(path[n], ScopeDataRead)); AsRefusal(err) == nil {
			t.Fatalf("accepted: %q", changed)
		}
	})
}
