package node

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Raw records go when their time is over: by themselves, and when the operator
// asks; as the configuration in force says. Totals stay, and each purge is in
// the audit log.
func TestRetention(t *testing.T) {
	c := testConfig(t.TempDir())
	post := func(n *Node, path, body string) map[string]any {
		t.Helper()
		token, err := ReadOperatorToken(c.Data)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.URL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		var v jsontext.Value
		d := jsontext.NewDecoder(res.Body)
		if v, err = d.ReadValue(); err != nil || res.StatusCode/100 != 2 {
			t.Fatalf("POST %s: %s %s %v", path, res.Status, v, err)
		}
		return decode[map[string]any](t, v)
	}
	report := func(n *Node, id string, age time.Duration) {
		t.Helper()
		post(n, "/usage", fmt.Sprintf(`{"id":%q,"task_id":%q,"agent":%q,"consumer":%q,"tokens_in":5,"timestamp":%q}`,
			id, id, counterURN, callerURN, time.Now().Add(-age).UTC().Format(time.RFC3339)))
	}
	kept := func(n *Node) (raw, total, purges float64) {
		t.Helper()
		raw, _ = decode[map[string]any](t, get(t, n, "/usage"))["count"].(float64)
		total, _ = decode[map[string]any](t, get(t, n, "/usage/summary"))["total_tasks"].(float64)
		entries, _ := decode[map[string]any](t, get(t, n, "/audit/logs?event_type=usage.purged"))["data"].([]any)
		return raw, total, float64(len(entries))
	}
	const day = 24 * time.Hour
	n, stop := start(t, c, counter(new(atomic.Int64)))
	report(n, "ten", 10*day)
	report(n, "three", 3*day)
	report(n, "new", 0)
	if answer := post(n, "/usage/purge", ""); answer["removed"] != 0.0 {
		t.Errorf("without a limit: %v", answer)
	}
	if raw, total, purges := kept(n); raw != 3 || total != 3 || purges != 0 {
		t.Errorf("without a limit: %v raw, %v in all, %v purges", raw, total, purges)
	}
	stop()

	c.Metering.Retention = Duration(7 * day)
	n, _ = start(t, c, counter(new(atomic.Int64)))
	for { // the first round of housekeeping is at the start
		raw, total, purges := kept(n)
		if raw == 2 && total == 3 && purges == 1 {
			break
		}
		if total != 3 || t.Context().Err() != nil {
			t.Fatalf("by itself: %v raw, %v in all, %v purges", raw, total, purges)
		}
	}

	c.Metering.Retention = Duration(2 * day)
	n.Reload(t.Context(), c, nil)
	if stats := decode[map[string]any](t, get(t, n, "/usage/stats")); stats["retention_ttl_seconds"] != (2 * day).Seconds() {
		t.Errorf("after a reload: %v", stats)
	}
	answer := post(n, "/usage/purge", "")
	if answer["removed"] != 1.0 || answer["receipt"] == nil {
		t.Errorf("asked: %v", answer)
	}
	if raw, total, purges := kept(n); raw != 1 || total != 3 || purges != 2 {
		t.Errorf("asked: %v raw, %v in all, %v purges", raw, total, purges)
	}
}
