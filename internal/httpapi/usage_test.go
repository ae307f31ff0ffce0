package httpapi

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // zones on any machine

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/canonicaljson"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

func TestBadReports(t *testing.T) {
	ok := event("t1", "a", "c", "2026-02-20T11:00:00Z", `,"id":"one","tokens_in":5`)
	batch := func(events ...string) string { return `{"events":[` + strings.Join(events, ",") + `]}` }
	many := batch(strings.TrimSuffix(strings.Repeat(ok+",", maxBatch+1), ","))
	for _, c := range []struct {
		name, target, body string
		status             int
		code               asap.Code
		where              string
	}{
		{"in the future", "/usage", event("t", "a", "c", "2026-02-20T12:05:01Z", ""), 422, asap.CodeRecordInFuture, "timestamp"},
		{"too late", "/usage", event("t", "a", "c", "2026-01-01T00:00:00Z", ""), 422, asap.CodeRecordTooLate, "timestamp"},
		{"negative", "/usage", event("t", "a", "c", "2026-02-20T11:00:00Z", `,"tokens_in":-1`), 400, asap.CodeRecordInvalid, "tokens_in"},
		{"same id, other content", "/usage", event("t1", "a", "c", "2026-02-20T11:00:00Z", `,"id":"one","tokens_in":6`), 409, asap.CodeRecordConflict, ""},
		{"same id, other content, in a batch", "/usage/batch", batch(event("t9", "a", "c", "2026-02-20T11:00:00Z", ""), event("t1", "a", "c", "2026-02-20T11:00:00Z", `,"id":"one","tokens_in":6`)), 409, asap.CodeRecordConflict, "events.1"},
		{"one bad item", "/usage/batch", batch(event("t9", "a", "c", "2026-02-20T11:00:00Z", ""), event("t8", "a", "c", "2026-02-20T11:00:00Z", `,"api_calls":-1`)), 400, asap.CodeRecordInvalid, "events.1.api_calls"},
		{"one item in the future", "/usage/batch", batch(event("t9", "a", "c", "2026-02-20T13:00:00Z", ""), event("t8", "a", "c", "2026-02-20T11:00:00Z", "")), 422, asap.CodeRecordInFuture, "events.0.timestamp"},
		{"too many", "/usage/batch", many, 413, asap.CodeBatchTooLarge, "events"},
		{"no events", "/usage/batch", batch(), 400, asap.CodeRecordInvalid, "events"},
		{"events no list", "/usage/batch", `{"events":{}}`, 400, asap.CodeRecordInvalid, "events"},
		{"no batch", "/usage/batch", ok, 400, asap.CodeRecordInvalid, "events"},
		{"a list", "/usage/batch", "[" + ok + "]", 400, asap.CodeRecordInvalid, ""},
		{"another member", "/usage/batch", `{"events":[` + ok + `],"x":1}`, 400, asap.CodeRecordInvalid, "x"},
		{"malformed", "/usage", `{"task_id":`, 400, asap.CodeParseError, ""},
		{"malformed batch", "/usage/batch", `{"events":[{]}`, 400, asap.CodeParseError, ""},
		{"duplicate member", "/usage", event("t", "a", "c", "2026-02-20T11:00:00Z", `,"tokens_in":1,"tokens_in":2`), 400, asap.CodeParseError, ""},
		{"duplicate member in a batch", "/usage/batch", batch(event("t", "a", "c", "2026-02-20T11:00:00Z", `,"tokens_in":1,"tokens_in":2`)), 400, asap.CodeParseError, ""},
		{"trailing data", "/usage", ok + "{}", 400, asap.CodeParseError, ""},
		{"bad UTF-8", "/usage", event("t\xff", "a", "c", "2026-02-20T11:00:00Z", ""), 400, asap.CodeParseError, ""},
		{"oversized", "/usage", strings.Repeat(" ", 4<<20) + ok, 413, asap.CodeRequestTooLarge, ""},
		{"mode", "/usage/batch?mode=best", batch(ok), 422, asap.CodeInvalidFilter, "mode"},
		{"empty mode", "/usage/batch?mode=", batch(ok), 422, asap.CodeInvalidFilter, "mode"},
		{"correction of nothing", "/usage", `{"kind":"void","ref":"nope","reason":"x"}`, 404, asap.CodeNotFound, ""},
		{"correction without reason", "/usage", `{"kind":"void","ref":"one"}`, 400, asap.CodeRecordInvalid, "reason"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, func(cfg *Config) { cfg.MaxBodyBytes = 3 << 20 })
			n.post("/usage", ok).is(201)
			v := n.post(c.target, c.body).refuses(c.status, c.code)
			where := ""
			if list, _ := v["errors"].([]any); len(list) > 0 {
				where, _ = list[0].(map[string]any)["location"].(string)
			}
			if where != c.where {
				t.Errorf("blames %q, want %q: %v", where, c.where, v)
			}
			if len(n.records) != 1 {
				t.Errorf("%d records, want only the first", len(n.records))
			}
		})
	}
	n := newNode(t, nil)
	n.do("operator", "POST", "/usage", ok, "Content-Encoding", "gzip").refuses(415, asap.CodeUnsupportedEncoding)
	n.do("operator", "POST", "/usage", ok, "Idempotency-Key", strings.Repeat("k", 257)).refuses(422, asap.CodeInvalidFilter)
	n.do("operator", "POST", "/usage/batch", batch(ok), "Idempotency-Key", strings.Repeat("k", 257)).refuses(422, asap.CodeInvalidFilter)
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/usage", io.MultiReader(strings.NewReader("{"), brokenBody{}))
	r.Header.Set("Authorization", "operator")
	w := httptest.NewRecorder()
	n.mux.ServeHTTP(w, r)
	answer{w, t}.refuses(400, asap.CodeParseError)
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestTheSameReportCountsOnce(t *testing.T) {
	n := newNode(t, nil)
	body := event("t1", "priced", "c", "2026-02-20T11:00:00Z", `,"tokens_in":"1_000"`)
	first := n.post("/usage", body).is(201)
	if first["status"] != "recorded" || first["task_id"] != "t1" || first["duplicate"] != false || first["cost_usd"] != "0.0015" || first["cost_status"] != "priced" {
		t.Errorf("%v", first)
	}
	again := n.post("/usage", strings.Replace(body, `"1_000"`, "1000.0", 1)).is(200)
	if again["duplicate"] != true || fmt.Sprint(again["receipt"]) != fmt.Sprint(first["receipt"]) || again["id"] != first["id"] || len(n.records) != 1 {
		t.Errorf("%v, first %v", again, first)
	}
	batch := n.post("/usage/batch", `{"events":[`+body+","+body+`]}`).is(200)
	if batch["count"] != 2.0 || batch["duplicates"] != 2.0 || len(n.records) != 1 {
		t.Errorf("%v", batch)
	}

	// A key names what has no id: repeated with other content it conflicts.
	n.do("operator", "POST", "/usage", event("k", "a", "c", "2026-02-20T11:00:00Z", ""), "Idempotency-Key", "x").is(201)
	n.do("operator", "POST", "/usage", event("k", "a", "c", "2026-02-20T11:00:00Z", ""), "Idempotency-Key", "x").is(200)
	n.do("operator", "POST", "/usage", event("k", "a", "c", "2026-02-20T11:00:01Z", ""), "Idempotency-Key", "x").refuses(409, asap.CodeRecordConflict)
	two := `{"events":[` + event("k", "a", "c", "2026-02-20T10:00:00Z", "") + "," + event("k", "a", "c", "2026-02-20T10:00:01Z", "") + `]}`
	n.do("operator", "POST", "/usage/batch", two, "Idempotency-Key", "x").is(201)
	n.do("operator", "POST", "/usage/batch", two, "Idempotency-Key", "x").is(200)
	if len(n.records) != 4 {
		t.Errorf("%d records", len(n.records))
	}
}

func TestBatchItemByItem(t *testing.T) {
	n := newNode(t, nil)
	good := func(id string) string { return event(id, "a", "c", "2026-02-20T11:00:00Z", `,"id":"`+id+`"`) }
	other := event("x", "a", "c", "2026-02-20T11:00:00Z", `,"id":"1"`)
	late := event("y", "a", "c", "2026-01-01T11:00:00Z", "")
	v := n.post("/usage/batch?mode=per_item", `{"events":[`+good("1")+","+late+","+other+","+good("1")+","+good("2")+`]}`).is(200)
	if v["status"] != "partial" || v["count"] != 3.0 || v["refused"] != 2.0 || v["duplicates"] != 1.0 || len(n.records) != 2 {
		t.Errorf("%v", v)
	}
	var got []string
	for i, item := range v["results"].([]any) {
		r := item.(map[string]any)
		code := ""
		if e, ok := r["error"].(map[string]any); ok {
			code = e["code"].(string)
		}
		if r["index"] != float64(i) {
			t.Errorf("item %d says %v", i, r["index"])
		}
		got = append(got, r["status"].(string)+" "+code)
	}
	want := "[recorded  refused record_too_late refused record_conflict recorded  recorded ]"
	if fmt.Sprint(got) != want {
		t.Errorf("%s", got)
	}
	if v := n.post("/usage/batch?mode=per_item", `{"events":[`+late+`]}`).is(200); v["status"] != "refused" || v["count"] != 0.0 {
		t.Errorf("%v", v)
	}
	if v := n.post("/usage/batch?mode=per_item", `{"events":[`+good("3")+`]}`).is(201); v["status"] != "recorded" {
		t.Errorf("%v", v)
	}
	if v := n.post("/usage/batch?mode=atomic", `{"events":[`+good("4")+","+good("1")+`]}`).is(201); v["duplicates"] != 1.0 || len(v["receipts"].([]any)) != 2 {
		t.Errorf("%v", v)
	}
}

func TestSignedReportsNeedNoOtherCredentials(t *testing.T) {
	n := newNode(t, nil)
	sign := func(key ed25519.PrivateKey, usage string) string {
		canonical, err := canonicaljson.Canonical([]byte(usage), canonicaljson.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`{"usage":%s,"signature":"%s","public_key":"%s"}`, usage,
			base64.StdEncoding.EncodeToString(ed25519.Sign(key, canonical)), base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey)))
	}
	usage := event("t", "signer", "c", "2026-02-20T11:00:00Z", "")
	signed := sign(testKey, usage)
	n.do("", "POST", "/usage", signed).is(201)
	if r := n.records[0]; len(r.Signature) != 64 || len(r.PublicKey) != 32 {
		t.Errorf("the signature was not kept: %+v", r)
	}
	n.do("", "POST", "/usage/batch", `{"events":[`+signed+`]}`).is(200)
	n.post("/usage", usage).is(200) // unsigned, the same report
	stranger := ed25519.NewKeyFromSeed(make([]byte, 32))
	n.do("", "POST", "/usage", sign(stranger, usage)).refuses(403, asap.CodeForbidden)
	n.do("operator", "POST", "/usage", sign(testKey, event("t", "unregistered", "c", "2026-02-20T11:00:00Z", ""))).refuses(403, asap.CodeForbidden)
	n.do("", "POST", "/usage", strings.Replace(signed, `"t"`, `"u"`, 1)).refuses(422, asap.CodeSignature)
	n.do("", "POST", "/usage/batch", `{"events":[`+signed+","+usage+`]}`).refuses(401, asap.CodeUnauthenticated)
	none := newNode(t, func(c *Config) { c.AgentKeys = nil })
	none.do("", "POST", "/usage", signed).refuses(403, asap.CodeForbidden)
	if len(n.records) != 1 {
		t.Errorf("%d records", len(n.records))
	}
}

