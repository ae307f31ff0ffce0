package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/registry"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// Who follows the log learns all that changed behind its position, and nothing else.
func testNews(t *testing.T, b Backend) {
	r := start(t, b)
	news := func(after int64) ledger.News {
		t.Helper()
		n, err := r.store.News(r.ctx, after)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if got := news(-1); got.Head != -1 || got.Records != 0 || got.Agents != nil || got.Revocations != nil {
		t.Errorf("of an empty log: %+v", got)
	}
	r.admit(admission(1))
	r.settle(settlement(1))
	if got := news(-1); got.Head != 2 || got.Records != 1 || got.Agents != nil || got.Revocations != nil || got.Breaches || got.Warnings {
		t.Errorf("after a task: %+v", got)
	}
	for _, id := range []string{"urn:asap:agent:zoe", "urn:asap:agent:adam"} {
		if _, err := r.ledger.Register(r.ctx, manifestOf(t, registry.Caller{Agent: asap.AgentURN(id)}, asap.AgentURN(id), "1.0.0", 1)); err != nil {
			t.Fatal(err)
		}
	}
	at := news(2).Head
	if _, err := r.ledger.Unregister(r.ctx, registry.Removal{By: registry.Caller{Operator: true}, ID: "urn:asap:agent:zoe"}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"del_z", "del_a"} {
		if _, err := r.ledger.Revoke(r.ctx, ledger.Revocation{Issuer: alice, TokenID: id, Reason: id}); err != nil {
			t.Fatal(err)
		}
	}
	names := func(n ledger.News) (agents, tokens []string) {
		for i := range n.Agents {
			if name := string(n.Agents[i].ID); n.Agents[i].Removed() {
				agents = append(agents, name+" is gone")
			} else if n.Agents[i].Manifest != nil && len(n.Agents[i].Keys) == 1 {
				agents = append(agents, name)
			}
		}
		for i := range n.Revocations {
			tokens = append(tokens, n.Revocations[i].TokenID+" "+string(n.Revocations[i].Actor))
		}
		return agents, tokens
	}
	agents, tokens := names(news(2))
	if diff := cmp.Diff([][]string{{"urn:asap:agent:adam", "urn:asap:agent:zoe is gone"}, {"del_z " + operator, "del_a " + operator}}, [][]string{agents, tokens}); diff != "" {
		t.Error(diff)
	}
	if agents, tokens = names(news(at)); len(agents) != 1 || len(tokens) != 2 {
		t.Errorf("behind %d: %v, %v", at, agents, tokens)
	}
	end := news(at).Head
	if got := news(end); got.Head != end || got.Agents != nil || got.Revocations != nil {
		t.Errorf("at the end: %+v", got)
	}
	if _, err := r.ledger.RecordBreaches(r.ctx, []sla.Event{{At: 1000, Kind: sla.Firing, Breach: sla.Breach{ID: "breach", Agent: worker, Objective: sla.Availability,
		Window: sla.LastDay, Threshold: "99%", ActualOpen: "90%", ActualWorst: "90%", ActualLast: "90%", Severity: sla.Warning, SeverityMax: sla.Warning,
		StartedAt: 500, DetectedAt: 1000}}}); err != nil {
		t.Fatal(err)
	}
	if got := news(end); !got.Breaches || got.Head != end+1 {
		t.Errorf("after a breach: %+v", got)
	}
	if got := news(end + 1); got.Breaches {
		t.Errorf("behind the breach: %+v", got)
	}
	// No agents at all select nothing, and are not an error.
	for _, c := range []struct {
		agents []string
		want   int
	}{{nil, 1}, {[]string{}, 0}, {[]string{"urn:asap:agent:nobody"}, 0}, {[]string{worker}, 1}} {
		if list, total, err := r.store.Breaches(r.ctx, slawatch.BreachFilter{Agents: c.agents}); err != nil || len(list) != c.want || total != c.want {
			t.Errorf("breaches of %v: %d of %d, %v; want %d", c.agents, len(list), total, err, c.want)
		}
	}
	r.check(false)
}

// Each percentage of a limit is told once, at the entry that reached it, whatever
// came between.
func testWarnings(t *testing.T, b Backend) {
	r := start(t, b, func(r *rig) { r.prices = prices(t, `{"usd_per_task":"0.000000010"}`) })
	if last, err := r.store.LastLimitWarning(r.ctx); last != -1 || err != nil {
		t.Errorf("before any: %d, %v", last, err)
	}
	links := []ledger.Link{{Issuer: alice, TokenID: "del_root", LimitTasks: new(int64(10)), LimitNanoUSD: new(metering.NanoUSD(100))},
		{Issuer: bob, TokenID: "del_leaf", LimitTasks: new(int64(5))}}
	tokens := []ledger.Token{{Issuer: alice, TokenID: "del_root", Delegate: bob, IssuedAt: epoch, ExpiresAt: epoch.Add(time.Hour)},
		{Issuer: bob, TokenID: "del_leaf", Delegate: worker, Above: []ledger.BudgetKey{links[0].Key()}, IssuedAt: epoch, ExpiresAt: epoch.Add(time.Hour)}}
	ended := map[int64]int{}
	for n := range 10 {
		a := admission(n)
		if a.Links, a.Tokens, a.Ceiling = links, tokens, new(metering.NanoUSD(10)); n >= 5 {
			a.Links, a.Tokens = links[:1], tokens[:1]
		}
		r.admit(a)
		ended[r.settle(settlement(n)).Receipt.Seq] = n + 1
		if !b.Forgets && n == 8 {
			r.restart()
		}
	}
	type warning struct {
		Token    string
		Delegate asap.AgentURN
		Unit     ledger.Unit
		Percent  int
		Used     int64
		Task     int
	}
	var all []ledger.Warning
	for after := int64(-1); ; {
		page, err := r.store.LimitWarnings(r.ctx, after, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].Seq
		all = append(all, page...)
	}
	var got []warning
	for _, w := range all {
		if !w.At.Equal(epoch) {
			t.Errorf("%+v", w)
		}
		got = append(got, warning{w.TokenID, w.Delegate, w.Unit, w.Percent, w.Used, ended[w.Seq]})
	}
	want := []warning{{"del_leaf", worker, ledger.UnitTasks, 80, 4, 4}, {"del_leaf", worker, ledger.UnitTasks, 90, 5, 5}, {"del_leaf", worker, ledger.UnitTasks, 100, 5, 5}}
	for _, percent := range []int64{80, 90, 100} {
		want = append(want, warning{"del_root", bob, ledger.UnitCost, int(percent), percent, int(percent) / 10},
			warning{"del_root", bob, ledger.UnitTasks, int(percent), percent / 10, int(percent) / 10})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if last, err := r.store.LastLimitWarning(r.ctx); len(all) == 0 || last != all[len(all)-1].Seq || err != nil {
		t.Errorf("the last is at %d, %v", last, err)
	}
	r.check(false)
}

// The journal of service levels has one writer at a time: who does not know all of
// it can neither add to it nor store a state.
func testJournal(t *testing.T, b Backend) {
	r := start(t, b)
	in := func(seq int64, at sla.Instant) slawatch.Input {
		return slawatch.Input{Seq: seq, At: at, Kind: "probe", Agent: worker}
	}
	journal := func(fenced bool, inputs ...slawatch.Input) {
		t.Helper()
		if err := r.store.JournalSLA(r.ctx, inputs); errors.Is(err, slawatch.ErrFenced) != fenced || !fenced && err != nil {
			t.Errorf("journal from %d at %d: %v", inputs[0].Seq, inputs[0].At, err)
		}
	}
	checkpoint := func(fenced bool, journal, input int64, at sla.Instant) {
		t.Helper()
		err := r.store.CheckpointSLA(r.ctx, &slawatch.Checkpoint{Position: slawatch.Position{At: at, Input: input, Records: 7}, Journal: journal,
			Agents: []sla.AgentState{{Agent: worker, Registered: at}}})
		if errors.Is(err, slawatch.ErrFenced) != fenced || !fenced && err != nil {
			t.Errorf("checkpoint at %d: %v", input, err)
		}
	}
	holds := func(after, position int64, want ...int64) {
		t.Helper()
		inputs, p, err := r.store.SLAJournal(r.ctx, after, 3)
		if err != nil || p.Input != position {
			t.Errorf("position %+v, %v, want %d", p, err, position)
		}
		var got []int64
		for i := range inputs {
			got = append(got, inputs[i].Seq)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	holds(0, 0)
	journal(true, in(2, 1000))
	journal(false, in(1, 1000), in(2, 1000))
	journal(true, in(2, 2000))
	journal(true, in(4, 2000))
	journal(true, in(3, 999))
	journal(false, in(3, 1000))
	checkpoint(true, 2, 2, 1000)
	checkpoint(true, 4, 3, 1000)
	checkpoint(false, 3, 2, 1500) // a part, or what came since is not in it
	checkpoint(true, 3, 1, 1500)
	checkpoint(true, 3, 3, 1400)
	journal(true, in(4, 1499))
	journal(false, in(4, 1500), in(5, 1500))
	holds(0, 2, 1, 2, 3)
	holds(3, 2, 4, 5)
	saved, err := r.store.LoadSLA(r.ctx)
	if err != nil || len(saved.Inputs) != 3 || saved.Inputs[0].Seq != 3 || len(saved.Agents) != 1 || saved.Agents[0].Registered != 1500 {
		t.Errorf("loaded %+v, %v", saved, err)
	}
	checkpoint(true, 3, 3, 2000)
	checkpoint(false, 5, 5, 2000)
	holds(0, 5, 3, 4, 5)
	checkpoint(false, 5, 5, 3000)
	holds(0, 5)
	journal(true, in(1, 4000))
	journal(false, in(6, 4000))
	holds(0, 5, 6)
}
