package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// chainTokens describes a chain alice -> bob -> worker with the links of a task.
func chainTokens(id string) ([]ledger.Link, []ledger.Token) {
	root := ledger.Token{Issuer: alice, Delegate: bob, TokenID: "del_root" + id, Scopes: []string{"*"}, LimitTasks: new(int64(9)),
		LimitNanoUSD: new(metering.NanoUSD(500)), IssuedAt: epoch, ExpiresAt: epoch.Add(time.Hour)}
	leaf := ledger.Token{Issuer: bob, Delegate: worker, TokenID: "del_leaf" + id, Scopes: []string{"task.execute", "data.read"}, Resources: []string{"https://a.example"},
		Above: []ledger.BudgetKey{root.Key()}, MaxDepth: new(int64(1)), BoundKey: "thumbprint", IssuedAt: epoch, ExpiresAt: epoch.Add(time.Minute)}
	tokens := []ledger.Token{root, leaf}
	links := make([]ledger.Link, len(tokens))
	for i, t := range tokens {
		links[i] = ledger.Link{Issuer: t.Issuer, TokenID: t.TokenID, LimitTasks: t.LimitTasks, LimitNanoUSD: t.LimitNanoUSD}
	}
	return links, tokens
}

func testRevocation(t *testing.T, b Backend) {
	r := start(t, b)
	links, tokens := chainTokens("")
	admit := func(n int) error {
		a := admission(n)
		a.Links, a.Tokens, a.Ceiling = links, tokens, new(metering.NanoUSD(10))
		_, err := r.ledger.Admit(r.ctx, a)
		return err
	}
	if err := admit(1); err != nil {
		t.Fatal(err)
	}
	first, err := r.ledger.Revoke(r.ctx, ledger.Revocation{Issuer: alice, TokenID: "del_root", Actor: bob, Reason: "surrendered", Concerned: nil})
	if err != nil || !first.At.Equal(epoch) || first.Receipt.EntryID == "" {
		t.Fatalf("%+v, %v", first, err)
	}
	r.clock.advance(time.Second)
	again, err := r.ledger.Revoke(r.ctx, ledger.Revocation{Issuer: alice, TokenID: "del_root", Reason: "second"})
	if err != nil {
		t.Fatal(err)
	}
	first.Concerned = nil
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the first revocation counts:\n%s", diff)
	}
	before := r.budget(links[0])
	refused := func() {
		t.Helper()
		var revoked *ledger.RevokedError
		if err := admit(2); !errors.As(err, &revoked) || revoked.Link != 0 || revoked.TokenID != "del_root" {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, r.budget(links[0])); diff != "" {
			t.Errorf("a refusal changed a counter:\n%s", diff)
		}
	}
	refused()
	// The same id of another issuer is another token.
	if _, err := r.ledger.Revoke(r.ctx, ledger.Revocation{Issuer: worker, TokenID: "del_leaf"}); err != nil {
		t.Fatal(err)
	}
	// What was started goes on, and is settled.
	r.settle(settlement(1))
	r.check(false)
	if got := r.budget(links[1]); got.UsedTasks != 1 || got.HeldTasks != 0 {
		t.Errorf("%+v", got)
	}
	before = r.budget(links[0])
	if !b.Forgets {
		r.restart()
		refused()
	}
	var entries []audit.Entry
	for _, e := range r.log() {
		if e.Type == audit.DelegationRevoked {
			entries = append(entries, e)
		}
	}
	if len(entries) != 2 || entries[0].Actor != bob || entries[0].Subject != "del_root" || !slices.Equal(entries[0].Parties, []string{alice, bob}) ||
		string(entries[0].Details) != `{"issuer":"urn:asap:agent:alice","reason":"surrendered"}` || entries[1].Actor != operator {
		t.Errorf("%+v", entries)
	}
	for _, bad := range []ledger.Revocation{{}, {Issuer: alice}, {TokenID: "x"}, {Issuer: alice, TokenID: "x", Reason: strings.Repeat("x", 1025)}, {Issuer: alice, TokenID: "\xff"}} {
		r.refused(ledger.ErrInvalid, func() error { _, err := r.ledger.Revoke(r.ctx, bad); return err })
	}
	all := map[ledger.BudgetKey]string{}
	ends := map[ledger.BudgetKey]time.Time{}
	for v, err := range r.store.Revocations(r.ctx) {
		if err != nil {
			t.Fatal(err)
		}
		all[v.Key()], ends[v.Key()] = v.Reason, v.ExpiresAt
	}
	if diff := cmp.Diff(map[ledger.BudgetKey]string{{Issuer: alice, TokenID: "del_root"}: "surrendered", {Issuer: worker, TokenID: "del_leaf"}: ""}, all); diff != "" {
		t.Error(diff)
	}
	// The end of a token is known where the token is.
	if got := ends[ledger.BudgetKey{Issuer: alice, TokenID: "del_root"}]; !got.Equal(epoch.Add(time.Hour)) {
		t.Error(got)
	}
	if got := ends[ledger.BudgetKey{Issuer: worker, TokenID: "del_leaf"}]; !got.IsZero() {
		t.Error(got)
	}
	if _, found, err := r.store.Revocation(r.ctx, ledger.BudgetKey{Issuer: bob, TokenID: "del_root"}); found || err != nil {
		t.Error(found, err)
	}
}