func TestCorrections(t *testing.T) {
	n := newNode(t, nil)
	n.seed(event("t", "priced", "c", "2026-02-20T11:00:00Z", `,"id":"r","tokens_in":10,"tokens_out":1`), event("u", "a", "c", "2026-02-20T11:00:00Z", `,"id":"s","tokens_in":7,"tokens_out":0`))
	void := `{"kind":"void","ref":"r","reason":"charged twice"}`
	n.do("", "POST", "/usage", void).refuses(401, asap.CodeUnauthenticated)
	n.do("urn:asap:agent:priced", "POST", "/usage", void).refuses(403, asap.CodeForbidden)
	n.post("/usage", void).is(201)
	n.post("/usage", void).refuses(409, asap.CodeRecordConflict)
	n.post("/usage", `{"kind":"adjustment","ref":"s","reason":"counted wrong","tokens_in":-3,"cost_usd":"-0.5"}`).is(201)
	if v := n.get("/usage/summary").is(200); v["total_tasks"] != 1.0 || v["total_tokens"] != 4.0 || v["total_cost_usd"] != "-0.5" || v["unique_agents"] != 1.0 {
		t.Errorf("%v", v)
	}
	if v := n.get("/usage/t").is(200); v["count"] != 2.0 || v["data"].([]any)[1].(map[string]any)["kind"] != "void" {
		t.Errorf("%v", v)
	}
}

