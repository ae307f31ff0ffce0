//go:build postgres

package node

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/internal/postgrestest"
)

// A node on PostgreSQL serves, says when the server is gone and when it is back,
// loses nothing when that is killed, and finds its ledger again.
func TestNodeOnPostgreSQL(t *testing.T) {
	cluster := postgrestest.Start(t)
	url := cluster.Database(t)
	t.Setenv("TEST_STORE_URL", url)
	c := testConfig(t.TempDir())
	c.Store = "env:TEST_STORE_URL"
	n, stop := start(t, c, counter(new(atomic.Int64)))
	runTasks(t, newClient(t, n), 5)
	if status := readiness(t, n); status != http.StatusOK {
		t.Errorf("ready: %d", status)
	}
	if err := cluster.Kill(); err != nil {
		t.Fatal(err)
	}
	if status := readiness(t, n); status != http.StatusServiceUnavailable {
		t.Errorf("ready without a server: %d", status)
	}
	if err := cluster.Start(); err != nil {
		t.Fatal(err)
	}
	runTasks(t, newClient(t, n), 5)
	if status := readiness(t, n); status != http.StatusOK {
		t.Errorf("ready again: %d", status)
	}
	stop()
	for _, f := range Diagnose(t.Context(), c, time.Now()) {
		if f.Severity == Fail || strings.Contains(f.Text, cluster.Socket()) {
			t.Errorf("the doctor says %+v", f)
		}
	}
	if _, err := OpenReadOnly(t.Context(), c.Data); err == nil || !strings.Contains(err.Error(), "--node") {
		t.Errorf("reading a directory whose ledger is elsewhere: %v", err)
	}
	schema, err := ReadSchema(t.Context(), c)
	if err != nil || len(schema.Missing) != 0 || schema.Applied == 0 {
		t.Errorf("schema %+v, %v", schema, err)
	}
	n, stop = start(t, c, counter(new(atomic.Int64)))
	if got := decode[struct {
		Tasks int64 `json:"total_tasks"`
	}](t, get(t, n, "/usage/summary")); got.Tasks != 10 {
		t.Errorf("after a restart: %d tasks", got.Tasks)
	}
	stop()
	if err := os.Remove(c.Data + "/" + KeyFile); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), c, Options{Agents: []*agent.Agent{counter(new(atomic.Int64))}}); err == nil || !strings.Contains(err.Error(), KeyFile) {
		t.Errorf("opened with a new key: %v", err)
	}
}

// readiness asks a node whether it is ready.
func readiness(t *testing.T, n *Node) int {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, n.URL()+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}
