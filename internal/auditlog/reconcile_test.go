package auditlog_test

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// busy fills a ledger with tasks under delegations, reports, corrections and a
// purge, by chance, and leaves some tasks held.
func busy(t *testing.T, w *world, random *rand.Rand) (billable int64) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	prices, err := metering.ParsePriceList("urn:asap:agent:worker", []byte(`{"effective_from":"2026-01-01T00:00:00Z","usd_per_task":"0.001","usd_per_million_tokens_in":"10","max_usd_per_task":"0.005"}`))
	must(err)
	book, err := metering.NewPriceBook(prices)
	must(err)
	w.ledger.SetPrices(book)
	limit, ceiling := metering.NanoUSD(1_000_000_000_000), metering.NanoUSD(5_000_000)
	tasks := int64(1_000_000)
	for i := range 150 {
		id := asap.TaskID(fmt.Sprintf("task_%d", i))
		a := ledger.Admission{TaskID: id, Consumer: "urn:asap:agent:alice", EnvelopeID: asap.EnvelopeID(fmt.Sprintf("e%d", i)), Agent: "urn:asap:agent:worker", Skill: "echo"}
		for link := range random.IntN(3) {
			a.Links = append(a.Links, ledger.Link{Issuer: "urn:asap:agent:alice", TokenID: fmt.Sprintf("del_%d_%d", link, random.IntN(4)), LimitTasks: &tasks, LimitNanoUSD: &limit})
			a.Ceiling = &ceiling
		}
		_, err := w.ledger.Admit(ctx, a)
		must(err)
		billable++
		n := random.Int64N(1000)
		record := metering.Record{Outcome: metering.Completed, Evidence: metering.SelfReported, TokensIn: &n, TokensOut: &n, DurationMS: &n, APICalls: new(int64(1))}
		switch random.IntN(10) {
		case 0: // held
		case 1:
			_, err := w.ledger.Release(ctx, id, "never started")
			must(err)
		case 2:
			record.Outcome = metering.Failed
			_, err := w.ledger.Settle(ctx, ledger.Settlement{TaskID: id, Record: record, Failure: "task_failed"})
			must(err)
			billable += 2
		default:
			_, err := w.ledger.Settle(ctx, ledger.Settlement{TaskID: id, Record: record})
			must(err)
			billable += 2
		}
	}
	for i := range 100 {
		n := random.Int64N(1000)
		_, err := w.ledger.Record(ctx, []ledger.Report{{Record: metering.Record{ID: fmt.Sprintf("r%d", i), TaskID: asap.TaskID(fmt.Sprintf("own_%d", i)),
			Agent: "urn:asap:agent:bob", Consumer: "urn:asap:agent:alice", Outcome: metering.Completed, Evidence: metering.SelfReported, TokensIn: &n, DurationMS: &n, APICalls: new(int64(1)),
			Timestamp: time.Now().Add(-time.Duration(random.IntN(2000)) * time.Hour).UTC().Truncate(time.Microsecond)}}}, ledger.Atomic)
		must(err)
		billable++
	}
	for i := range 10 {
		_, err := w.ledger.Correct(ctx, ledger.Correction{Correction: metering.Correction{ID: fmt.Sprintf("c%d", i), Ref: fmt.Sprintf("r%d", i), Kind: metering.Void, Reason: "test"}})
		must(err)
	}
	for i := range 4 {
		token := ledger.Token{Issuer: "urn:asap:agent:alice", Delegate: "urn:asap:agent:bob", TokenID: fmt.Sprintf("iss_%d", i), IssuedAt: time.Now().Truncate(time.Second),
			ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second), Signed: true}
		_, err := w.ledger.Issue(ctx, []ledger.Token{token})
		must(err)
	}
	for i := range 2 {
		_, err := w.ledger.Revoke(ctx, ledger.Revocation{Issuer: "urn:asap:agent:alice", TokenID: fmt.Sprintf("iss_%d", i)})
		must(err)
	}
	must(w.sealer.Seal(ctx))
	return billable
}

func reconcile(t *testing.T, dir string) (audit.Verdict, auditlog.Reconciliation) {
	t.Helper()
	log, store := reader(t, dir)
	_ = store
	v, err := log.Verify(t.Context(), auditlog.Check{Keys: keysOf(t, 1), Reconcile: true})
	if err != nil {
		t.Fatal(err)
	}
	var r auditlog.Reconciliation
	if err := json.Unmarshal(v.Reconciliation, &r); err != nil {
		t.Fatal(err)
	}
	return v, r
}

