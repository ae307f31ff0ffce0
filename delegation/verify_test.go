package delegation

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	asap "github.com/asap-protocol/asap-go"
)

func TestGrantForTheLedger(t *testing.T) {
	root := terms(agentA, agentB, "del_root")
	root.MaxTasks, root.MaxNanoUSD = number(10), number(2_500_000_000)
	leaf := terms(agentB, agentC, "del_leaf")
	leaf.MaxTasks, leaf.ExpiresAt, leaf.Scopes = number(4), at(testNow+60), []string{ScopeTaskExecute}
	token, err := Attenuate(mustIssue(t, root), leaf, keyOf(agentB))
	if err != nil {
		t.Fatal(err)
	}
	grant, err := Verify(token, testPolicy(t), ask(agentC, ScopeTaskExecute))
	if err != nil {
		t.Fatal(err)
	}
	type limits struct {
		Issuer, TokenID string
		Tasks, NanoUSD  *int64
	}
	var got []limits
	for _, l := range grant.Links() {
		got = append(got, limits{string(l.Issuer), l.TokenID, l.LimitTasks, l.LimitNanoUSD})
	}
	want := []limits{
		{string(agentA), "del_root", number(10), number(2_500_000_000)},
		{string(agentB), "del_leaf", number(4), nil},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if grant.Principal() != agentA || grant.Actor() != agentC || grant.Root().TokenID != "del_root" || grant.Leaf().TokenID != "del_leaf" {
		t.Errorf("principal %s, actor %s", grant.Principal(), grant.Actor())
	}
	if !grant.ExpiresAt().Equal(at(testNow + 60)) {
		t.Errorf("expires at %s", grant.ExpiresAt())
	}
	if !grant.Allows(ScopeTaskExecute) || grant.Allows(ScopeDataRead) || grant.Allows("own.scope") {
		t.Error("effective scopes are wrong")
	}
	tasks, nanoUSD := grant.Limits()
	if *tasks != 4 || *nanoUSD != 2_500_000_000 {
		t.Errorf("limits %d, %d", *tasks, *nanoUSD)
	}
}

func TestMayRevoke(t *testing.T) {
	chain, err := Parse(chainOf(t, 3)) // a>b>c>d
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		who  asap.AgentURN
		link int
		want bool
	}{
		{agentA, 0, true}, {agentA, 2, true}, // issuer, and issuer above
		{agentB, 0, true}, {agentB, 1, true}, {agentB, 2, true}, // holder, issuer, issuer above
		{agentC, 0, false}, {agentC, 1, true}, {agentC, 2, true},
		{agentD, 0, false}, {agentD, 1, false}, {agentD, 2, true},
		{agentM, 2, false}, {agentA, 3, false}, {agentA, -1, false},
	} {
		if got := chain.MayRevoke(c.who, c.link); got != c.want {
			t.Errorf("%s, link %d: %v", c.who, c.link, got)
		}
	}
}

// forged replaces the last link's signature by one of m.
func forged(token string) string {
	text := token[:strings.LastIndexByte(token, '.')]
	link := text[strings.LastIndexByte(text, '~')+1:]
	return text + "." + encode(ed25519.Sign(keyOf(agentM), []byte(link)))
}