func TestValidateStoresNothing(t *testing.T) {
	n := newNode(t, nil)
	me := "urn:asap:agent:a"
	if v := n.do(me, "POST", "/usage/validate", event("t", "a", "c", "2026-02-20T11:00:00Z", "")).is(200); v["valid"] != true || v["agent"] != v["agent_id"] || v["id"] == nil {
		t.Errorf("%v", v)
	}
	if v := n.do(me, "POST", "/usage/validate", event("t", "a", "c", "2026-02-20T13:00:00Z", "")).is(200); v["valid"] != false || v["code"] != "record_in_future" || v["error"] == "" {
		t.Errorf("%v", v)
	}
	if v := n.do(me, "POST", "/usage/validate", event("t", "b", "c", "2026-02-20T11:00:00Z", "")).is(200); v["valid"] != false || v["code"] != "forbidden" {
		t.Errorf("%v", v)
	}
	if len(n.records) != 0 {
		t.Error("something was stored")
	}
}

func TestBadParameters(t *testing.T) {
	n := newNode(t, nil)
	for _, c := range []struct {
		target, where string
		status        int
		code          asap.Code
	}{
		{"/usage?start=2026-02-20T10:00:00", "start", 422, asap.CodeInvalidTime},
		{"/usage?end=2026-02-20", "end", 422, asap.CodeInvalidTime},
		{"/usage?end=2026-02-20T10:00:00+01:00", "end", 422, asap.CodeInvalidTime},
		{"/usage?limit=0", "limit", 422, asap.CodeInvalidFilter},
		{"/usage?limit=1001", "limit", 422, asap.CodeInvalidFilter},
		{"/usage?limit=2.5", "limit", 422, asap.CodeInvalidFilter},
		{"/usage?limit=NaN", "limit", 422, asap.CodeInvalidFilter},
		{"/usage?offset=-1", "offset", 422, asap.CodeInvalidFilter},
		{"/usage?agent=a&agent_id=b", "agent_id", 422, asap.CodeInvalidFilter},
		{"/usage?consumer=", "consumer", 422, asap.CodeInvalidFilter},
		{"/usage?outcome=done", "outcome", 422, asap.CodeInvalidFilter},
		{"/usage?cursor=x", "cursor", 422, asap.CodeInvalidCursor},
		{"/usage?cursor=%21", "cursor", 422, asap.CodeInvalidCursor},
		{"/usage?cursor=", "cursor", 422, asap.CodeInvalidFilter},
		{"/usage?agent=%zz", "query", 422, asap.CodeInvalidFilter},
		{"/usage/aggregate", "group_by", 422, asap.CodeInvalidFilter},
		{"/usage/aggregate?group_by=", "group_by", 400, asap.CodeInvalidFilter},
		{"/usage/aggregate?group_by=year", "group_by", 400, asap.CodeInvalidFilter},
		{"/usage/aggregate?group_by=day&tz=Mars/Base", "tz", 422, asap.CodeInvalidFilter},
		{"/usage/aggregate?group_by=day&tz=Local", "tz", 422, asap.CodeInvalidFilter},
		{"/usage/aggregate?group_by=day&limit=0", "limit", 422, asap.CodeInvalidFilter},
		{"/usage/aggregate?group_by=day&start=x", "start", 422, asap.CodeInvalidTime},
		{"/usage/aggregate?group_by=day&cursor=x", "cursor", 422, asap.CodeInvalidCursor},
		{"/usage/summary?start=x", "start", 422, asap.CodeInvalidTime},
		{"/usage/export?export_format=xml", "export_format", 422, asap.CodeInvalidFilter},
		{"/usage/export?export_format=csv&format=json", "format", 422, asap.CodeInvalidFilter},
		{"/usage/export?export_format=", "export_format", 422, asap.CodeInvalidFilter},
		{"/usage/export?limit=100001", "limit", 422, asap.CodeInvalidFilter},
		{"/usage/export?start=x", "start", 422, asap.CodeInvalidTime},
		{"/audit/logs?limit=x", "limit", 422, asap.CodeInvalidFilter},
		{"/audit/logs?actor=", "actor", 422, asap.CodeInvalidFilter},
		{"/audit/logs?subject=", "subject", 422, asap.CodeInvalidFilter},
		{"/audit/logs?event_type=", "event_type", 422, asap.CodeInvalidFilter},
		{"/audit/logs?start=x", "start", 422, asap.CodeInvalidTime},
		{"/audit/logs?end=2026-02-20", "end", 422, asap.CodeInvalidTime},
		{"/audit/logs?cursor=x", "cursor", 422, asap.CodeInvalidCursor},
	} {
		v := n.get(c.target).refuses(c.status, c.code)
		if where := v["errors"].([]any)[0].(map[string]any)["location"]; where != c.where {
			t.Errorf("%s blames %v", c.target, where)
		}
	}
}

