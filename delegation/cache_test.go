package delegation

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	asap "github.com/asap-protocol/asap-go"
)

// countingKeys counts how often a link's keys are asked for, which happens once
// for every signature checked.
type countingKeys struct {
	KeySource
	asked atomic.Int64
	hook  func()
}

func (c *countingKeys) Keys(issuer asap.AgentURN, keyID string) []Key {
	c.asked.Add(1)
	if c.hook != nil {
		c.hook()
	}
	return c.KeySource.Keys(issuer, keyID)
}

func countingVerifier(t testing.TB) (*Verifier, *countingKeys) {
	t.Helper()
	policy := testPolicy(t)
	keys := &countingKeys{KeySource: policy.Keys}
	policy.Keys = keys
	return NewVerifier(*policy), keys
}

// wantChecks fails unless f makes that many signature checks.
func wantChecks(t *testing.T, keys *countingKeys, want int64, what string, f func()) {
	t.Helper()
	before := keys.asked.Load()
	f()
	if got := keys.asked.Load() - before; got != want {
		t.Errorf("%s: %d signatures checked, want %d", what, got, want)
	}
}

func TestCacheLifeIsFixed(t *testing.T) {
	verifier, keys := countingVerifier(t)
	token := rootToken("")
	judge := func(now int64, code asap.Code) func() {
		return func() {
			t.Helper()
			_, err := verifier.Verify(token, Query{Caller: agentB, Action: ScopeTaskExecute, Now: at(now)})
			wantCode(t, err, code, NoLink)
		}
	}
	wantChecks(t, keys, 1, "first", judge(testNow, ""))
	for _, now := range []int64{testNow, testNow + 1, testNow + 150, testNow + 299} {
		wantChecks(t, keys, 0, "within the life", judge(now, ""))
	}
	wantChecks(t, keys, 1, "after five minutes, though just read", judge(testNow+300, ""))
	wantChecks(t, keys, 1, "the clock went back", judge(testNow+299, ""))
	wantChecks(t, keys, 1, "last second", judge(testNow+3599, ""))
	wantChecks(t, keys, 1, "expired", judge(testNow+3600, asap.CodeDelegationExpired))
	wantChecks(t, keys, 1, "expired is not kept", judge(testNow+3600, asap.CodeDelegationExpired))
}

func TestCacheHitChecksEverything(t *testing.T) {
	policy := testPolicy(t)
	keys := &countingKeys{KeySource: policy.Keys}
	policy.Keys = keys
	revoked := NewRevocationSet()
	var state error
	policy.Revoked = func(issuer asap.AgentURN, id string) (bool, error) {
		is, _ := revoked.Revoked(issuer, id)
		return is, state
	}
	root := true
	policy.IsRoot = func(a asap.AgentURN) bool { return root && a == agentA }
	verifier := NewVerifier(*policy)
	token := chainOf(t, 2)
	judge := func(q Query, code asap.Code) {
		t.Helper()
		_, err := verifier.Verify(token, q)
		wantCode(t, err, code, NoLink)
	}
	good := ask(agentC, ScopeDataRead)
	judge(good, "")
	wantChecks(t, keys, 0, "hits", func() {
		judge(good, "")
		judge(ask(agentB, ScopeDataRead), asap.CodeDelegationAudience)
		judge(ask(agentC, ScopeDataWrite), asap.CodeDelegationScope)
		state = errors.New("feed is stale")
		judge(good, asap.CodeDelegationStateUnavailable)
		state = nil
		root = false
		judge(good, asap.CodeDelegationRootUntrusted)
		root = true
		judge(good, "")
		revoked.Add(agentA, "del_0") // the root: the whole subtree
		judge(good, asap.CodeDelegationRevoked)
		revoked.Forget(agentA, "del_0")
		revoked.Add(agentB, "del_1")
		judge(good, asap.CodeDelegationRevoked)
		revoked.Forget(agentB, "del_1")
		judge(good, "")
	})
	ring := keys.KeySource.(*KeyRing)
	if err := ring.Add(agentB, Key{Public: publicOf(agentM)}); err != nil {
		t.Fatal(err)
	}
	wantChecks(t, keys, 1, "another key", func() { judge(good, asap.CodeDelegationBadSignature) })
	wantChecks(t, keys, 0, "forged and remembered", func() { judge(good, asap.CodeDelegationBadSignature) })
	ring.Withdraw(agentB, "")
	judge(good, asap.CodeDelegationUnknownIssuer)
}

func TestCacheRemembersForgeriesBriefly(t *testing.T) {
	verifier, keys := countingVerifier(t)
	token := forged(rootToken(""))
	judge := func(now int64) func() {
		return func() {
			_, err := verifier.Verify(token, Query{Caller: agentB, Action: ScopeTaskExecute, Now: at(now)})
			wantCode(t, err, asap.CodeDelegationBadSignature, 0)
		}
	}
	wantChecks(t, keys, 1, "first", judge(testNow))
	wantChecks(t, keys, 0, "again", judge(testNow+9))
	wantChecks(t, keys, 1, "ten seconds later", judge(testNow+10))
	if verifier.Len() != 0 {
		t.Error("a forgery is kept as verified")
	}
	_, err := verifier.Verify(strings.Repeat("x", MaxTokenBytes+1), ask(agentB, ScopeTaskExecute))
	wantCode(t, err, asap.CodeDelegationTooLarge, NoLink)
}

