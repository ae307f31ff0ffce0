package node

import (
	"bytes"
	"context"
	"database/sql"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// checkAuditLog verifies the log of a stopped node by its own key, wholly sealed,
// and compares it with every table: every fact has its entry, and the reverse.
func checkAuditLog(t *testing.T, store *sqlite.Store, dir string) auditlog.Reconciliation {
	t.Helper()
	log, err := openAuditLog(t.Context(), store, dir)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := audit.ParseKeys(log.VKey())
	if err != nil {
		t.Fatal(err)
	}
	v, err := log.Verify(t.Context(), auditlog.Check{Keys: keys, Reconcile: true, MaxUnsealed: new(int64)})
	if err != nil {
		t.Fatal(err)
	}
	var r auditlog.Reconciliation
	if err := json.Unmarshal(v.Reconciliation, &r); err != nil {
		t.Fatal(err)
	}
	if !v.Valid || !r.Consistent || r.DriftPercent != "0" || len(v.Guards.Missing) != 0 {
		t.Errorf("the audit log of %s: %+v\n%s", dir, v, v.Reconciliation)
	}
	return r
}

func runTasks(t *testing.T, c *client.Client, n int) {
	t.Helper()
	for range n {
		if _, err := c.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)}); err != nil {
			t.Fatal(err)
		}
	}
}

// ask is get without a success being expected.
func ask(t *testing.T, n *Node, path string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := ReadOperatorToken(n.config.Data)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, body
}

// A running node is verified, exported and asked for proofs; its reloads and
// prunes are entries.
func TestAuditOverHTTP(t *testing.T) {
	dir := t.TempDir()
	config := testConfig(dir)
	n, stop := start(t, config, counter(new(atomic.Int64)))
	runTasks(t, newClient(t, n), 10)
	next := config
	next.Metering.Retention, next.Audit.Retention, next.Log.Level = Duration(90*24*time.Hour), Duration(365*24*time.Hour), "warn"
	n.Reload(t.Context(), next, nil)
	if err := n.sealer.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	v := decode[struct {
		Valid     bool   `json:"valid"`
		Assurance string `json:"assurance"`
		Size      int64  `json:"size"`
		Sealed    int64  `json:"sealed_through"`
	}](t, get(t, n, "/audit/verify?reconcile=1"))
	if !v.Valid || v.Assurance != "sealed" || v.Size != 32 || v.Sealed != 32 {
		t.Errorf("%+v", v)
	}
	keys := n.auditKeys
	for _, format := range []string{"json", "jsonl"} {
		file := get(t, n, "/audit/export?format="+format)
		v, err := audit.VerifyExport(bytes.NewReader(file), int64(len(file)), audit.Options{Keys: keys})
		if err != nil || !v.Valid || v.Size != 32 {
			t.Errorf("%s: %+v %v", format, v, err)
		}
	}
	note := get(t, n, "/audit/checkpoint")
	if c, err := keys.Open(note); err != nil || c.Size != 32 {
		t.Errorf("%s %v", note, err)
	}
	types := map[string]string{}
	for _, kind := range []string{audit.RetentionChanged, audit.ConfigChanged} {
		types[kind] = string(get(t, n, "/audit/logs?event_type="+kind))
	}
	if !strings.Contains(types[audit.RetentionChanged], `"audit.retention":{"from":"0s","to":"365d"}`) || !strings.Contains(types[audit.ConfigChanged], `"log.level":{"from":"info","to":"warn"}`) {
		t.Errorf("a reload is logged as %v", types)
	}
	for path, want := range map[string]int{
		"/audit/proof/inclusion?seq=3": 200, "/audit/proof/inclusion?seq=3&size=9": 200, "/audit/proof/inclusion?seq=99": 422, "/audit/proof/inclusion": 422,
		"/audit/proof/consistency?from=3": 200, "/audit/proof/consistency?from=3&to=9": 200, "/audit/proof/consistency?from=9&to=3": 422, "/audit/proof/consistency": 422,
		"/audit/verify?checkpoint=nonsense": 422, "/audit/verify?vkey=nonsense": 422, "/audit/verify?from=99": 422, "/audit/verify?require=much": 422,
		"/audit/verify?vkey=none": 200, "/audit/verify?from=3&to=5": 200, "/audit/export?format=xml": 422, "/audit/logs/nothing?proof=1": 404,
	} {
		if got, body := ask(t, n, path); got != want {
			t.Errorf("%s: %d, want %d: %s", path, got, want, body)
		}
	}

	// All that is older than now goes; what is left is whole.
	if err := n.pruneAuditBefore(t.Context(), time.Now().Add(time.Hour), "test"); err != nil {
		t.Fatal(err)
	}
	runTasks(t, newClient(t, n), 1)
	if got, body := ask(t, n, "/audit/proof/inclusion?seq=3"); got != http.StatusNotFound {
		t.Errorf("a pruned entry: %d %s", got, body)
	}
	stop()
	if info, err := os.Stat(filepath.Join(dir, VKeyFile)); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v %v", info, err)
	}
	for _, name := range []string{SignerFile, LedgerFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	r := checkAuditLog(t, openLedger(t, dir), dir)
	if !r.Partial || r.Tasks != 1 {
		t.Errorf("%+v", r)
	}
}

// A log that is not what was signed stops the sealing and shows in readiness.
func TestIntegrityAlarm(t *testing.T) {
	dir := t.TempDir()
	n, stop := start(t, testConfig(dir), counter(new(atomic.Int64)))
	runTasks(t, newClient(t, n), 3)
	stop()
	db, err := sql.Open("sqlite", filepath.Join(dir, LedgerFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{`DROP TRIGGER audit_entries_no_delete`, `DROP TRIGGER audit_entries_no_update`, `DELETE FROM audit_entries WHERE seq >= 6`,
		`UPDATE audit_head SET seq = 5, hash = (SELECT hash FROM audit_entries WHERE seq = 5)`} {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	n, stop = start(t, testConfig(dir), counter(new(atomic.Int64)))
	if err := n.sealer.Seal(context.WithoutCancel(t.Context())); err == nil {
		t.Error("sealed")
	}
	if got, body := ask(t, n, "/readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("ready: %d %s", got, body)
	}
	if _, body := ask(t, n, "/metrics"); !bytes.Contains(body, []byte("asap_audit_integrity_alarm 1")) {
		t.Error("the metric does not show it")
	}
	v := decode[struct {
		Valid  bool   `json:"valid"`
		Reason string `json:"reason"`
		Bad    int64  `json:"first_bad_seq"`
	}](t, get(t, n, "/audit/verify"))
	if v.Valid || v.Bad != 6 {
		t.Errorf("%+v", v)
	}
	stop()
}