// The log alone gives every total, counter and rollup, and whatever is changed in
// the tables is found.
func TestReconcile(t *testing.T) {
	base := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := open(t, base)
	billable := busy(t, w, rand.New(rand.NewPCG(seed, 0)))
	w.stop()
	v, r := reconcile(t, base)
	if !v.Valid || !r.Consistent || r.DriftPercent != "0" || r.Tasks != 150 || len(r.Totals) != 8 || r.Budgets == 0 || r.Rollups == 0 {
		t.Fatalf("%+v\n%+v", v, r)
	}
	var entries int64
	attack(t, database(base), func(db *sql.DB) {
		if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM audit_entries WHERE event_type IN ('task.started', 'task.completed', 'task.failed', 'usage.recorded')`).Scan(&entries); err != nil {
			t.Fatal(err)
		}
	})
	if entries != billable {
		t.Errorf("%d entries of %d facts", entries, billable)
	}
	for _, c := range []struct {
		what, do string
		reason   audit.Reason
		drift    bool
	}{
		{"a rollup", `UPDATE usage_rollups SET tokens_in = tokens_in + 1 WHERE span = 0 AND delegation = ''`, audit.RowMismatch, true},
		{"a rollup is gone", `DELETE FROM usage_rollups WHERE span = 1 AND delegation = ''`, audit.RowMissing, true},
		{"a budget", `UPDATE budgets SET used_tasks = used_tasks - 1 WHERE token_id = (SELECT max(token_id) FROM budgets WHERE used_tasks > 0)`, audit.RowMismatch, false},
		{"a budget is gone", `DELETE FROM budgets`, audit.RowMissing, false},
		{"a record's cost", `UPDATE usage_records SET octets = CAST(replace(CAST(octets AS TEXT), '"duration_ms":', '"duration_ms":1') AS BLOB) WHERE id = 'r50'`, audit.RowMismatch, true},
		{"a record's index", `UPDATE usage_records SET agent = 'urn:asap:agent:mallory' WHERE id = 'r50'`, audit.RowMismatch, false},
		{"a record is gone", `DELETE FROM usage_records WHERE id = 'r50'`, audit.RowMissing, true},
		{"a record too many", `INSERT INTO usage_records SELECT seq + 1000000, 'x', digest, entry_seq + 1000000, timestamp_us, agent, consumer, task_id, skill, outcome, delegation, ref, task_seq, octets
			FROM usage_records WHERE id = 'r50'`, audit.EntryMissing, true},
		{"a task", `UPDATE tasks SET agent = 'urn:asap:agent:mallory' WHERE task_id = 'task_3'`, audit.RowMismatch, false},
		{"a task is gone", `DELETE FROM tasks WHERE task_id = (SELECT task_id FROM tasks WHERE links = 0 AND state = 0 LIMIT 1)`, audit.RowMissing, false},
		{"a task that never was", `INSERT INTO tasks (seq, task_id, consumer, envelope_id, digest, agent, verified, skill, parent_task, trace_id, links, started_us, state)
			SELECT 100000, 'ghost', consumer, 'ghost', digest, agent, verified, skill, parent_task, trace_id, 0, started_us, 0
			FROM tasks WHERE task_id = 'task_3'`, audit.EntryMissing, false},
		{"an issued token is gone", `DELETE FROM delegations WHERE token_id = 'iss_3'`, audit.RowMissing, false},
		{"a revocation is gone", `DELETE FROM revocations WHERE token_id = 'iss_1'`, audit.RowMissing, false},
		{"a revocation that never was", `INSERT INTO revocations SELECT issuer, 'iss_3', at_us, actor, reason, 10000 FROM revocations WHERE token_id = 'iss_1'`, audit.EntryMissing, false},
		{"the index of names", `DELETE FROM audit_blocks WHERE urn = 'urn:asap:agent:alice'`, audit.IndexMismatch, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			copyFile(t, database(base), database(dir))
			copyFile(t, filepath.Join(base, "audit-signer.json"), filepath.Join(dir, "audit-signer.json"))

			attack(t, database(dir), func(db *sql.DB) {
				dropGuards(t, db)
				exec(t, db, `PRAGMA foreign_keys = OFF`, c.do)
			})
			v, r := reconcile(t, dir)
			if v.Valid || r.Consistent || r.Differences[c.reason] == 0 || (r.DriftPercent != "0") != c.drift {
				t.Errorf("valid %v, drift %s, differences %v: %v", v.Valid, r.DriftPercent, r.Differences, r.Examples)
			}
		})
	}

	// What was purged is still in the log, and the totals stay.
	w = open(t, base)
	purged, err := w.ledger.Purge(t.Context(), time.Now().Add(-1000*time.Hour))
	if err != nil || purged.Records == 0 {
		t.Fatal(purged, err)
	}
	if err := w.sealer.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.stop()
	if v, r := reconcile(t, base); !v.Valid || !r.Consistent || r.Purged != purged.Records {
		t.Errorf("after a purge: %+v\n%+v", v, r)
	}

	// What was pruned cannot be computed again, and is not called wrong.
	w = open(t, base)
	if _, err := auditlog.Prune(t.Context(), w.log, keysOf(t, 1), w.ledger, time.Now().Add(time.Hour), "test"); err != nil {
		t.Fatal(err)
	}
	if err := w.sealer.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.stop()
	if v, r := reconcile(t, base); !v.Valid || !r.Consistent || !r.Partial {
		t.Errorf("after a prune: %+v\n%+v", v, r)
	}
}