func TestCacheOfPrefixes(t *testing.T) {
	verifier, keys := countingVerifier(t)
	two := chainOf(t, 2)
	judge := func(token string, caller asap.AgentURN, code asap.Code) func() {
		return func() {
			t.Helper()
			_, err := verifier.Verify(token, ask(caller, ScopeDataRead))
			wantCode(t, err, code, NoLink)
		}
	}
	extend := func(token, id string, from, to asap.AgentURN) string {
		t.Helper()
		longer, err := Attenuate(token, terms(from, to, id), keyOf(from))
		if err != nil {
			t.Fatal(err)
		}
		return longer
	}
	three := extend(two, "del_x", agentC, agentD)
	wantChecks(t, keys, 3, "all of a>b>c>d", judge(three, agentD, ""))
	wantChecks(t, keys, 1, "a sibling", judge(extend(two, "del_y", agentC, agentE), agentE, ""))
	wantChecks(t, keys, 2, "a cousin", judge(extend(extend(chainOf(t, 1), "del_z", agentB, agentD), "del_zz", agentD, agentE), agentE, ""))
	wantChecks(t, keys, 2, "two more", judge(extend(extend(three, "del_4", agentD, agentE), "del_5", agentE, agentA), agentA, ""))
	wantChecks(t, keys, 1, "a forged child", judge(forged(extend(two, "del_f", agentC, agentE)), agentE, asap.CodeDelegationBadSignature))
	wide := terms(agentC, agentE, "del_w")
	wide.Scopes = []string{ScopeAll}
	wantChecks(t, keys, 1, "a child that is too wide", judge(child(t, two, wide), agentE, asap.CodeDelegationEscalation))

	// What is taken over from a prefix is complete, and the new chain's own.
	limited := terms(agentA, agentB, "del_limited")
	limited.MaxTasks, limited.MaxNanoUSD, limited.MaxDepth = number(5), number(7), number(2)
	above := mustIssue(t, limited)
	judge(above, agentB, "")()
	below := extend(above, "del_below", agentB, agentC)
	grant, err := verifier.Verify(below, ask(agentC, ScopeDataRead))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := Verify(below, testPolicy(t), ask(agentC, ScopeDataRead))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain.Links(), grant.Links(), cmp.AllowUnexported(Link{})); diff != "" {
		t.Error(diff)
	}
	if root := grant.Root(); root.LimitTasks != &root.limits[0] || root.LimitNanoUSD != &root.limits[1] || root.MaxDepth != &root.limits[2] {
		t.Error("a limit refers to another chain's link")
	}

	// A prefix that breaks its own binding breaks its children's too.
	lent := terms(agentA, agentB, "del_lent")
	lent.ConfirmJKT = Thumbprint(publicOf(agentM))
	unbound := child(t, mustIssue(t, lent), terms(agentB, agentC, "del_u"))
	judge(child(t, unbound, terms(agentC, agentD, "del_uu")), agentD, asap.CodeDelegationProofInvalid)()
	wantChecks(t, keys, 1, "a sibling below", judge(child(t, unbound, terms(agentC, agentE, "del_uv")), agentE, asap.CodeDelegationProofInvalid))

	// A new key of an issuer in the prefix ends the prefix.
	if err := keys.KeySource.(*KeyRing).Add(agentA, Key{Public: publicOf(agentA)}); err != nil {
		t.Fatal(err)
	}
	wantChecks(t, keys, 3, "after a change of keys", judge(extend(two, "del_k", agentC, agentE), agentE, ""))
}

func TestCacheVerifiesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		verifier, keys := countingVerifier(t)
		gate := make(chan struct{})
		keys.hook = func() { <-gate }
		token := rootToken("")
		var accepted atomic.Int64
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if _, err := verifier.Verify(token, ask(agentB, ScopeTaskExecute)); err == nil {
					accepted.Add(1)
				}
			})
		}
		synctest.Wait()
		close(gate)
		all.Wait()
		if accepted.Load() != 50 || keys.asked.Load() != 1 {
			t.Errorf("%d accepted, %d signatures checked", accepted.Load(), keys.asked.Load())
		}
	})
}

// TestCacheSurvivesPanic: those who wait for a verification that panics make it
// themselves.
func TestCacheSurvivesPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		verifier, keys := countingVerifier(t)
		gate := make(chan struct{})
		var first sync.Once
		keys.hook = func() {
			<-gate
			first.Do(func() { panic("key source") })
		}
		token := rootToken("")
		var accepted, panicked atomic.Int64
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				defer func() {
					if recover() != nil {
						panicked.Add(1)
					}
				}()
				if _, err := verifier.Verify(token, ask(agentB, ScopeTaskExecute)); err == nil {
					accepted.Add(1)
				}
			})
		}
		synctest.Wait()
		close(gate)
		all.Wait()
		if accepted.Load() != 4 || panicked.Load() != 1 {
			t.Errorf("%d accepted, %d panicked", accepted.Load(), panicked.Load())
		}
	})
}

