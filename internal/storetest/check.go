package storetest

import (
	"crypto/sha256"
	"maps"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

const allDims = metering.ByHour | metering.ByAgent | metering.ByConsumer | metering.ByOutcome | metering.BySkill

// log reads the whole audit log.
func (r *rig) log() []audit.Entry {
	r.t.Helper()
	var all []audit.Entry
	for {
		page, size, err := r.store.ListAudit(r.ctx, audit.Filter{}, int64(len(all)), 100)
		if err != nil {
			r.t.Fatal(err)
		}
		if all = append(all, page...); int64(len(all)) >= size {
			return all
		}
		if len(page) == 0 {
			r.t.Fatalf("the log ends at %d, its size is %d", len(all), size)
		}
	}
}

// records reads every record, by export.
func (r *rig) records() []metering.Record {
	r.t.Helper()
	var all []metering.Record
	for rec, err := range r.store.ExportUsage(r.ctx, metering.Filter{}) {
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, rec)
	}
	return all
}

// sums reads totals as one value for each key.
func (r *rig) sums(f metering.Filter, dims metering.Dims) map[metering.RollupRow]metering.Sums {
	r.t.Helper()
	all := map[metering.RollupRow]metering.Sums{}
	for row, err := range r.store.Rollups(r.ctx, f, dims) {
		if err != nil {
			r.t.Fatal(err)
		}
		merge(r.t, all, row)
	}
	maps.DeleteFunc(all, func(_ metering.RollupRow, s metering.Sums) bool { return s.IsZero() })
	return all
}

func merge(t testing.TB, into map[metering.RollupRow]metering.Sums, row metering.RollupRow) {
	t.Helper()
	key := row
	key.Sums = metering.Sums{}
	total := into[key]
	if err := total.Merge(row.Sums); err != nil {
		t.Fatal(err)
	}
	into[key] = total
}

// totals is what a naive reader makes of records.
func totals(t testing.TB, records []metering.Record, f metering.Filter, dims metering.Dims) map[metering.RollupRow]metering.Sums {
	t.Helper()
	all := map[metering.RollupRow]metering.Sums{}
	for i := range records {
		if f.Matches(&records[i]) {
			merge(t, all, records[i].RollupRow(dims))
		}
	}
	maps.DeleteFunc(all, func(_ metering.RollupRow, s metering.Sums) bool { return s.IsZero() })
	return all
}

// check holds the invariants of a store at rest: I3, I4, I5 and I7. purged tells
// that raw records are missing on purpose.
func (r *rig) check(purged bool) {
	r.t.Helper()
	entries := r.log()
	logged := r.checkChain(entries)
	raw := r.records()
	hashes := map[string][32]byte{}
	for i := range entries {
		if e := &entries[i]; e.RowHash != nil {
			if rec, err := metering.ParseRecord(e.Details); err == nil {
				hashes[rec.ID] = *e.RowHash
			}
		}
	}
	byID := map[string]*metering.Record{}
	for i := range logged {
		byID[logged[i].ID] = &logged[i]
	}
	if !purged && len(raw) != len(logged) {
		r.t.Errorf("I3: %d records, the log has %d", len(raw), len(logged))
	}
	for _, dims := range []metering.Dims{0, allDims, allDims | metering.ByDelegation, metering.ByAgent, metering.ByDelegation, metering.ByHour} {
		want := totals(r.t, logged, metering.Filter{}, dims)
		if diff := cmp.Diff(want, r.sums(metering.Filter{}, dims)); diff != "" {
			r.t.Errorf("I3: rollups (dims %b) differ from the log (-log +rollups):\n%s", dims, diff)
		}
		if purged {
			continue
		}
		if diff := cmp.Diff(want, totals(r.t, raw, metering.Filter{}, dims)); diff != "" {
			r.t.Errorf("I3: records (dims %b) differ from the log (-log +records):\n%s", dims, diff)
		}
	}
	for i := range raw {
		if i > 0 && !before(raw[i-1].Position(), raw[i].Position()) {
			r.t.Errorf("export: record %d is not after the one before it", i)
		}
		if byID[raw[i].ID] == nil {
			r.t.Errorf("I7: record %s has no entry", raw[i].ID)
		} else if hash := raw[i].Hash(); hashes[raw[i].ID] != hash {
			r.t.Errorf("I7: record %s is not the one that was logged", raw[i].ID)
		}
	}
	r.checkBudgets(entries)
}

func before(a, b metering.Position) bool {
	return a.TimestampUS < b.TimestampUS || a.TimestampUS == b.TimestampUS && a.Sequence < b.Sequence
}