func TestPagesAddUpToTheList(t *testing.T) {
	n := newNode(t, nil)
	var events []string
	for i := range 25 {
		events = append(events, event(fmt.Sprint("t", i), fmt.Sprint("a", i%7), "c", fmt.Sprintf("2026-02-20T%02d:00:00Z", i%3), fmt.Sprintf(`,"id":"r%d","tokens_in":1,"tokens_out":0`, i)))
	}
	n.seed(events...)
	walk := func(target string) (rows []any, pages int) {
		next := any("")
		for next != nil {
			page := target
			if next != "" {
				page += "&cursor=" + url.QueryEscape(next.(string))
			}
			v := n.get(page).is(200)
			rows = append(rows, v["data"].([]any)...)
			next = v["next_cursor"]
			pages++
			if pages > 30 {
				t.Fatal("pages without end")
			}
		}
		return rows, pages
	}
	all := n.get("/usage").is(200)["data"].([]any)
	paged, pages := walk("/usage?limit=4")
	if fmt.Sprint(paged) != fmt.Sprint(all) || pages != 7 || len(all) != 25 {
		t.Errorf("%d records in %d pages, %d at once", len(paged), pages, len(all))
	}
	var offsets []any
	for at := 0; at < 25; at += 10 {
		offsets = append(offsets, n.get(fmt.Sprintf("/usage?limit=10&offset=%d", at)).is(200)["data"].([]any)...)
	}
	if fmt.Sprint(offsets) != fmt.Sprint(all) {
		t.Error("offsets differ from the list")
	}
	for _, by := range []string{"agent", "hour,agent", "day"} {
		groups := n.get("/usage/aggregate?group_by=" + by).is(200)["data"].([]any)
		paged, _ := walk("/usage/aggregate?limit=2&group_by=" + by)
		if fmt.Sprint(paged) != fmt.Sprint(groups) {
			t.Errorf("%s: pages differ:\n%v\n%v", by, paged, groups)
		}
		total := 0.0
		for _, g := range groups {
			total += g.(map[string]any)["total_tokens"].(float64)
		}
		if total != 25 {
			t.Errorf("%s: %v tokens", by, total)
		}
	}
	// A cursor of one list is none of another.
	next := n.get("/usage?limit=4").is(200)["next_cursor"].(string)
	n.get("/audit/logs?cursor="+next).refuses(422, asap.CodeInvalidCursor)
	n.get("/usage/aggregate?group_by=agent&cursor="+next).refuses(422, asap.CodeInvalidCursor)
}

