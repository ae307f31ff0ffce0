package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// chain is a delegation chain with these limits of tasks, root first.
func chain(limits ...int64) []ledger.Link {
	links := make([]ledger.Link, len(limits))
	for i, limit := range limits {
		links[i] = ledger.Link{Issuer: asap.AgentURN(fmt.Sprintf("urn:asap:agent:issuer-%d", i)), TokenID: fmt.Sprintf("del_%d", i), LimitTasks: new(limit)}
	}
	return links
}

func (r *rig) budget(link ledger.Link) ledger.Budget {
	r.t.Helper()
	b, found, err := r.store.Budget(r.ctx, link.Key())
	if err != nil || !found {
		r.t.Fatalf("budget of %s: %v, %v", link.TokenID, found, err)
	}
	return b
}

func testLimitsUnderLoad(t *testing.T, b Backend) {
	r := start(t, b)
	links := chain(100, 99, 98)
	var granted, refused, next atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 4 {
				n := int(next.Add(1))
				a := admission(n)
				a.Links = links
				switch _, err := r.ledger.Admit(r.ctx, a); {
				case err == nil:
					granted.Add(1)
					if _, err := r.ledger.Settle(r.ctx, settlement(n)); err != nil {
						t.Error(err)
					}
				case isLimit(err):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if granted.Load() != 98 || refused.Load() != 256-98 {
		t.Errorf("%d granted and %d refused, want exactly 98 and 158", granted.Load(), refused.Load())
	}
	for _, link := range links {
		if got := r.budget(link); got.UsedTasks != 98 || got.HeldTasks != 0 {
			t.Errorf("%s: used %d, held %d", link.TokenID, got.UsedTasks, got.HeldTasks)
		}
	}
	r.check(false)
}

func isLimit(err error) bool {
	_, ok := errors.AsType[*ledger.LimitError](err)
	return ok
}

func testLimitRefusals(t *testing.T, b Backend) {
	r := start(t, b)
	usd := func(n int64) *metering.NanoUSD { return new(metering.NanoUSD(n)) }
	root := ledger.Link{Issuer: alice, TokenID: "del_root", LimitNanoUSD: usd(100)}
	leaf := ledger.Link{Issuer: bob, TokenID: "del_leaf", LimitTasks: new(int64(2))}
	admit := func(n int, ceiling *metering.NanoUSD, links ...ledger.Link) (ledger.Admitted, error) {
		a := admission(n)
		a.Links, a.Ceiling = links, ceiling
		return r.ledger.Admit(r.ctx, a)
	}
	r.refused(ledger.ErrCostUnbounded, func() error { _, err := admit(1, nil, root, leaf); return err })
	if _, found, err := r.store.Budget(r.ctx, leaf.Key()); found || err != nil {
		t.Errorf("a refusal left a counter (%v)", err)
	}
	got, err := admit(1, usd(60), root, leaf)
	if err != nil {
		t.Fatal(err)
	}
	if left, limited := got.Budgets[0].RemainingNanoUSD(); !limited || left != 40 {
		t.Errorf("remaining %d", left)
	}
	if left, limited := got.Budgets[1].RemainingTasks(); !limited || left != 1 {
		t.Errorf("remaining %d tasks", left)
	}
	if _, limited := got.Budgets[1].RemainingNanoUSD(); limited {
		t.Error("the leaf has no cost limit")
	}
	if _, limited := got.Budgets[0].RemainingTasks(); limited {
		t.Error("the root has no task limit")
	}
	want := func(code string, want ledger.LimitError, f func() (ledger.Admitted, error)) {
		t.Helper()
		before := [2]ledger.Budget{r.budget(root), r.budget(leaf)}
		_, err := f()
		limit, ok := errors.AsType[*ledger.LimitError](err)
		if !ok || *limit != want || limit.Code() != code {
			t.Errorf("got %v, want %s %+v", err, code, want)
		}
		after := [2]ledger.Budget{r.budget(root), r.budget(leaf)}
		for i := range before {
			if before[i].HeldTasks != after[i].HeldTasks || before[i].HeldNanoUSD != after[i].HeldNanoUSD {
				t.Errorf("a refusal changed the counter of link %d", i)
			}
		}
	}
	held := ledger.LimitError{Issuer: alice, TokenID: "del_root", Unit: ledger.UnitCost, Limit: 100, Held: 60, Remaining: 40, Needed: 41}
	want("delegation_limit_held", held, func() (ledger.Admitted, error) { return admit(2, usd(41), root, leaf) })
	s := settlement(1)
	r.prices = nil
	posted := r.settle(s) // unpriced: charged its ceiling
	if posted.Budgets[0].UsedNanoUSD != 60 || posted.Budgets[0].HeldNanoUSD != 0 || posted.Record.CostNanoUSD != nil {
		t.Errorf("an unknown cost is charged like the ceiling: %+v", posted.Budgets[0])
	}
	used := ledger.LimitError{Issuer: alice, TokenID: "del_root", Unit: ledger.UnitCost, Limit: 100, Used: 60, Remaining: 40, Needed: 41}
	want("delegation_limit_cost", used, func() (ledger.Admitted, error) { return admit(2, usd(41), root, leaf) })
	if _, err := admit(2, usd(40), root, leaf); err != nil {
		t.Errorf("I6: exactly the remaining amount was refused: %v", err)
	}
	r.settle(settlement(2))
	tasks := ledger.LimitError{Link: 1, Issuer: bob, TokenID: "del_leaf", Unit: ledger.UnitTasks, Limit: 2, Used: 2, Needed: 1}
	want("delegation_limit_tasks", tasks, func() (ledger.Admitted, error) { return admit(3, usd(0), root, leaf) })
	other := root
	other.LimitNanoUSD = usd(1000)
	r.refused(ledger.ErrConflict, func() error { _, err := admit(4, usd(1), other); return err })
	other.LimitNanoUSD = nil
	r.refused(ledger.ErrConflict, func() error { _, err := admit(4, usd(1), other); return err })
	r.check(false)
}

func testOverrun(t *testing.T, b Backend) {
	r := start(t, b, func(r *rig) { r.prices = prices(t, `{"usd_per_api_call":"0.000000030"}`) })
	link := ledger.Link{Issuer: alice, TokenID: "del_1", LimitNanoUSD: new(metering.NanoUSD(100))}
	a := admission(1)
	a.Links, a.Ceiling = []ledger.Link{link}, new(metering.NanoUSD(50))
	r.admit(a)
	s := settlement(1)
	s.Record.APICalls = new(int64(3)) // 90, beyond the ceiling of 50
	posted := r.settle(s)
	if !posted.Record.Overrun || *posted.Record.CostNanoUSD != 90 {
		t.Errorf("record %+v, want the true cost, marked", posted.Record)
	}
	got := r.budget(link)
	if got.UsedNanoUSD != 50 || got.OverrunNanoUSD != 40 || got.HeldNanoUSD != 0 {
		t.Errorf("budget %+v", got)
	}
	if left, _ := got.RemainingNanoUSD(); left != 10 {
		t.Errorf("remaining %d, want 10: what was overrun is spent", left)
	}
	a = admission(2)
	a.Links, a.Ceiling = []ledger.Link{link}, new(metering.NanoUSD(11))
	if _, err := r.ledger.Admit(r.ctx, a); !isLimit(err) {
		t.Errorf("beyond the limit: %v", err)
	}
	a.Ceiling = new(metering.NanoUSD(10))
	r.admit(a)
	s = settlement(2)
	s.Record.APICalls = new(int64(0))
	if got := r.settle(s).Budgets[0]; got.UsedNanoUSD != 50 || got.HeldNanoUSD != 0 {
		t.Errorf("a task that cost nothing left %+v", got)
	}
	unlimited := ledger.Link{Issuer: bob, TokenID: "del_2"}
	a = admission(3)
	a.Links = []ledger.Link{unlimited}
	r.admit(a)
	s = settlement(3)
	s.Record.APICalls = new(int64(7))
	if got := r.settle(s).Budgets[0]; got.UsedNanoUSD != 210 || got.OverrunNanoUSD != 0 {
		t.Errorf("without ceiling and limit: %+v", got)
	}
	r.check(false)
}
