package node

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/asap-protocol/asap-go/client"
	"github.com/go-json-experiment/json/jsontext"
)

// What a node commits is counted where Prometheus reads it.
func TestMetrics(t *testing.T) {
	n, _ := start(t, testConfig(t.TempDir()), counter(new(atomic.Int64)))
	c := newClient(t, n)
	_, before := ask(t, n, "/metrics")
	for _, series := range []string{
		"asap_ledger_commit_seconds_count", "asap_ledger_commit_failures_total 0", "asap_audit_entries_total", "go_goroutines", "process_start_time_seconds",
		`asap_sla_open_breaches{severity="critical"} 0`, `asap_sla_open_breaches{severity="warning"} 0`, "asap_tasks_running 0",
	} {
		if !bytes.Contains(before, []byte(series)) {
			t.Errorf("no %s", series)
		}
	}
	for range 3 {
		if _, err := c.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":5}`)}); err != nil {
			t.Fatal(err)
		}
	}
	_, after := ask(t, n, "/metrics")
	for _, series := range []string{`asap_usage_records_total{outcome="completed"} 3`, `asap_usage_tokens_total{direction="in"} 15`, `asap_usage_tokens_total{direction="out"} 30`} {
		if !bytes.Contains(after, []byte(series)) {
			var have []string
			for line := range strings.Lines(string(after)) {
				if strings.HasPrefix(line, "asap_usage") {
					have = append(have, line)
				}
			}
			t.Errorf("no %s, but %s", series, have)
		}
	}
}
