package httpapi

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

type exchange struct {
	Name    string    `json:"name"`
	Clock   time.Time `json:"clock"`
	Request struct {
		Method  string      `json:"method"`
		Target  string      `json:"target"`
		Headers [][2]string `json:"headers"`
		Body    string      `json:"body"`
		Told    string      `json:"body_description"`
	} `json:"request"`
	Response struct {
		Status  int         `json:"status"`
		Headers [][2]string `json:"headers"`
		Body    string      `json:"body"`
	} `json:"response"`
}

type recording struct {
	Groups []struct {
		Config struct {
			Storage          string `json:"metering_storage"`
			RetentionSeconds *int64 `json:"retention_ttl_seconds"`
			RateLimit        string `json:"rate_limit"`
		} `json:"server_config"`
		Exchanges []exchange `json:"exchanges"`
	} `json:"groups"`
}

// differences are where this project deliberately answers otherwise: by name of
// the exchange, the status it gives instead and the name under which
// docs/compatibility.md says why. Everything else must be as recorded, members
// that were added apart. Beyond these, for all exchanges: credentials are
// required (the replay is the operator), a quantity nobody reported is null and
// not 0, times are shown in UTC, and error texts differ.
var differences = map[string]struct {
	status int
	name   string
}{
	"post_malformed_json_gives_500":           {400, "usage-malformed-json"},
	"post_empty_body_gives_500":               {400, "usage-malformed-json"},
	"batch_malformed_json_gives_500":          {400, "usage-malformed-json"},
	"validate_malformed_json_gives_500":       {400, "usage-malformed-json"},
	"batch_1001":                              {201, "usage-batch-size"},
	"get_empty_agent_filters_empty":           {422, "usage-empty-filter"},
	"get_start_inclusive_end_inclusive":       {200, "usage-half-open"},
	"get_start_offset_02":                     {200, "usage-instants"},
	"get_start_naive":                         {422, "usage-zoneless-filter"},
	"get_start_date":                          {422, "usage-zoneless-filter"},
	"aggregate_bad_group_by":                  {200, "usage-group-by"},
	"post_big_tokens":                         {400, "usage-quantity-bound"},
	"get_big_tokens":                          {200, "usage-quantity-bound"},
	"summary_big":                             {200, "usage-quantity-bound"},
	"aggregate_day_uses_local_date_of_record": {200, "usage-calendar"},
	"export_parameter_format_is_ignored":      {200, "usage-export-format"},
	"export_csv_empty":                        {200, "usage-csv-columns"},
	"export_csv":                              {200, "usage-csv-columns"},
	"export_csv_filtered_limit":               {200, "usage-csv-columns"},
	"post_csv_special_characters":             {400, "usage-urn"},
	"export_csv_quoting":                      {200, "usage-csv-formulas"},
	"mixed_naive_get":                         {200, "usage-zoneless-record"},
	"mixed_naive_get_gives_500":               {200, "usage-zoneless-record"},
	"mixed_naive_stats_gives_500":             {200, "usage-zoneless-record"},
	"mixed_naive_filter_start_gives_500":      {200, "usage-zoneless-record"},
	"mixed_naive_summary_ok":                  {200, "usage-task-metering"},
	"usage_rate_limited_3":                    {200, "usage-rate-limit"},
}

// elsewhere are exchanges with parts of a node that are not in this package:
// tasks through POST /asap, and what was metered of them.
var elsewhere = map[string]bool{
	"task_request_is_metered": true, "get_metered": true, "failed_task_request_not_metered": true, "get_metered_after_failure": true,
	"metrics_task": true, "get_metrics_task": true,
}

func TestExchangesAsRecorded(t *testing.T) {
	b, err := os.ReadFile("testdata/usage_http.json")
	if err != nil {
		t.Fatal(err)
	}
	var all recording
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	for store, newNode := range map[string]func(*testing.T, func(*Config)) *node{"fake": newNode, "sqlite": newSQLiteNode} {
		t.Run(store, func(t *testing.T) { replay(t, all, newNode) })
	}
}