func TestCodes(t *testing.T) {
	narrow := func(edit func(*Terms)) string {
		leaf := terms(agentB, agentC, "del_leaf")
		leaf.Scopes = []string{ScopeDataRead}
		edit(&leaf)
		root := terms(agentA, agentB, "del_root")
		root.MaxTasks, root.MaxNanoUSD, root.MaxDepth = number(10), number(10*NanoPerUSD), number(3)
		root.Resources = []string{"urn:asap:agent:server", "https://one.example"}
		return child(t, mustIssue(t, root), leaf)
	}
	bound := terms(agentA, agentB, "del_root")
	bound.ConfirmJKT = Thumbprint(publicOf(agentB))
	lent := terms(agentA, agentB, "del_root")
	lent.ConfirmJKT = Thumbprint(publicOf(agentM))
	forbids := terms(agentA, agentB, "del_root")
	forbids.MaxDepth = number(0)
	none := terms(agentA, agentB, "del_root")
	none.MaxTasks = number(0)
	restricted := terms(agentA, agentB, "del_root")
	restricted.Resources = []string{"https://one.example"}

	type test struct {
		name   string
		token  string
		code   asap.Code
		link   int
		query  func(*Query)
		policy func(*Policy)
	}
	revoke := func(issuer asap.AgentURN, id string) func(*Policy) {
		return func(p *Policy) {
			set := NewRevocationSet()
			set.Add(issuer, id)
			p.Revoked = set.Revoked
		}
	}
	unreadable := func(p *Policy) {
		p.Revoked = func(asap.AgentURN, string) (bool, error) { return true, errors.New("feed is stale") }
	}
	here := func(names ...string) func(*Policy) { return func(p *Policy) { p.Resources = names } }
	by := func(who asap.AgentURN) func(*Query) { return func(q *Query) { q.Caller = who } }
	do := func(action string) func(*Query) { return func(q *Query) { q.Action = action } }
	when := func(unix int64) func(*Query) { return func(q *Query) { q.Now = at(unix) } }
	eight, nine := chainOf(t, 8), chainOf(t, 8)+Separator+rootToken("")
	hop := chainOf(t, 2)

	for _, c := range []test{
		{name: "accepted", token: rootToken("")},
		{name: "accepted, eight links", token: eight, query: by(agentD)},
		{name: "accepted, own scope under the wildcard", token: jws(rootHeader, claims(`"task.execute",`, `"*",`), keyOf(agentA)), query: do("own.scope")},
		{name: "accepted, own scope", token: jws(rootHeader, claims(`"task.execute",`, `"own:Scope/1",`), keyOf(agentA)), query: do("own:Scope/1")},
		{name: "accepted, del_depth 0 at the root", token: rootToken(`,"del_depth":0`)},
		{name: "accepted, one instant before expiry", token: rootToken(""), query: func(q *Query) { q.Now = at(testNow + 3600).Add(-1) }},
		{name: "accepted, restricted to this server", token: jws(rootHeader, rootClaims+`,"res":["https://one.example"]}`, keyOf(agentA)), policy: here("urn:asap:agent:x", "https://one.example")},
		{name: "accepted, restricted and no server given", token: mustIssue(t, restricted)},

		{name: "token too large", token: strings.Repeat("a", MaxTokenBytes+1), code: asap.CodeDelegationTooLarge, link: NoLink},
		{name: "link too large", token: rootToken("") + "~" + strings.Repeat("a", MaxLinkBytes+1), code: asap.CodeDelegationTooLarge, link: 1},
		{name: "too large before too many", token: nine + "~" + strings.Repeat("a", MaxLinkBytes+1), code: asap.CodeDelegationTooLarge, link: 9},
		{name: "nine links", token: nine, code: asap.CodeDelegationDepth, link: 8},
		{name: "nine links before malformed", token: "x~" + eight, code: asap.CodeDelegationDepth, link: 8},
		{name: "malformed", token: "x", code: asap.CodeDelegationMalformed},
		{name: "malformed second link", token: rootToken("") + "~x", code: asap.CodeDelegationMalformed, link: 1},
		{name: "malformed second before bad first", token: forged(rootToken("")) + "~x", code: asap.CodeDelegationMalformed, link: 1},
		{name: "alg none, no signature", token: encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(rootClaims+"}")) + ".", code: asap.CodeDelegationUnsupportedAlg},
		{name: "unknown issuer", token: rootToken(""), code: asap.CodeDelegationUnknownIssuer, policy: func(p *Policy) { p.Keys = new(KeyRing) }},
		{name: "unknown issuer without keys", token: rootToken(""), code: asap.CodeDelegationUnknownIssuer, policy: func(p *Policy) { p.Keys = nil }},
		{name: "unknown issuer of the second link before root", token: hop, code: asap.CodeDelegationUnknownIssuer, link: 1,
			policy: func(p *Policy) { p.IsRoot = nil; p.Keys.(*KeyRing).Withdraw(agentB, "") }},
		{name: "no root", token: rootToken(""), code: asap.CodeDelegationRootUntrusted, policy: func(p *Policy) { p.IsRoot = nil }},
		{name: "no root before bad signature", token: forged(rootToken("")), code: asap.CodeDelegationRootUntrusted, policy: func(p *Policy) { p.IsRoot = nil }},
		{name: "bad signature", token: forged(rootToken("")), code: asap.CodeDelegationBadSignature},
		{name: "bad signature before linkage", token: forged(rootToken("") + "~" + rootToken("")), code: asap.CodeDelegationBadSignature, link: 1},
		{name: "two roots", token: rootToken("") + "~" + rootToken(""), code: asap.CodeDelegationChainBroken, link: 1},
		{name: "iss is not the aud before", token: child(t, rootToken(""), terms(agentC, agentD, "del_x")), code: asap.CodeDelegationChainBroken, link: 1},
		{name: "other parent", token: rootToken(`,"x":1`) + hop[strings.IndexByte(hop, '~'):], code: asap.CodeDelegationChainBroken, link: 1},
		{name: "root with par_hash", token: rootToken(`,"par_hash":"` + encode(make([]byte, 32)) + `"`), code: asap.CodeDelegationChainBroken},
		{name: "root with del_depth", token: rootToken(`,"del_depth":1`), code: asap.CodeDelegationChainBroken},
		{name: "root marked as child", token: jws(childHeader, rootClaims+"}", keyOf(agentA)), code: asap.CodeDelegationChainBroken},
		{name: "child not marked", token: unmarked(t, hop, rootHeader), code: asap.CodeDelegationChainBroken, link: 1},
		{name: "child marked without crit", token: unmarked(t, hop, `{"alg":"EdDSA","asap-chain":1}`), code: asap.CodeDelegationChainBroken, link: 1},
		{name: "linkage before depth", token: child(t, mustIssue(t, forbids), terms(agentC, agentD, "del_x")), code: asap.CodeDelegationChainBroken, link: 1},
		{name: "depth forbidden", token: child(t, mustIssue(t, forbids), terms(agentB, agentC, "del_x")), code: asap.CodeDelegationDepth, link: 1, query: when(0)},
		{name: "depth ceiling raised", token: narrow(func(l *Terms) { l.MaxDepth = number(4) }), code: asap.CodeDelegationEscalation, link: 1, query: when(0)},
		{name: "issued ahead", token: rootToken(""), code: asap.CodeDelegationNotYetValid, query: when(1799999940 - 31)},
		{name: "no time at all", token: rootToken(""), code: asap.CodeDelegationNotYetValid, query: func(q *Query) { q.Now = time.Time{} }},
		{name: "not before", token: rootToken(`,"nbf":1800000001`), code: asap.CodeDelegationNotYetValid},
		{name: "expired", token: rootToken(""), code: asap.CodeDelegationExpired, query: when(1800003600)},
		{name: "leaf expired", token: narrow(func(l *Terms) { l.ExpiresAt = at(testNow) }), code: asap.CodeDelegationExpired, link: 1},
		{name: "expired before escalation", token: narrow(func(l *Terms) { l.Scopes = []string{ScopeAll} }), code: asap.CodeDelegationExpired, query: when(testNow + 3600)},
		{name: "outlives parent", token: narrow(func(l *Terms) { l.ExpiresAt = at(testNow + 3601) }), code: asap.CodeDelegationEscalation, link: 1},
		{name: "issued before parent", token: narrow(func(l *Terms) { l.IssuedAt = at(testNow - 61) }), code: asap.CodeDelegationEscalation, link: 1},
		{name: "scope added", token: narrow(func(l *Terms) { l.Scopes = []string{ScopeDataRead, ScopeDataWrite} }), code: asap.CodeDelegationEscalation, link: 1},
		{name: "wildcard added", token: narrow(func(l *Terms) { l.Scopes = []string{ScopeAll} }), code: asap.CodeDelegationEscalation, link: 1},
		{name: "tasks raised", token: narrow(func(l *Terms) { l.MaxTasks = number(11) }), code: asap.CodeDelegationEscalation, link: 1},
		{name: "cost raised", token: narrow(func(l *Terms) { l.MaxNanoUSD = number(10*NanoPerUSD + 1) }), code: asap.CodeDelegationEscalation, link: 1},
		{name: "server added", token: narrow(func(l *Terms) { l.Resources = []string{"https://two.example"} }), code: asap.CodeDelegationEscalation, link: 1},
		{name: "escalation before revocation", token: narrow(func(l *Terms) { l.Scopes = []string{ScopeAll} }), code: asap.CodeDelegationEscalation, link: 1, policy: revoke(agentA, "del_root")},
		{name: "root revoked", token: hop, code: asap.CodeDelegationRevoked, policy: revoke(agentA, "del_0")},
		{name: "leaf revoked, before audience", token: hop, code: asap.CodeDelegationRevoked, link: 1, policy: revoke(agentB, "del_1"), query: by(agentM)},
		{name: "same id of another issuer revoked", token: hop, policy: revoke(agentM, "del_1"), query: by(agentC)},
		{name: "another caller", token: rootToken(""), code: asap.CodeDelegationAudience, query: by(agentM)},
		{name: "the issuer itself", token: rootToken(""), code: asap.CodeDelegationAudience, query: by(agentA)},
		{name: "middle of the chain", token: hop, code: asap.CodeDelegationAudience, link: 1, query: by(agentB)},
		{name: "audience before scope", token: rootToken(""), code: asap.CodeDelegationAudience, query: func(q *Query) { q.Caller, q.Action = agentM, "x" }},
		{name: "another server", token: mustIssue(t, restricted), code: asap.CodeDelegationAudience, policy: here("https://two.example")},
		{name: "server demanded", token: rootToken(""), code: asap.CodeDelegationAudience, link: NoLink, policy: func(p *Policy) { p.RequireResources = true }},
		{name: "scope", token: rootToken(""), code: asap.CodeDelegationScope, query: do(ScopeDataWrite)},
		{name: "own scope", token: rootToken(""), code: asap.CodeDelegationScope, query: do("task.execute ")},
		{name: "no action", token: rootToken(""), code: asap.CodeDelegationScope, query: do("")},
		{name: "scope of the leaf", token: narrow(func(*Terms) {}), code: asap.CodeDelegationScope, link: 1, query: do(ScopeTaskExecute)},
		{name: "scope before proof", token: mustIssue(t, bound), code: asap.CodeDelegationScope, query: do(ScopeDataWrite)},
		{name: "bound, no proof", token: mustIssue(t, bound), code: asap.CodeDelegationProofRequired},
		{name: "bound, empty request", token: mustIssue(t, bound), code: asap.CodeDelegationProofRequired, query: func(q *Query) { q.Proof = &Request{} }},
		{name: "proof demanded", token: rootToken(""), code: asap.CodeDelegationProofRequired, policy: func(p *Policy) { p.RequireProof = true }},
		{name: "child signed with another key than bound", token: child(t, mustIssue(t, lent), terms(agentB, agentC, "del_x")), code: asap.CodeDelegationProofInvalid, link: 1, query: by(agentC)},
		{name: "child signed with the bound key", token: child(t, mustIssue(t, bound), terms(agentB, agentC, "del_x")), query: by(agentC)},
		{name: "no tasks", token: mustIssue(t, none), code: asap.CodeDelegationLimitTasks},
		{name: "no tasks, but reading", token: mustIssue(t, none), query: do(ScopeDataRead)},
		{name: "revocations unreadable", token: rootToken(""), code: asap.CodeDelegationStateUnavailable, link: NoLink, policy: unreadable},
		{name: "no revocations configured", token: rootToken(""), code: asap.CodeDelegationStateUnavailable, link: NoLink, policy: func(p *Policy) { p.Revoked = nil }},
		{name: "scope before unreadable state", token: rootToken(""), code: asap.CodeDelegationScope, policy: unreadable, query: do("x")},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy, query := testPolicy(t), ask(agentB, ScopeTaskExecute)
			if strings.Contains(c.token, "~") {
				query = ask(agentC, ScopeDataRead)
			}
			if c.policy != nil {
				c.policy(policy)
			}
			if c.query != nil {
				c.query(&query)
			}
			_, err := Verify(c.token, policy, query)
			wantCode(t, err, c.code, c.link)
			verifier := NewVerifier(*policy)
			for range 2 { // the second time from the cache
				if _, again := verifier.Verify(c.token, query); (again == nil) != (err == nil) || (err != nil && again.Error() != err.Error()) {
					t.Errorf("the cache says %v, Verify %v", again, err)
				}
			}
		})
	}
}