// checkChain walks the log and returns the records it tells of.
func (r *rig) checkChain(entries []audit.Entry) []metering.Record {
	r.t.Helper()
	var records []metering.Record
	seen := map[string]bool{}
	previous, last := audit.GenesisHash(origin), ""
	for i := range entries {
		e := &entries[i]
		switch {
		case e.Seq != int64(i):
			r.t.Fatalf("I7: entry %d has seq %d", i, e.Seq)
		case e.PreviousHash != previous:
			r.t.Fatalf("I7: the chain breaks at %d", i)
		case e.Hash != sha256.Sum256(e.Octets):
			r.t.Fatalf("I7: entry %d does not have its hash", i)
		case e.ID <= last:
			r.t.Fatalf("I7: id of entry %d does not grow", i)
		}
		previous, last = e.Hash, e.ID
		if e.Type != audit.UsageRecorded && e.Type != audit.UsageCorrected {
			continue
		}
		rec, err := metering.ParseRecord(e.Details)
		if err != nil {
			r.t.Fatalf("details of entry %d: %v", i, err)
		}
		if seen[rec.ID] {
			r.t.Errorf("I2: record %s is in the log twice", rec.ID)
		}
		seen[rec.ID] = true
		records = append(records, rec)
	}
	return records
}

// holding is what the log says of one token.
type holding struct {
	usedTasks, heldTasks int64
	used, held, overrun  metering.NanoUSD
}

// checkBudgets recomputes every counter from the log.
func (r *rig) checkBudgets(entries []audit.Entry) {
	r.t.Helper()
	type started struct {
		Ceiling    *string `json:"ceiling_usd"`
		Delegation []struct {
			ID     string `json:"id"`
			Issuer string `json:"issuer"`
		} `json:"delegation"`
	}
	type ended struct {
		Charged *string `json:"charged_usd"`
	}
	open := map[string]started{}
	want := map[ledger.BudgetKey]*holding{}
	usd := func(text *string) metering.NanoUSD {
		if text == nil {
			return 0
		}
		amount, err := metering.ParseUSD(*text)
		if err != nil {
			r.t.Fatal(err)
		}
		return amount
	}
	each := func(s started, f func(*holding)) {
		for _, link := range s.Delegation {
			key := ledger.BudgetKey{Issuer: asap.AgentURN(link.Issuer), TokenID: link.ID}
			if want[key] == nil {
				want[key] = &holding{}
			}
			f(want[key])
		}
	}
	for i := range entries {
		e := &entries[i]
		switch e.Type {
		case audit.TaskStarted:
			var s started
			if err := json.Unmarshal(e.Details, &s); err != nil {
				r.t.Fatal(err)
			}
			open[e.Subject] = s
			each(s, func(h *holding) { h.heldTasks++; h.held += usd(s.Ceiling) })
		case audit.TaskCompleted, audit.TaskFailed, ledger.TaskReleased:
			var d ended
			if err := json.Unmarshal(e.Details, &d); err != nil {
				r.t.Fatal(err)
			}
			s, ok := open[e.Subject]
			if !ok {
				r.t.Errorf("I5: task %s ended without being open", e.Subject)
			}
			delete(open, e.Subject)
			each(s, func(h *holding) {
				h.heldTasks--
				h.held -= usd(s.Ceiling)
				if e.Type == ledger.TaskReleased {
					return
				}
				h.usedTasks++
				within := usd(d.Charged)
				if s.Ceiling != nil {
					within = min(within, usd(s.Ceiling))
				}
				h.used += within
				h.overrun += usd(d.Charged) - within
			})
		}
	}
	for key, h := range want {
		b, found, err := r.store.Budget(r.ctx, key)
		if err != nil || !found {
			r.t.Errorf("budget of %s: %v, %v", key.TokenID, found, err)
			continue
		}
		got := holding{usedTasks: b.UsedTasks, heldTasks: b.HeldTasks, used: b.UsedNanoUSD, held: b.HeldNanoUSD, overrun: b.OverrunNanoUSD}
		if got != *h {
			r.t.Errorf("budget of %s is %+v, the log says %+v", key.TokenID, got, *h)
		}
		if b.LimitTasks != nil && b.UsedTasks+b.HeldTasks > *b.LimitTasks || b.LimitNanoUSD != nil && b.UsedNanoUSD+b.HeldNanoUSD > *b.LimitNanoUSD {
			r.t.Errorf("I4: budget of %s is over its limit: %+v", key.TokenID, b)
		}
	}
	held, _, err := r.store.Holds(r.ctx)
	if err != nil || held != int64(len(open)) {
		r.t.Errorf("I5: %d tasks are held (%v), the log says %d", held, err, len(open))
	}
}