func TestGroupsOfEveryKind(t *testing.T) {
	n := newNode(t, nil)
	n.seed(
		event("1", "a", "c", "2026-02-19T18:45:00Z", `,"tokens_in":1,"tokens_out":2,"skill":"echo","duration_ms":10`), // 00:15 on the 20th in Kolkata
		event("2", "a", "d", "2026-02-20T01:00:00Z", `,"outcome":"failed"`),
		event("3", "priced", "c", "2026-02-20T02:00:00Z", `,"tokens_in":4,"tokens_out":0,"duration_ms":5`),
	)
	periods := func(target string) (got []string) {
		for _, g := range n.get(target).is(200)["data"].([]any) {
			v := g.(map[string]any)
			got = append(got, fmt.Sprint(v["period"], v["total_tasks"]))
		}
		return got
	}
	for target, want := range map[string]string{
		"/usage/aggregate?group_by=day":                                                     "[2026-02-191 2026-02-202]",
		"/usage/aggregate?group_by=day&tz=Asia/Kolkata":                                     "[2026-02-203]",
		"/usage/aggregate?group_by=day&tz=America/New_York":                                 "[2026-02-193]",
		"/usage/aggregate?group_by=month&start=2026-02-20T01:00:00Z":                        "[2026-022]",
		"/usage/aggregate?group_by=hour&end=2026-02-20T02:00:00Z&agent_id=urn:asap:agent:a": "[2026-02-19T18:00:00Z1 2026-02-20T01:00:00Z1]",
		"/usage/agents": "[all2 all1]",
	} {
		if got := fmt.Sprint(periods(target)); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
	rows := n.get("/usage/aggregate?group_by=agent,outcome,skill,delegation,consumer").is(200)["data"].([]any)
	first := rows[0].(map[string]any)
	for name, want := range map[string]any{
		"agent": "urn:asap:agent:a", "agent_id": "urn:asap:agent:a", "consumer_id": "urn:asap:agent:c", "outcome": "completed", "skill": "echo",
		"delegation": "", "total_tokens": 3.0, "avg_tokens_per_task": 3.0, "unpriced_tasks": 1.0, "unique_agents": 1.0,
	} {
		if first[name] != want {
			t.Errorf("%s = %v, want %v", name, first[name], want)
		}
	}
	if len(rows) != 3 {
		t.Errorf("%d groups", len(rows))
	}
	sum := n.get("/usage/summary").is(200)
	if sum["total_cost_usd"] != "0.0015" || sum["unpriced_tasks"] != 2.0 || sum["unreported_tasks"] != 1.0 || sum["avg_duration_ms_per_task"] != 5.0 {
		t.Errorf("%v", sum)
	}
	if v := n.get("/usage/summary?agent=urn:asap:agent:nobody").is(200); v["avg_tokens_per_task"] != nil || v["total_tasks"] != 0.0 || v["total_cost_usd"] != "0" {
		t.Errorf("%v", v)
	}
}

func TestExportsOverHTTP(t *testing.T) {
	n := newNode(t, nil)
	n.seed(event("=1", "a", "c", "2026-02-20T10:00:00Z", ""), event("2", "a", "c", "2026-02-20T11:00:00Z", ""))
	server := httptest.NewServer(n.mux)
	defer server.Close()
	fetch := func(query string) (header, trailer http.Header, body []byte, err error) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/usage/export"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "operator")
		got, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = got.Body.Close() }()
		b, err := io.ReadAll(got.Body)
		return got.Header, got.Trailer, b, err
	}
	for query, media := range map[string]string{"": "application/json", "?export_format=csv": "text/csv; charset=utf-8", "?export_format=ndjson": "application/x-ndjson", "?format=ndjson": "application/x-ndjson"} {
		header, trailer, b, err := fetch(query)
		if err != nil || header.Get("Content-Type") != media || trailer.Get(trailerCount) != "2" || trailer.Get(trailerComplete) != "true" {
			t.Errorf("%s: %v %v %v", query, err, header, trailer)
		}
		if sum := sha256.Sum256(b); media == "text/csv; charset=utf-8" && trailer.Get(trailerSHA256) != hex.EncodeToString(sum[:]) {
			t.Errorf("the hash of the CSV is not that of its bytes")
		}
	}
	if _, trailer, _, err := fetch("?limit=1"); err != nil || trailer.Get(trailerComplete) != "false" {
		t.Errorf("a cut export: %v %v", err, trailer)
	}
	// An export that breaks off must not look like a whole one.
	var events []string
	for i := range 500 {
		events = append(events, event(fmt.Sprint(i), "a", "c", "2026-02-20T11:30:00Z", ""))
	}
	n.seed(events...)
	n.fail, n.failAt = errors.New("disk"), 400
	if _, trailer, b, err := fetch("?export_format=ndjson"); err == nil || trailer.Get(trailerCount) != "" {
		t.Errorf("a broken export came whole: %d bytes, %v", len(b), trailer)
	}
	if !strings.Contains(n.log.String(), "export broke off") {
		t.Error("it was not logged")
	}
}