// No task is admitted behind a revocation in the log, whatever comes together.
func testRevocationUnderLoad(t *testing.T, b Backend) {
	r := start(t, b)
	for round := range 10 {
		links, tokens := chainTokens(fmt.Sprint(round))
		links[0].LimitTasks, links[0].LimitNanoUSD = nil, nil
		var admitted atomic.Int64
		var group sync.WaitGroup
		for worker := range 32 {
			group.Go(func() {
				for n := 0; ; n++ {
					a := admission(round*1_000_000 + worker*10_000 + n)
					a.Links, a.Tokens = links, tokens
					_, err := r.ledger.Admit(r.ctx, a)
					var revoked *ledger.RevokedError
					if errors.As(err, &revoked) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					admitted.Add(1)
				}
			})
		}
		for admitted.Load() < 40 {
			if t.Failed() {
				return
			}
		}
		if _, err := r.ledger.Revoke(r.ctx, ledger.Revocation{Issuer: bob, TokenID: links[1].TokenID}); err != nil {
			t.Error(err)
		}
		group.Wait()
		ended := false
		for _, e := range r.log() {
			switch {
			case e.Type == audit.DelegationRevoked && e.Subject == links[1].TokenID:
				ended = true
			case ended && e.Type == audit.TaskStarted && strings.Contains(string(e.Details), links[1].TokenID):
				t.Fatalf("task %s was started after the revocation", e.Subject)
			}
		}
	}
}

