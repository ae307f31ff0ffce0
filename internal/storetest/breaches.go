package storetest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// A breach opens, escalates and ends once, whatever is told again; the log of what
// happened and the breach as it stands are what was told last; filters select.
func testBreaches(t *testing.T, b Backend) {
	r := start(t, b)
	log, ok := r.store.(slawatch.Log)
	if !ok {
		t.Fatal("the store has no log of breaches")
	}
	if last, err := log.LastBreachChange(r.ctx); last != -1 || err != nil {
		t.Errorf("before any: %d, %v", last, err)
	}
	event := func(kind sla.EventKind, id string, at sla.Instant) sla.Event {
		e := sla.Event{At: at, Kind: kind, Breach: sla.Breach{ID: id, Agent: worker, Objective: sla.ErrorRate, Window: sla.LastHour, Threshold: "1.0%",
			ActualOpen: "2%", ActualWorst: "3%", ActualLast: "2.5%", Severity: sla.Warning, SeverityMax: sla.Warning, StartedAt: 1000, DetectedAt: 1500,
			N: 100, Bad: 2, WilsonPercent: new(0.5), SLAVersion: 1, TaskID: "task", Delegation: "del_1"}}
		if kind != sla.Firing {
			e.Breach.Severity, e.Breach.SeverityMax, e.Breach.ActualWorst = sla.Critical, sla.Critical, "9%"
		}
		if kind == sla.Resolved {
			e.Breach.ResolvedAt, e.Breach.CloseReason, e.Breach.Flaps = &at, sla.CloseRecovered, 3
		}
		return e
	}
	record := func(want int, events ...sla.Event) []ledger.BreachChange {
		t.Helper()
		changes, err := r.ledger.RecordBreaches(r.ctx, events)
		if err != nil || len(changes) != want {
			t.Fatalf("%d changes, want %d: %v", len(changes), want, err)
		}
		return changes
	}
	first := record(2, event(sla.Firing, "breach_1", 1500), event(sla.Firing, "breach_1", 1500), event(sla.Escalated, "breach_1", 2000))
	record(0, event(sla.Firing, "breach_1", 1500), event(sla.Escalated, "breach_1", 2100))
	second := record(2, event(sla.Firing, "breach_2", 2500), event(sla.Resolved, "breach_1", 3000))
	record(0, event(sla.Resolved, "breach_1", 4000), event(sla.Escalated, "breach_1", 4000))
	if second[0].Breach.Incident != "breach_1" {
		t.Errorf("the second is of the incident %q", second[0].Breach.Incident)
	}
	all := append(first, second...)
	got, err := log.BreachChanges(r.ctx, -1, 100)
	if diff := cmp.Diff(all, got); err != nil || diff != "" {
		t.Errorf("the log (-told +read): %v\n%s", err, diff)
	}
	if got, err := log.BreachChanges(r.ctx, all[0].Seq, 1); err != nil || len(got) != 1 || got[0].Seq != all[1].Seq {
		t.Errorf("one after the first: %+v, %v", got, err)
	}
	if last, err := log.LastBreachChange(r.ctx); last != all[3].Seq || err != nil {
		t.Errorf("the last is %d, %v, want %d", last, err, all[3].Seq)
	}
	yes, no := true, false
	for name, c := range map[string]struct {
		filter slawatch.BreachFilter
		want   []string
	}{
		"all":       {slawatch.BreachFilter{}, []string{"breach_2", "breach_1"}},
		"open":      {slawatch.BreachFilter{Open: &yes}, []string{"breach_2"}},
		"over":      {slawatch.BreachFilter{Open: &no}, []string{"breach_1"}},
		"critical":  {slawatch.BreachFilter{Severity: sla.Critical}, []string{"breach_1"}},
		"latency":   {slawatch.BreachFilter{Objective: sla.Latency}, nil},
		"from":      {slawatch.BreachFilter{Start: 3000}, []string{"breach_2"}},
		"until":     {slawatch.BreachFilter{End: 1000}, nil},
		"page":      {slawatch.BreachFilter{Limit: 1, After: &slawatch.BreachPlace{StartedAt: 1000, ID: "breach_2"}}, []string{"breach_1"}},
		"detected":  {slawatch.BreachFilter{DetectedFrom: 1500, DetectedUntil: 1500, Ascending: true}, []string{"breach_1", "breach_2"}},
		"too early": {slawatch.BreachFilter{DetectedUntil: 1499}, nil},
	} {
		list, _, err := log.Breaches(r.ctx, c.filter)
		var ids []string
		for i := range list {
			ids = append(ids, list[i].ID)
		}
		if diff := cmp.Diff(c.want, ids); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
	list, total, err := log.Breaches(r.ctx, slawatch.BreachFilter{Open: &no})
	if err != nil || total != 1 {
		t.Fatalf("%d, %v", total, err)
	}
	want := second[1].Breach
	want.TaskID, want.Delegation = "", "" // only in the log
	if diff := cmp.Diff(want, list[0]); diff != "" {
		t.Errorf("as it stands (-told +stored):\n%s", diff)
	}
	r.check(false)
}