// TestCacheUnderLoad lets many goroutines verify, revoke and change keys; the
// race detector watches, and nothing revoked is accepted afterwards.
func TestCacheUnderLoad(t *testing.T) {
	policy := testPolicy(t)
	revoked := NewRevocationSet()
	policy.Revoked = revoked.Revoked
	verifier := NewVerifier(*policy)
	tokens := make([]string, 8)
	for i := range tokens {
		tokens[i] = mustIssue(t, terms(agentA, agentB, "del_"+strconv.Itoa(i)))
	}
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 200 {
				n := (i + w) % len(tokens)
				before, _ := revoked.Revoked(agentA, "del_"+strconv.Itoa(n))
				_, err := verifier.Verify(tokens[n], ask(agentB, ScopeTaskExecute))
				if before && err == nil {
					t.Errorf("del_%d was revoked and is accepted", n)
				}
				if i == 100 && w < len(tokens)/2 {
					revoked.Add(agentA, "del_"+strconv.Itoa(w))
				}
				if i%50 == 0 {
					if err := policy.Keys.(*KeyRing).Add(agentA, Key{Public: publicOf(agentA)}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
}

func TestStoreIsBounded(t *testing.T) {
	var s store
	s.init(10, 1<<20)
	put := func(s *store, name string) {
		s.put(&entry{token: name, verdict: &verdict{}, start: 0, end: 100})
	}
	for i := range 100 {
		put(&s, strconv.Itoa(i))
		if s.get("0", 1) == nil { // what is read stays
			t.Fatalf("0 is gone after %d", i)
		}
	}
	if s.len() != 10 || len(s.ring) != 10 || s.bytes != 10*(entryBytes)+2*(1+9*2) {
		t.Errorf("%d entries, %d bytes", s.len(), s.bytes)
	}
	put(&s, "0")
	if s.len() != 10 || s.get("99", 100) != nil || s.get("99", -1) != nil {
		t.Error("replacing or time is wrong")
	}
	var small store
	small.init(1000, 4*entryBytes)
	for i := range 100 {
		put(&small, strconv.Itoa(i))
	}
	if small.len() != 3 || small.bytes > 4*entryBytes {
		t.Errorf("%d entries, %d bytes", small.len(), small.bytes)
	}
}

func TestVerifierPolicy(t *testing.T) {
	policy := testPolicy(t)
	policy.RequireProof = true
	if !NewVerifier(*policy).Policy().RequireProof {
		t.Error("the policy is not the one given")
	}
}

func TestAllocations(t *testing.T) {
	policy := testPolicy(t)
	verifier := NewVerifier(*policy)
	for _, n := range []int{1, 3, 8} {
		token := chainOf(t, n)
		query := ask(path[n], ScopeTaskExecute)
		hit := testing.AllocsPerRun(100, func() {
			if _, err := verifier.Verify(token, query); err != nil {
				t.Fatal(err)
			}
		})
		if hit != 0 {
			t.Errorf("%d links: %v allocations on a hit, want 0", n, hit)
		}
		miss := testing.AllocsPerRun(10, func() {
			if _, err := Verify(token, policy, query); err != nil {
				t.Fatal(err)
			}
		})
		if miss > float64(8*n) {
			t.Errorf("%d links: %v allocations uncached, want at most 8 a link", n, miss)
		}
		t.Logf("%d links: %v allocations uncached", n, miss)
	}
}

// generations is a key source that counts what it is asked.
type generations struct {
	KeySource
	generation uint64
	asked      int
}

func (g *generations) Generation() uint64 { return g.generation }

func (g *generations) Epoch(issuer asap.AgentURN) uint64 {
	g.asked++
	return g.KeySource.Epoch(issuer)
}

// Epochs are asked for again when the generation has changed, and only then; a
// key that was withdrawn in the meantime is noticed.
func TestGenerations(t *testing.T) {
	policy := testPolicy(t)
	ring := policy.Keys.(*KeyRing)
	source := &generations{KeySource: ring, generation: 1}
	policy.Keys = source
	verifier := NewVerifier(*policy)
	token, query := chainOf(t, 3), ask(path[3], ScopeTaskExecute)
	verify := func(wantAsked int, ok bool) {
		t.Helper()
		source.asked = 0
		if _, err := verifier.Verify(token, query); (err == nil) != ok || source.asked != wantAsked {
			t.Errorf("%v, %d epochs asked for, want %d", err, source.asked, wantAsked)
		}
	}
	verify(3, true) // analysed
	verify(3, true) // found, and the epochs compared
	verify(0, true)
	source.generation++
	verify(3, true)
	verify(0, true)
	if !ring.Withdraw(path[1], "") {
		t.Fatal("no key")
	}
	verify(0, true) // as long as the source says that nothing changed
	source.generation++
	source.asked = 0
	if _, err := verifier.Verify(token, query); err == nil || source.asked == 0 {
		t.Error("a withdrawn key is not noticed", err, source.asked)
	}
}