func testTokens(t *testing.T, b Backend) {
	r := start(t, b)
	links, tokens := chainTokens("")
	if _, err := r.ledger.Issue(r.ctx, tokens[:1]); err != nil {
		t.Fatal(err)
	}
	r.refused(ledger.ErrConflict, func() error { _, err := r.ledger.Issue(r.ctx, tokens[:1]); return err })
	r.refused(ledger.ErrInvalid, func() error { _, err := r.ledger.Issue(r.ctx, nil); return err })
	r.refused(ledger.ErrInvalid, func() error { _, err := r.ledger.Issue(r.ctx, []ledger.Token{{Issuer: alice}}); return err })
	r.clock.advance(time.Minute)
	a := admission(1)
	a.Links, a.Tokens, a.Ceiling = links, tokens, new(metering.NanoUSD(0))
	r.admit(a)
	r.settle(settlement(1))
	list := func(f ledger.TokenFilter, before int64) []ledger.Token {
		t.Helper()
		got, err := r.store.ListTokens(r.ctx, f, before, 10)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := list(ledger.TokenFilter{}, 0)
	want := []ledger.Token{tokens[1], tokens[0]}
	want[0].SeenAt, want[1].SeenAt = epoch.Add(time.Minute), epoch
	for i := range got {
		want[i].Sequence = got[i].Sequence
		if want[i].Resources == nil {
			want[i].Resources = []string{}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("newest first, each as it was first seen:\n%s", diff)
	}
	ids := func(tokens []ledger.Token) (out []string) {
		for _, t := range tokens {
			out = append(out, t.TokenID)
		}
		return out
	}
	check := func(f ledger.TokenFilter, want ...string) {
		t.Helper()
		if got := ids(list(f, 0)); !slices.Equal(got, want) {
			t.Errorf("%+v: %v, want %v", f, got, want)
		}
	}
	check(ledger.TokenFilter{Issuer: alice}, "del_root")
	check(ledger.TokenFilter{Delegate: worker}, "del_leaf")
	check(ledger.TokenFilter{Party: bob}, "del_leaf", "del_root")
	check(ledger.TokenFilter{TokenID: "del_root", Issuer: bob})
	check(ledger.TokenFilter{Unrevoked: true}, "del_leaf", "del_root")
	if got := ids(list(ledger.TokenFilter{}, got[0].Sequence)); !slices.Equal(got, []string{"del_root"}) {
		t.Errorf("the next page: %v", got)
	}
	if _, err := r.ledger.Revoke(r.ctx, ledger.Revocation{Issuer: alice, TokenID: "del_root"}); err != nil {
		t.Fatal(err)
	}
	check(ledger.TokenFilter{Unrevoked: true}) // what is below a revoked link is no better
	r.check(false)
}

// Refusals come in the order of their weight, over all links; warnings go out
// once for each percentage.
func testBudgetOrder(t *testing.T, b Backend) {
	var warnings []ledger.Warning
	r := start(t, b, func(r *rig) {
		r.feed = func(batch ledger.Batch) { warnings = append(warnings, batch.Warnings...) }
	})
	usd := func(n int64) *metering.NanoUSD { return new(metering.NanoUSD(n)) }
	root := ledger.Link{Issuer: alice, TokenID: "root", LimitTasks: new(int64(1))}
	leaf := ledger.Link{Issuer: bob, TokenID: "leaf", LimitNanoUSD: usd(10)}
	code := func(n int, ceiling *metering.NanoUSD) string {
		a := admission(n)
		a.Links, a.Ceiling = []ledger.Link{root, leaf}, ceiling
		_, err := r.ledger.Admit(r.ctx, a)
		if limit, ok := errors.AsType[*ledger.LimitError](err); ok {
			return fmt.Sprint(limit.Code(), " ", limit.Link)
		}
		if open, ok := errors.AsType[*ledger.CostUnboundedError](err); ok && errors.Is(err, ledger.ErrCostUnbounded) {
			return fmt.Sprint("unbounded ", open.Link)
		}
		if err != nil {
			return err.Error()
		}
		return ""
	}
	for _, c := range []struct {
		ceiling *metering.NanoUSD
		want    string
	}{{usd(11), "delegation_limit_cost 1"}, {nil, "unbounded 1"}, {usd(5), ""}} {
		if got := code(1, c.ceiling); got != c.want {
			t.Errorf("%v: %q, want %q", c.ceiling, got, c.want)
		}
	}
	// The root's task is held by the one that runs; what never can be comes first.
	for _, c := range []struct {
		ceiling *metering.NanoUSD
		want    string
	}{{usd(11), "delegation_limit_cost 1"}, {nil, "unbounded 1"}, {usd(5), "delegation_limit_held 0"}} {
		if got := code(2, c.ceiling); got != c.want {
			t.Errorf("%v: %q, want %q", c.ceiling, got, c.want)
		}
	}
	changed := root
	changed.LimitTasks = new(int64(2))
	r.refused(ledger.ErrConflict, func() error {
		a := admission(3)
		a.Links, a.Ceiling = []ledger.Link{changed}, usd(1)
		_, err := r.ledger.Admit(r.ctx, a)
		if reused, ok := errors.AsType[*ledger.TokenReusedError](err); !ok || reused.Link != 0 {
			t.Error(err)
		}
		return err
	})
	r.settle(settlement(1)) // unpriced: the ceiling is charged
	r.down()
	key := ledger.BudgetKey{Issuer: alice, TokenID: "root"}
	var want []ledger.Warning
	for _, percent := range ledger.WarnAt() {
		want = append(want, ledger.Warning{Seq: 1, At: epoch, BudgetKey: key, Unit: ledger.UnitTasks, Percent: percent, Limit: 1, Used: 1})
	}
	if diff := cmp.Diff(want, warnings); diff != "" {
		t.Error(diff)
	}
}
