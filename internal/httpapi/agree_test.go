package httpapi

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// figures are what every view of usage must agree on (I3).
type figures struct{ tasks, tokens, calls, ms float64 }

func (f *figures) add(tasks, tokens, calls, ms any) {
	number := func(v any) float64 { n, _ := v.(float64); return n } // null adds nothing
	f.tasks += number(tasks)
	f.tokens += number(tokens)
	f.calls += number(calls)
	f.ms += number(ms)
}

// The list, the export, the summary and every grouping in every zone, over the
// real ledger and store, add up to the same, corrections and all.
func TestEveryViewAgrees(t *testing.T) {
	n := newSQLiteNode(t, nil)
	dice := rand.New(rand.NewPCG(1, 2))
	var events []string
	for i := range 400 {
		at := noon.Add(-time.Duration(dice.IntN(30*24*3600)) * time.Second).Format(time.RFC3339)
		more := fmt.Sprintf(`,"id":"r%d","tokens_in":%d,"duration_ms":%d,"skill":"s%d","outcome":"%s"`, i, dice.IntN(1000), dice.IntN(500), dice.IntN(3), []string{"completed", "failed"}[dice.IntN(2)])
		if dice.IntN(3) > 0 {
			more += fmt.Sprintf(`,"tokens_out":%d,"api_calls":%d`, dice.IntN(1000), dice.IntN(4))
		}
		events = append(events, event(fmt.Sprint("t", i), fmt.Sprint("a", dice.IntN(5)), fmt.Sprint("c", dice.IntN(4)), at, more))
	}
	n.seed(events...)
	n.post("/usage/batch", `{"events":[`+strings.Join(events[:50], ",")+`]}`).is(200) // a repetition
	for i := 0; i < 40; i += 2 {
		n.post("/usage", fmt.Sprintf(`{"kind":"void","ref":"r%d","reason":"test"}`, i)).is(201)
		n.post("/usage", fmt.Sprintf(`{"kind":"adjustment","ref":"r%d","reason":"test","tokens_in":-1,"duration_ms":2}`, i+1)).is(201)
	}
	n.post("/usage", `{"kind":"void","ref":"r0","reason":"again"}`).refuses(409, asap.CodeRecordConflict)
	n.post("/usage", `{"kind":"void","ref":"r999","reason":"none"}`).refuses(404, asap.CodeNotFound)

	for _, filter := range []string{"", "&agent=urn:asap:agent:a1", "&consumer_id=urn:asap:agent:c2&outcome=failed", "&skill=s0",
		"&start=2026-02-01T10:17:31Z&end=2026-02-15T03:00:00%2B05:30"} {
		var listed figures
		rows := func(data []any, to *figures) {
			for _, row := range data {
				r := row.(map[string]any)
				tasks := map[any]float64{"usage": 1, "void": -1, "adjustment": 0}[r["kind"]]
				in, _ := r["tokens_in"].(float64)
				out, _ := r["tokens_out"].(float64)
				to.add(tasks, in+out, r["api_calls"], r["duration_ms"])
			}
		}
		for next := any(""); next != nil; {
			page := "/usage?limit=37" + filter
			if next != "" {
				page += "&cursor=" + url.QueryEscape(next.(string))
			}
			v := n.get(page).is(200)
			rows(v["data"].([]any), &listed)
			next = v["next_cursor"]
		}
		if listed.tasks == 0 {
			t.Fatalf("%q selects nothing", filter)
		}
		same := func(view string, got figures) {
			if got != listed {
				t.Errorf("%s %q: %+v, listed %+v", view, filter, got, listed)
			}
		}
		var exported, summed figures
		rows(n.get("/usage/export?export_format=json" + filter).is(200)["data"].([]any), &exported)
		same("export", exported)
		s := n.get("/usage/summary?" + strings.TrimPrefix(filter, "&")).is(200)
		summed.add(s["total_tasks"], s["total_tokens"], s["total_api_calls"], s["total_duration_ms"])
		same("summary", summed)
		for _, by := range []string{"agent", "consumer", "hour", "day", "week", "month", "skill", "outcome", "delegation", "day,agent", "month,consumer,outcome"} {
			for _, zone := range []string{"UTC", "Europe/Berlin", "Asia/Kolkata"} {
				var grouped figures
				for _, g := range n.get("/usage/aggregate?group_by=" + by + "&tz=" + zone + filter).is(200)["data"].([]any) {
					v := g.(map[string]any)
					grouped.add(v["total_tasks"], v["total_tokens"], v["total_api_calls"], v["total_duration_ms"])
				}
				same(by+" in "+zone, grouped)
			}
		}
	}
	for kind, want := range map[string]float64{"usage.recorded": 400, "usage.corrected": 40} {
		count := 0.0
		for next := any(""); next != nil; {
			page := "/audit/logs?limit=150&event_type=" + kind
			if next != "" {
				page += "&cursor=" + next.(string)
			}
			v := n.get(page).is(200)
			count += v["count"].(float64)
			next = v["next_cursor"]
		}
		if count != want {
			t.Errorf("%v entries %s, want %v", count, kind, want)
		}
	}
	// Whoever reports gets a receipt that the audit log has.
	done := n.post("/usage", event("last", "a1", "c1", "2026-02-20T11:00:00Z", "")).is(201)["receipt"].(map[string]any)
	if entry := n.get("/audit/logs/" + done["id"].(string)).is(200); entry["hash"] != done["hash"] || entry["seq"] != done["seq"] || entry["subject"] != "last" {
		t.Errorf("receipt %v, entry %v", done, entry)
	}
}

// After a purge the totals stay; a calendar that cuts hours says it cannot.
func TestTotalsAfterAPurge(t *testing.T) {
	n := newSQLiteNode(t, func(c *Config) { c.Retention = func() time.Duration { return 24 * time.Hour } })
	n.seed(
		event("1", "a", "c", "2026-02-10T18:45:00Z", `,"tokens_in":1,"tokens_out":2`),
		event("2", "a", "c", "2026-02-20T11:00:00Z", `,"tokens_in":4,"tokens_out":0`),
	)
	if v := n.post("/usage/purge", "").is(200); v["removed"] != 1.0 || v["receipt"] == nil {
		t.Errorf("%v", v)
	}
	if v := n.get("/usage").is(200); v["count"] != 1.0 {
		t.Errorf("%v", v)
	}
	if v := n.get("/usage/summary").is(200); v["total_tokens"] != 7.0 || v["total_tasks"] != 2.0 {
		t.Errorf("%v", v)
	}
	if v := n.get("/usage/aggregate?group_by=day&tz=Europe/Berlin").is(200)["data"].([]any); len(v) != 2 {
		t.Errorf("%v", v)
	}
	n.get("/usage/aggregate?group_by=day&tz=Asia/Kolkata").refuses(422, asap.CodeInvalidFilter)
	n.get("/usage/summary?start=2026-02-10T18:30:00Z").refuses(422, asap.CodeInvalidFilter)
	if v := n.get("/usage/aggregate?group_by=day&tz=Asia/Kolkata&start=2026-02-20T00:00:00Z").is(200)["data"].([]any); len(v) != 1 {
		t.Errorf("%v", v)
	}
}