func TestPurgeAndStats(t *testing.T) {
	n := newNode(t, nil)
	n.seed(event("1", "a", "c", "2026-02-10T11:00:00.5Z", ""), event("2", "a", "c", "2026-02-20T11:30:00Z", ""))
	if v := n.post("/usage/purge", "not read").is(200); v["removed"] != 0.0 || v["status"] != "purged" {
		t.Errorf("%v", v)
	}
	if v := n.get("/usage/stats").is(200); v["total_events"] != 2.0 || v["oldest_timestamp"] != "2026-02-10T11:00:00.500000Z" || v["retention_ttl_seconds"] != nil {
		t.Errorf("%v", v)
	}
	short := newNode(t, func(c *Config) { c.Retention = func() time.Duration { return time.Hour }; c.Usage, c.Ledger = n, n })
	if v := short.post("/usage/purge", "").is(200); v["removed"] != 1.0 || v["before"] != "2026-02-20T11:00:00Z" || v["receipt"] == nil {
		t.Errorf("%v", v)
	}
	if v := short.get("/usage/stats").is(200); v["retention_ttl_seconds"] != 3600.0 || v["total_events"] != 1.0 {
		t.Errorf("%v", v)
	}
	n.fail = ledger.ErrUnavailable
	short.post("/usage/purge", "").refuses(503, asap.CodeLedgerUnavailable)
}

func TestLedgerErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   asap.Code
		retry  string
	}{
		{ledger.ErrConflict, 409, asap.CodeRecordConflict, ""}, {metering.ErrConflict, 409, asap.CodeRecordConflict, ""},
		{ledger.ErrOverloaded, 503, asap.CodeOverloaded, "1"}, {ledger.ErrClosed, 503, asap.CodeShuttingDown, "1"}, {ledger.ErrUnavailable, 503, asap.CodeLedgerUnavailable, "1"},
		{ledger.ErrOutcomeUnknown, 500, asap.CodeInternal, ""}, {ledger.ErrInvalid, 400, asap.CodeRecordInvalid, ""},
		{fmt.Errorf("wrapped: %w", metering.ErrOverflow), 500, asap.CodeInternal, ""},
	} {
		n := newNode(t, nil)
		n.fail = fmt.Errorf("group 7: %w", c.err)
		got := n.post("/usage", event("t", "a", "c", "2026-02-20T11:00:00Z", ""))
		got.refuses(c.status, c.code)
		if got.Header().Get("Retry-After") != c.retry || strings.Contains(got.Body.String(), "group 7") {
			t.Errorf("%v: %v %s", c.err, got.Header(), got.Body)
		}
	}
	if p := asProblem(t.Context().Err()); p.Code != asap.CodeInternal {
		t.Errorf("%v", p)
	}
}