// unmarked signs the last link of a chain of two again with another header.
func unmarked(t *testing.T, token, header string) string {
	t.Helper()
	root, link, _ := strings.Cut(token, "~")
	payload := make([]byte, MaxLinkBytes)
	n, ok := decodeBase64(payload, []byte(strings.Split(link, ".")[1]))
	if !ok {
		t.Fatal("payload does not decode")
	}
	return root + "~" + jws(header, string(payload[:n]), keyOf(agentB))
}

func TestRefusal(t *testing.T) {
	r := Refuse(asap.CodeDelegationLimitCost, 1, "used up")
	r.Shortage = &Shortage{Cost: true, Limit: 3 * NanoPerUSD, Used: 2_250_000_000, Held: 500_000_000, Remaining: 250_000_000, Needed: NanoPerUSD}
	if got, want := r.Error(), "delegation_limit_cost: link 1: used up"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if r.HTTP() != 403 || r.RPC() != asap.RPCDelegationLimit || r.Step != StepLimits || r.TaxonomyURI() != "asap:delegation/delegation_limit_cost" {
		t.Errorf("%d %d %s %s", r.HTTP(), r.RPC(), r.Step, r.TaxonomyURI())
	}
	want := `{"link":1,"limit":"3","used":"2.25","held":"0.5","remaining":"0.25","needed":"1"}`
	if got := string(r.Protocol().Details); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	r = Refuse(asap.CodeDelegationLimitTasks, NoLink, "used up")
	r.Shortage = &Shortage{Limit: 5, Used: 5, Needed: 1}
	if got, want := string(r.Protocol().Details), `{"limit":5,"used":5,"held":0,"remaining":0,"needed":1}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	cause := errors.New("disk")
	r = Refuse(asap.CodeDelegationStateUnavailable, NoLink, "not now")
	r.Err = cause
	if !errors.Is(r, cause) || r.Error() != "delegation_state_unavailable: not now" || r.HTTP() != 503 || r.Step != StepState {
		t.Errorf("%v", r)
	}
	if AsRefusal(cause) != nil || Step(99).String() != "step 99" {
		t.Error("not a refusal, no step")
	}
}

// TestStatus holds the HTTP statuses of the design's table.
func TestStatus(t *testing.T) {
	for code, want := range map[asap.Code]int{
		asap.CodeDelegationTooLarge: 431, asap.CodeDelegationDepth: 403, asap.CodeDelegationMalformed: 400,
		asap.CodeDelegationUnsupportedAlg: 401, asap.CodeDelegationUnknownIssuer: 401, asap.CodeDelegationRootUntrusted: 403,
		asap.CodeDelegationBadSignature: 401, asap.CodeDelegationChainBroken: 403, asap.CodeDelegationEscalation: 403,
		asap.CodeDelegationNotYetValid: 401, asap.CodeDelegationExpired: 401, asap.CodeDelegationRevoked: 401,
		asap.CodeDelegationAudience: 403, asap.CodeDelegationScope: 403, asap.CodeDelegationProofRequired: 401,
		asap.CodeDelegationProofInvalid: 401, asap.CodeDelegationLimitTasks: 403, asap.CodeDelegationLimitCost: 403,
		asap.CodeDelegationCostUnbounded: 403, asap.CodeDelegationLimitHeld: 429, asap.CodeDelegationStateUnavailable: 503,
	} {
		if got := Refuse(code, 0, "").HTTP(); got != want {
			t.Errorf("%s: %d, want %d", code, got, want)
		}
	}
}
