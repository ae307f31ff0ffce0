package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// report is usage number n as an agent reports it.
func report(n int) ledger.Report {
	return ledger.Report{Record: metering.Record{ID: fmt.Sprintf("rep_%04d", n), Kind: metering.Usage, TaskID: asap.TaskID(fmt.Sprintf("own_%d", n)),
		Agent: worker, Consumer: bob, Outcome: metering.Completed, Evidence: metering.SelfReported, TokensIn: new(int64(10)), DurationMS: new(int64(5)),
		Timestamp: epoch.Add(-time.Duration(n) * time.Minute)}}
}

func reports(from, to int) (list []ledger.Report) {
	for n := from; n < to; n++ {
		list = append(list, report(n))
	}
	return list
}

func testReports(t *testing.T, b Backend) {
	r := start(t, b)
	r.admit(admission(1))
	posted := r.settle(settlement(1))
	first, err := r.ledger.Record(r.ctx, reports(0, 5), ledger.Atomic)
	if err != nil || len(first) != 5 || first[4].Record.Sequence != 6 || first[0].Duplicate {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := r.ledger.Record(r.ctx, reports(3, 6), ledger.Atomic)
	if err != nil || !again[0].Duplicate || again[0].Receipt != first[3].Receipt || again[0].Record.Sequence != 5 || again[2].Duplicate {
		t.Errorf("repeated: %+v, %v", again, err)
	}
	other := report(2)
	other.Record.TokensIn = new(int64(11))
	own := report(20)
	own.Record.TaskID = "task_1" // metered by the node itself
	stolen := report(21)
	stolen.Record.ID = posted.Record.ID
	for _, bad := range []ledger.Report{other, own, stolen} {
		batch := []ledger.Report{report(10), bad, report(11)}
		r.refused(metering.ErrConflict, func() error { _, err := r.ledger.Record(r.ctx, batch, ledger.Atomic); return err })
		_, err := r.ledger.Record(r.ctx, batch, ledger.Atomic)
		if item, ok := errors.AsType[*ledger.ItemError](err); !ok || item.Index != 1 {
			t.Errorf("atomic: %v, want item 1", err)
		}
	}
	wrong := report(30)
	wrong.Record.DurationMS = new(int64(-1))
	void := report(31)
	void.Record.Kind = metering.Void
	for _, bad := range []ledger.Report{wrong, void} {
		if _, err := r.ledger.Record(r.ctx, []ledger.Report{bad}, ledger.Atomic); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	// Twice in one batch counts once; one by one, each is answered for itself.
	got, err := r.ledger.Record(r.ctx, []ledger.Report{report(40), report(40), other, wrong, report(41)}, ledger.PerItem)
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Err != nil || !got[1].Duplicate || got[1].Receipt != got[0].Receipt || !errors.Is(got[2].Err, metering.ErrConflict) || got[3].Err == nil || got[4].Err != nil {
		t.Errorf("per item: %+v", got)
	}
	got, err = r.ledger.Record(r.ctx, []ledger.Report{report(50), report(50)}, ledger.Atomic)
	if err != nil || !got[1].Duplicate || got[1].Receipt != got[0].Receipt || got[1].Record.Sequence != got[0].Record.Sequence {
		t.Errorf("twice in an atomic batch: %+v, %v", got, err)
	}
	if none, err := r.ledger.Record(r.ctx, nil, ledger.Atomic); err != nil || none != nil {
		t.Errorf("no reports: %v, %v", none, err)
	}
	r.refused(ledger.ErrInvalid, func() error {
		_, err := r.ledger.Record(r.ctx, make([]ledger.Report, ledger.MaxBatch+1), ledger.PerItem)
		return err
	})
	if many, err := r.ledger.Record(r.ctx, reports(1000, 3000), ledger.Atomic); err != nil || len(many) != 2000 {
		t.Errorf("a large batch: %d, %v", len(many), err)
	}
	r.check(false)
}

func testCorrections(t *testing.T, b Backend) {
	r := start(t, b)
	r.admit(admission(1))
	r.admit(admission(2))
	one, two := r.settle(settlement(1)).Record, r.settle(settlement(2)).Record
	r.clock.advance(3 * time.Hour)
	correct := func(c metering.Correction) (ledger.Recorded, error) {
		return r.ledger.Correct(r.ctx, ledger.Correction{Correction: c})
	}
	void := metering.Correction{ID: "void_1", Kind: metering.Void, Ref: one.ID, Reason: "test call"}
	first, err := correct(void)
	if err != nil || !first.Record.Timestamp.Equal(one.Timestamp) {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := correct(void)
	if err != nil || !again.Duplicate || again.Receipt != first.Receipt {
		t.Errorf("voided again alike: %+v, %v", again, err)
	}
	refuse := func(want error, c metering.Correction) {
		t.Helper()
		r.refused(want, func() error { _, err := correct(c); return err })
	}
	refuse(metering.ErrConflict, metering.Correction{ID: "void_1", Kind: metering.Void, Ref: two.ID})
	refuse(metering.ErrAlreadyVoided, metering.Correction{Kind: metering.Void, Ref: one.ID})
	refuse(ledger.ErrUnknownRecord, metering.Correction{Kind: metering.Void, Ref: "nobody"})
	refuse(ledger.ErrInvalid, metering.Correction{Kind: metering.Void, Ref: "\x00"})
	if _, err := correct(metering.Correction{Kind: metering.Usage, Ref: two.ID}); err == nil {
		t.Error("a correction of kind usage was taken")
	}
	if _, err := correct(metering.Correction{ID: "adj_1", Kind: metering.Adjustment, Ref: two.ID, TokensIn: new(int64(-2))}); err != nil {
		t.Error(err)
	}
	refuse(ledger.ErrConflict, metering.Correction{Kind: metering.Void, Ref: two.ID})
	refuse(ledger.ErrInvalid, metering.Correction{Kind: metering.Adjustment, Ref: "adj_1"})
	total := r.sums(metering.Filter{}, 0)[metering.RollupRow{}]
	if total.Tasks != 1 || total.TokensIn != 100 || total.TokensOut != 2 {
		t.Errorf("totals %+v, want the second task less 2 tokens", total)
	}
	last := r.log()
	if e := last[len(last)-1]; e.Type != audit.UsageCorrected || e.Actor != operator {
		t.Errorf("a correction is logged as %s of %s", e.Type, e.Actor)
	}
	r.check(false)
}

func prices(t testing.TB, text string) *metering.PriceBook {
	t.Helper()
	list, err := metering.ParsePriceList(worker, jsontext.Value(text))
	if err != nil {
		t.Fatal(err)
	}
	book, err := metering.NewPriceBook(list)
	if err != nil {
		t.Fatal(err)
	}
	return book
}

func testPrices(t *testing.T, b Backend) {
	r := start(t, b, func(r *rig) { r.prices = prices(t, `{"usd_per_task":"0.01","usd_per_million_tokens_out":"2"}`) })
	r.admit(admission(1))
	rec := r.settle(settlement(1)).Record
	if rec.CostNanoUSD == nil || *rec.CostNanoUSD != 10_002_000 || rec.PriceList == "" {
		t.Errorf("cost %v by %q, want 0.010002", rec.CostNanoUSD, rec.PriceList)
	}
	got, err := r.ledger.Record(r.ctx, []ledger.Report{report(1)}, ledger.Atomic)
	if err != nil || got[0].Record.CostNanoUSD != nil {
		t.Errorf("without tokens_out the cost is unknown, not %v (%v)", got[0].Record.CostNanoUSD, err)
	}
	total := r.sums(metering.Filter{}, 0)[metering.RollupRow{}]
	if total.CostNanoUSD != 10_002_000 || total.Unpriced != 1 {
		t.Errorf("totals %+v", total)
	}
	full := settlement(1).Record
	full.Agent, full.Kind = worker, metering.Usage
	if cost := r.ledger.PriceOf(full).CostNanoUSD; cost == nil || *cost != 10_002_000 {
		t.Errorf("price of a record: %v", cost)
	}
	r.check(false)
}

func testOverflow(t *testing.T, b Backend) {
	// 1,024 such tasks in one cell are all that an int64 holds.
	r := start(t, b, func(r *rig) { r.prices = prices(t, `{"usd_per_task":"9007199"}`) })
	batch := reports(0, 1025)
	for i := range batch {
		batch[i].Record.Timestamp = epoch
	}
	r.refused(metering.ErrOverflow, func() error { _, err := r.ledger.Record(r.ctx, batch, ledger.Atomic); return err })
	got, err := r.ledger.Record(r.ctx, batch, ledger.PerItem)
	if err != nil || got[1023].Err != nil || !errors.Is(got[1024].Err, metering.ErrOverflow) {
		t.Errorf("item by item: %v, %v and %v", err, got[1023].Err, got[1024].Err)
	}
	same := admission(1) // falls into the same cell
	same.Consumer, same.Skill = bob, ""
	r.admit(same)
	r.refused(metering.ErrOverflow, func() error { _, err := r.ledger.Settle(r.ctx, settlement(1)); return err })
	if held, _, err := r.store.Holds(r.ctx); held != 1 || err != nil {
		t.Errorf("%d held, %v", held, err)
	}
	r.check(false)
	r.clock.advance(35 * 24 * time.Hour) // another month has room again
	r.settle(settlement(1))
	if err := failure(r, metering.Filter{}); !errors.Is(err, metering.ErrOverflow) {
		t.Errorf("a total that does not fit: %v", err)
	}
}

func testFilters(t *testing.T, b Backend) {
	r := start(t, b)
	agents := []asap.AgentURN{worker, "urn:asap:agent:other", alice}
	consumers := []asap.AgentURN{alice, bob}
	outcomes := []metering.Outcome{metering.Completed, metering.Failed, metering.Cancelled}
	var batch []ledger.Report
	size := 600
	if testing.Short() { // under the race detector
		size = 150
	}
	for n := range size {
		rep := report(n)
		rec := &rep.Record
		rec.Agent, rec.Consumer, rec.Outcome = agents[n%3], consumers[n%2], outcomes[n%5%3]
		rec.Skill = []string{"", "echo", "sum"}[n%7%3]
		rec.TaskID = asap.TaskID(fmt.Sprintf("own_%d", n/2))
		rec.Timestamp = epoch.Add(-time.Duration(n*n) * 7 * time.Second) // a month, most of it in the last days
		if n%4 == 0 {
			rec.Delegation = &metering.Delegation{Issuer: bob, TokenID: fmt.Sprintf("del_%d", n%3), RootIssuer: bob, RootID: "del_root"}
		}
		batch = append(batch, rep)
	}
	if _, err := r.ledger.Record(r.ctx, batch, ledger.Atomic); err != nil {
		t.Fatal(err)
	}
	r.admit(admission(1))
	r.settle(settlement(1))
	all := r.records()
	at := func(hours float64) time.Time { return epoch.Add(-time.Duration(hours * float64(time.Hour))) }
	filters := map[string]metering.Filter{
		"none": {}, "agent": {Agent: worker}, "consumer": {Consumer: bob}, "task": {TaskID: "own_12"}, "settled task": {TaskID: "task_1"},
		"skill": {Skill: "echo"}, "outcome": {Outcome: metering.Failed}, "delegation": {Delegation: "del_1"}, "party": {Party: alice},
		"both": {Agent: alice, Consumer: bob}, "party and task": {Party: alice, TaskID: "own_12"},
		"aligned": {Start: at(100.5), End: at(0.5)}, "edges": {Start: at(90.123), End: at(3.3)}, "within an hour": {Start: at(2.9), End: at(2.6)},
		"open start": {End: at(47.77)}, "open end": {Start: at(47.77)}, "days": {Start: at(12.5 + 24*20), End: at(12.5 + 24*2)},
		"nothing": {Start: at(1), End: at(1)}, "backwards": {Start: at(1), End: at(2)}, "one hour": {Start: at(5.5), End: at(4.5)},
		"mixed":           {Party: bob, Delegation: "del_0", Start: at(400.01), End: at(0.01)},
		"sub-microsecond": {Start: all[len(all)/2].Timestamp.Add(1), End: all[len(all)/2+2].Timestamp.Add(1)},
	}
	for name, f := range filters {
		t.Run(name, func(t *testing.T) {
			var want []metering.Record
			for i := range all {
				if f.Matches(&all[i]) {
					want = append(want, all[i])
				}
			}
			var pages []metering.Record
			for page := (metering.Page{Limit: 7}); ; page.After = pages[len(pages)-1].Position() {
				got, err := r.store.ListUsage(r.ctx, f, page)
				if err != nil {
					t.Fatal(err)
				}
				if pages = append(pages, got...); len(got) < page.Limit {
					break
				}
			}
			if diff := cmp.Diff(want, pages); diff != "" {
				t.Fatalf("list (-want +got):\n%s", diff)
			}
			offset, err := r.store.ListUsage(r.ctx, f, metering.Page{Offset: 2, Limit: 3})
			if err != nil || !cmp.Equal(offset, want[min(2, len(want)):min(5, len(want))], cmp.Comparer(sameLength)) {
				t.Errorf("offset: %d records, %v", len(offset), err)
			}
			var exported []metering.Record
			for rec, err := range r.store.ExportUsage(r.ctx, f) {
				if err != nil {
					t.Fatal(err)
				}
				exported = append(exported, rec)
			}
			if diff := cmp.Diff(want, exported); diff != "" {
				t.Errorf("export (-want +got):\n%s", diff)
			}
			for dims := range metering.Dims(64) {
				if diff := cmp.Diff(totals(t, all, f, dims), r.sums(f, dims)); diff != "" {
					t.Fatalf("totals by %06b (-want +got):\n%s", dims, diff)
				}
			}
		})
	}
	for _, err := range r.store.ExportUsage(r.ctx, metering.Filter{}) {
		if err != nil {
			r.t.Error(err)
		}
		break // a reader that leaves early harms nobody
	}
	for _, err := range r.store.Rollups(r.ctx, metering.Filter{}, allDims) {
		if err != nil {
			r.t.Error(err)
		}
		break
	}
	r.check(false)
}

// sameLength compares pages where only the number matters: none and nil alike.
func sameLength(a, b []metering.Record) bool {
	return slices.EqualFunc(a, b, func(x, y metering.Record) bool { return x.ID == y.ID })
}

func testAuditFilters(t *testing.T, b Backend) {
	r := start(t, b)
	for n := range 40 {
		a := admission(n)
		if n%10 == 3 {
			a.Consumer = bob
		}
		r.admit(a)
		r.clock.advance(time.Second)
		if n%5 == 4 {
			if _, err := r.ledger.Release(r.ctx, a.TaskID, "no room"); err != nil {
				t.Fatal(err)
			}
			continue
		}
		s := settlement(n)
		if n%7 == 0 {
			s.Record.Outcome = metering.Failed
		}
		r.settle(s)
	}
	if _, err := r.ledger.Record(r.ctx, reports(0, 30), ledger.Atomic); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ledger.Append(r.ctx, audit.Event{Type: audit.SLABreach, Actor: worker, Subject: "breach_1", Parties: []string{bob}},
		audit.Event{Type: audit.KeyRotated, Actor: operator, Subject: "urn:asap:agent:subject"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ledger.Correct(r.ctx, ledger.Correction{Correction: metering.Correction{Kind: metering.Void, Ref: "rep_0003"}, Actor: bob}); err != nil {
		t.Fatal(err)
	}
	all := r.log()
	filters := map[string]audit.Filter{
		"none": {}, "actor": {Actor: alice}, "task": {Subject: "task_3"}, "released": {Subject: "task_4"}, "reported": {Subject: "own_3"},
		"other subject": {Subject: "breach_1"}, "nobody": {Actor: "urn:asap:agent:nobody"}, "common type": {Type: audit.UsageRecorded},
		"rare type": {Type: audit.SLABreach}, "failed": {Type: audit.TaskFailed}, "party": {Party: bob}, "subject party": {Party: "urn:asap:agent:subject"},
		"actor and type": {Actor: worker, Type: audit.TaskFailed}, "party and actor": {Party: bob, Actor: worker}, "party and subject": {Party: bob, Subject: "task_3"},
		"time": {Start: epoch.Add(10 * time.Second), End: epoch.Add(20 * time.Second)}, "party and time": {Party: bob, Start: epoch.Add(10*time.Second + 1)},
		"before all": {End: epoch.Add(-time.Hour)},
	}
	for name, f := range filters {
		t.Run(name, func(t *testing.T) {
			var want []string
			for i := range all {
				if e := &all[i]; (f.Actor == "" || f.Actor == e.Actor) && (f.Subject == "" || f.Subject == e.Subject) && (f.Type == "" || f.Type == e.Type) &&
					(f.Party == "" || f.Party == e.Actor || f.Party == e.Subject || slices.Contains(e.Parties, f.Party)) &&
					(f.Start.IsZero() || !e.Timestamp.Before(f.Start)) && (f.End.IsZero() || e.Timestamp.Before(f.End)) {
					want = append(want, e.ID)
				}
			}
			var got []string
			for from := int64(0); ; {
				page, size, err := r.store.ListAudit(r.ctx, f, from, 3)
				if err != nil || size != int64(len(all)) {
					t.Fatalf("size %d, %v", size, err)
				}
				for _, e := range page {
					got, from = append(got, e.ID), e.Seq+1
				}
				if len(page) < 3 {
					break
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, i := range []int{0, 1, 50, len(all) - 1} {
		e, err := r.store.AuditEntry(r.ctx, all[i].ID)
		if err != nil || e.Seq != int64(i) || e.Hash != all[i].Hash {
			t.Errorf("entry %d by id: %+v, %v", i, e, err)
		}
	}
	if _, err := r.store.AuditEntry(r.ctx, "01KGB7ZK00000000000000000A"); !errors.Is(err, audit.ErrNoEntry) {
		t.Errorf("an id nobody has: %v", err)
	}
	r.check(false)
}