func replay(t *testing.T, all recording, newNode func(*testing.T, func(*Config)) *node) {
	seen, replayed := map[string]bool{}, 0
	for _, g := range all.Groups {
		relaxed := func(c *Config) {
			c.Bounds = metering.Bounds{MaxAhead: 400 * 24 * time.Hour, MaxLate: 400 * 24 * time.Hour} // of the recording
			if g.Config.RetentionSeconds != nil {
				c.Retention = func() time.Duration { return time.Duration(*g.Config.RetentionSeconds) * time.Second }
			}
		}
		n := newNode(t, relaxed)
		for _, x := range g.Exchanges {
			if elsewhere[x.Name] {
				seen[x.Name] = true
				continue
			}
			on, body := n, x.Request.Body
			if x.Name == "batch_1001" { // on a node of its own, as the recording goes on without them
				on = newNode(t, relaxed)
				body = `{"events":[` + strings.TrimSuffix(strings.Repeat(event("t", "many", "c", "2026-02-20T11:00:00Z", "")+",", 1001), ",") + "]}"
			} else if x.Request.Told != "" {
				t.Fatalf("%s: a body that is only described", x.Name)
			}
			on.setClock(x.Clock)
			var header []string
			for _, h := range x.Request.Headers {
				header = append(header, h[0], h[1])
			}
			got := on.do("operator", x.Request.Method, x.Request.Target, body, header...)
			replayed++
			if d, ok := differences[x.Name]; ok {
				seen[x.Name] = true
				if got.Code != d.status {
					t.Errorf("%s/%s: status %d, want %d (%s): %s", g.Config.Storage, x.Name, got.Code, d.status, d.name, got.Body)
				}
				if x.Name == "batch_1001" {
					if v := on.get("/usage/stats").is(200); v["total_events"] != 1.0 {
						t.Errorf("1,001 copies of a report: %v", v)
					}
				}
				continue
			}
			compare(t, g.Config.Storage+"/"+x.Name, &x, got)
		}
	}
	page, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range differences {
		if !strings.Contains(string(page), "`"+d.name+"`") {
			t.Errorf("docs/compatibility.md does not list %s", d.name)
		}
		if !seen[name] {
			t.Errorf("%s is no exchange of the recording", name)
		}
	}
	if len(seen) != len(differences)+len(elsewhere) || replayed < 200 {
		t.Errorf("%d replayed, %d differences met", replayed, len(seen))
	}
}

// newSQLiteNode is a node over the real ledger and store, in memory.
func newSQLiteNode(t *testing.T, change func(*Config)) *node {
	t.Helper()
	store, err := sqlite.OpenMemory(t.Context(), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	n := newNode(t, func(c *Config) {
		book, err := ledger.Open(ctx, store, ledger.Options{Origin: "test.example.com", Operator: "urn:asap:agent:operator", Now: c.Now})
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- book.Run(ctx) }()
		c.Usage, c.Ledger, c.Audit = store, book, store
		if change != nil {
			change(c)
		}
	})
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func compare(t *testing.T, name string, x *exchange, got answer) {
	t.Helper()
	if got.Code != x.Response.Status {
		t.Errorf("%s: status %d, recorded %d: %s", name, got.Code, x.Response.Status, got.Body)
		return
	}
	for _, h := range x.Response.Headers {
		if h[0] == "content-disposition" && got.Header().Get(h[0]) != h[1] {
			t.Errorf("%s: %s %q, recorded %q", name, h[0], got.Header().Get(h[0]), h[1])
		}
	}
	if got.Code == 307 {
		return
	}
	var want, have any
	if err := json.Unmarshal([]byte(x.Response.Body), &want); err != nil {
		t.Fatalf("%s: the recording: %v", name, err)
	}
	if err := json.Unmarshal(got.Body.Bytes(), &have); err != nil {
		t.Errorf("%s: %v: %s", name, err, got.Body)
		return
	}
	if got.Code >= 400 {
		if detail, _ := have.(map[string]any)["detail"].(string); detail == "" {
			t.Errorf("%s: no detail: %s", name, got.Body)
		}
		return
	}
	if path := lacks(have, want, ""); path != "" {
		t.Errorf("%s: differs at %s:\n got %s\nwant %s", name, path, got.Body, x.Response.Body)
	}
}

// lacks returns where have is not want with members added, or "".
func lacks(have, want any, path string) string {
	switch want := want.(type) {
	case map[string]any:
		have, ok := have.(map[string]any)
		if !ok {
			return path
		}
		for name, w := range want {
			h, ok := have[name]
			if name == "error" && ok { // a text for people
				continue
			}
			if !ok {
				return path + "." + name
			}
			if name == "timestamp" && sameInstant(h, w) || h == nil && w == 0.0 {
				continue
			}
			if p := lacks(h, w, path+"."+name); p != "" {
				return p
			}
		}
		return ""
	case []any:
		have, ok := have.([]any)
		if !ok || len(have) != len(want) {
			return path
		}
		for i := range want {
			if p := lacks(have[i], want[i], path+"[]"); p != "" {
				return p
			}
		}
		return ""
	}
	if have != want {
		return path
	}
	return ""
}

func sameInstant(a, b any) bool {
	x, err1 := time.Parse(time.RFC3339Nano, a.(string))
	y, err2 := time.Parse(time.RFC3339Nano, b.(string))
	return err1 == nil && err2 == nil && x.Equal(y) && strings.HasSuffix(a.(string), "Z")
}
