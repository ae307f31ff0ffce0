package sqlite_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/registry"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

const (
	damagedAgent  = "urn:asap:agent:worker"
	damagedCaller = "urn:asap:agent:alice"
	damagedOrigin = "audit.example.com/damage"
)

// everything asks a store for all it can do once, through a ledger where that
// is the way. run names its calls, so that two rounds do not collide.
func everything(ctx context.Context, t testing.TB, s *sqlite.Store, run string) (errs []error) {
	note := func(err error) { errs = append(errs, err) }
	prices, err := metering.ParsePriceList(damagedAgent, jsontext.Value(`{"usd_per_task":"0.5","max_usd_per_task":"1"}`))
	if err != nil {
		t.Fatal(err)
	}
	book, err := metering.NewPriceBook(prices)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(ctx, s, ledger.Options{Origin: damagedOrigin, Operator: "urn:asap:agent:operator", Prices: book})
	if err != nil {
		note(err)
	} else {
		work, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- l.Run(work) }()
		write(work, t, l, run, note)
		stop()
		if err := <-done; err != nil {
			note(err)
		}
	}
	watch(ctx, s, note)
	read(ctx, s, note)
	inspect(ctx, s, note)
	return errs
}

// write uses the ledger.
func write(ctx context.Context, t testing.TB, l *ledger.Ledger, run string, note func(error)) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	ceiling, limit := metering.NanoUSD(1e9), metering.NanoUSD(1e12)
	link := ledger.Link{Issuer: damagedCaller, TokenID: "token", LimitTasks: new(int64(1000)), LimitNanoUSD: &limit}
	for _, name := range []string{"ends", "released", "stays"} {
		_, err := l.Admit(ctx, ledger.Admission{TaskID: asap.TaskID(run + name), Consumer: damagedCaller, EnvelopeID: asap.EnvelopeID(run + name), Digest: sha256.Sum256([]byte(name)),
			Agent: damagedAgent, Skill: "s", Ceiling: &ceiling, Links: []ledger.Link{link}, ExpiresAt: now.Add(-time.Hour)})
		note(err)
	}
	_, err := l.Settle(ctx, ledger.Settlement{TaskID: asap.TaskID(run + "ends"), Answer: []byte("{}"),
		Record: metering.Record{Outcome: metering.Completed, Evidence: metering.Observed, TokensIn: new(int64(3)), DurationMS: new(int64(4))}})
	note(err)
	_, err = l.Release(ctx, asap.TaskID(run+"released"), "no work")
	note(err)
	record := func(id string, at time.Time) metering.Record {
		return metering.Record{ID: run + id, Kind: metering.Usage, TaskID: asap.TaskID(run + id), Agent: damagedAgent, Consumer: damagedCaller,
			Outcome: metering.Completed, Evidence: metering.SelfReported, TokensOut: new(int64(7)), Timestamp: at}
	}
	_, err = l.Record(ctx, []ledger.Report{{Record: record("old", now.Add(-48*time.Hour))}, {Record: record("new", now)}}, ledger.Atomic)
	note(err)
	_, err = l.Correct(ctx, ledger.Correction{Correction: metering.Correction{ID: run + "void", Kind: metering.Void, Ref: run + "new", Reason: "wrong"}})
	note(err)
	_, err = l.Issue(ctx, []ledger.Token{{Issuer: damagedCaller, Delegate: damagedAgent, TokenID: run + "token", Scopes: []string{"s"}, LimitTasks: new(int64(1)),
		IssuedAt: now.Truncate(time.Second), ExpiresAt: now.Add(time.Hour).Truncate(time.Second), Signed: true}})
	note(err)
	_, err = l.Revoke(ctx, ledger.Revocation{Issuer: damagedCaller, TokenID: run + "token", Reason: "over"})
	note(err)
	_, err = l.Register(ctx, registration(t, run))
	note(err)
	_, err = l.Unregister(ctx, registry.Removal{By: registry.Caller{Operator: true}, ID: asap.AgentURN("urn:asap:agent:" + run)})
	note(err)
	_, err = l.RecordBreaches(ctx, []sla.Event{{At: 1000, Kind: sla.Firing, Breach: sla.Breach{ID: run + "breach", Agent: damagedAgent, Objective: sla.Availability,
		Window: sla.LastDay, Threshold: "99%", ActualOpen: "90%", ActualWorst: "90%", ActualLast: "90%", Severity: sla.Warning, SeverityMax: sla.Warning, StartedAt: 500, DetectedAt: 1000}}})
	note(err)
	note(l.StoreCheckpoint(ctx, audit.CheckpointRow{Size: 1, Note: []byte(run)}, audit.TreeNode{Level: 8, Position: 7}))
	_, err = l.ExpireDue(ctx)
	note(err)
	_, err = l.DropAnswers(ctx, now.Add(time.Hour))
	note(err)
	_, err = l.Purge(ctx, now.Add(-24*time.Hour))
	note(err)
}

func registration(t testing.TB, name string) *registry.Registration {
	t.Helper()
	id := asap.AgentURN("urn:asap:agent:" + name)
	signed, err := asap.SignManifest(&asap.Manifest{ID: id, Name: "Agent", Version: "1.0.0", TTLSeconds: 300,
		Capabilities: asap.Capability{ASAPVersion: "0.1"}, Endpoints: asap.Endpoint{ASAP: "https://a.example/asap"}}, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.NewRegistration(registry.Caller{Agent: id}, id, signed.AppendJSON(nil))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// watch uses what belongs to service levels.
func watch(ctx context.Context, s *sqlite.Store, note func(error)) {
	inputs, at, err := s.SLAJournal(ctx, 0, 1000)
	note(err)
	next := at.Input + 1
	for _, in := range inputs {
		next, at.At = max(next, in.Seq+1), max(at.At, in.At)
	}
	note(s.JournalSLA(ctx, []slawatch.Input{{Seq: next, At: at.At + 1, Kind: "probe", Agent: damagedAgent}}))
	note(s.CheckpointSLA(ctx, &slawatch.Checkpoint{Position: slawatch.Position{At: at.At + 5, Input: next}, Journal: next, Agents: []sla.AgentState{{Agent: damagedAgent}}, Seen: []sla.SeenTasks{{Hour: 3600000, Keys: []uint64{7}}},
		SeenSince: 1, Buckets: []sla.Bucket{{Tier: sla.TierMinute, Start: 60000, Agent: damagedAgent}}, Expire: map[sla.Tier]sla.Instant{sla.TierMinute: 1}}))
	note(s.SetDelivered(ctx, "hook", 1, &slawatch.DeadLetter{At: 1, Attempts: 3, Error: "gone"}))
	_, err = s.LoadSLA(ctx)
	note(err)
	_, err = s.SLABuckets(ctx, sla.TierMinute, damagedAgent, 0, 1<<40)
	note(err)
	_, _, err = s.TaskEnds(ctx, 0, 100, 10)
	note(err)
	_, _, err = s.Breaches(ctx, slawatch.BreachFilter{Agents: []string{damagedAgent}, Open: new(true), Start: 1, End: 1 << 40, DetectedFrom: 1, DetectedUntil: 1 << 40, Limit: 5})
	note(err)
	_, err = s.BreachChanges(ctx, 0, 10)
	note(err)
	_, err = s.LastBreachChange(ctx)
	note(err)
	_, err = s.Delivered(ctx, "hook")
	note(err)
}

// read uses the readers of the ledger and of the audit log.
func read(ctx context.Context, s *sqlite.Store, note func(error)) {
	f := metering.Filter{Agent: damagedAgent, Party: damagedCaller, Start: time.Now().Add(-100 * time.Hour), End: time.Now().Add(time.Hour)}
	_, err := s.ListUsage(ctx, f, metering.Page{Limit: 10})
	note(err)
	drain(s.ExportUsage(ctx, metering.Filter{}), note)
	for _, dims := range []metering.Dims{0, metering.ByHour, metering.ByAgent | metering.ByConsumer, metering.ByOutcome | metering.BySkill, metering.ByDelegation, metering.ByDay} {
		drain(s.Rollups(ctx, metering.Filter{}, dims), note)
		drain(s.Rollups(ctx, f, dims), note)
	}
	_, err = s.UsageStats(ctx)
	note(err)
	_, _, err = s.Budget(ctx, ledger.BudgetKey{Issuer: damagedCaller, TokenID: "token"})
	note(err)
	_, _, err = s.Holds(ctx)
	note(err)
	_, _, err = s.Task(ctx, "baseends")
	note(err)
	_, err = s.Agents(ctx)
	note(err)
	drain(s.Revocations(ctx), note)
	_, err = s.News(ctx, -1)
	note(err)
	_, err = s.LimitWarnings(ctx, -1, 10)
	note(err)
	_, err = s.LastLimitWarning(ctx)
	note(err)
	_, _, err = s.Revocation(ctx, ledger.BudgetKey{Issuer: damagedCaller, TokenID: "basetoken"})
	note(err)
	_, err = s.ListTokens(ctx, ledger.TokenFilter{Party: damagedAgent, Unrevoked: true}, 0, 10)
	note(err)
	entries, _, err := s.ListAudit(ctx, audit.Filter{}, 0, 100)
	note(err)
	_, _, err = s.ListAudit(ctx, audit.Filter{Party: damagedAgent, Agent: damagedCaller, Type: audit.TaskStarted, Start: f.Start, End: f.End}, 0, 10)
	note(err)
	if len(entries) > 0 {
		_, err = s.AuditEntry(ctx, entries[0].ID)
		note(err)
	}
}

// inspect uses what an auditor does, who has a connection of its own.
func inspect(ctx context.Context, s *sqlite.Store, note func(error)) {
	note(s.ReadAudit(ctx, func(log auditlog.Snapshot) error {
		_, err := log.Stored()
		note(err)
		drain(log.Entries(0, 100), note)
		drain(log.Hashes(0, 100), note)
		drain(log.Checkpoints(0, 100), note)
		drain(log.Nodes(8, 0, 100), note)
		_, _, err = log.Newest(100)
		note(err)
		books := log.Books()
		drain(books.Tasks(), note)
		drain(books.Records(), note)
		drain(books.Budgets(), note)
		drain(books.Rollups(), note)
		_, err = books.Purged("baseold")
		note(err)
		_, err = books.PurgedBefore(100)
		note(err)
		_, err = books.Indexed(damagedAgent, 0)
		note(err)
		return nil
	}))
}

func drain[T any](rows iter.Seq2[T, error], note func(error)) {
	for _, err := range rows {
		if err != nil {
			note(err)
			return
		}
	}
	note(nil)
}

// whole checks that the chain, the records and the rollups of a database tell
// one story.
func whole(ctx context.Context, t *testing.T, what, path string) {
	t.Helper()
	s, err := sqlite.OpenReadOnly(ctx, path, sqlite.Options{})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	entries, size, err := s.ListAudit(ctx, audit.Filter{}, 0, 1000)
	if err != nil || int64(len(entries)) != size {
		t.Fatalf("%s: %d of %d entries, %v", what, len(entries), size, err)
	}
	verdict, err := audit.Verify(audit.Source{Origin: damagedOrigin, Rows: func(yield func(audit.Row, error) bool) {
		for _, e := range entries {
			if !yield(audit.Row{Seq: e.Seq, Octets: e.Octets, Hash: e.Hash[:]}, nil) {
				return
			}
		}
	}}, audit.Options{})
	if err != nil || !verdict.Valid {
		t.Errorf("%s: the audit log: %+v, %v", what, verdict, err)
	}
	var told, rolled metering.Sums
	for _, e := range entries {
		if e.Type != audit.UsageRecorded && !strings.HasPrefix(e.Type, "usage.") || e.Type == audit.UsagePurged {
			continue
		}
		r, err := metering.ParseRecord(e.Details)
		if err != nil {
			t.Fatalf("%s: entry %d: %v", what, e.Seq, err)
		}
		if err := told.Add(&r); err != nil {
			t.Fatal(err)
		}
	}
	for row, err := range s.Rollups(ctx, metering.Filter{}, 0) {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if err := rolled.Merge(row.Sums); err != nil {
			t.Fatal(err)
		}
	}
	if told != rolled {
		t.Errorf("%s: the log says %+v, the rollups %+v", what, told, rolled)
	}
}

// Whatever column is missing: what needs it fails with an error, what does not
// goes on, and nothing is half-done - once the column is back, log and totals
// agree.
func TestDamagedTables(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	base := filepath.Join(dir, "base.db")
	s, err := sqlite.Open(ctx, base, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range everything(ctx, t, s, "base") {
		if err != nil {
			t.Errorf("call %d on a good database: %v", i, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if t.Failed() {
		return
	}
	whole(ctx, t, "base", base)
	content, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	// The key of a single row, and a date for people: needed when made, not after.
	spare := map[string]bool{"ledger_counters.id": true, "schema_migrations.at_us": true}
	list := columns(t, base)
	if len(list) < 50 {
		t.Errorf("%d columns", len(list))
	}
	for i, c := range list {
		if testing.Short() && i%5 != 0 {
			continue
		}
		what := c[0] + "." + c[1]
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "asap.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			rename(t, path, c[0], c[1], c[1]+"_gone")
			s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
			if err == nil {
				failed := false
				for _, err := range everything(t.Context(), t, s, "again") {
					failed = failed || err != nil
					if errors.Is(err, ledger.ErrOutcomeUnknown) {
						t.Error(err)
					}
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				if !failed && !spare[what] {
					t.Error("nobody misses it")
				}
			}
			rename(t, path, c[0], c[1]+"_gone", c[1])
			whole(t.Context(), t, what, path)
		})
	}
}

// Whatever a column holds that cannot be meant: readers fail with an error, or do
// not care, and nothing panics.
func TestJunkInTables(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base.db")
	s, err := sqlite.Open(t.Context(), base, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	everything(t.Context(), t, s, "base")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range columns(t, base) {
		if testing.Short() && i%5 != 0 {
			continue
		}
		t.Run(c[0]+"."+c[1], func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "asap.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range guards(t, db) {
				if _, err := db.ExecContext(t.Context(), "DROP TRIGGER "+q); err != nil {
					t.Fatal(err)
				}
			}
			// One row, so that unique columns can have it too; checks may refuse.
			_, err = db.ExecContext(t.Context(), fmt.Sprintf(`UPDATE %[1]s SET %[2]s = CASE typeof(%[2]s) WHEN 'blob' THEN X'0001' WHEN 'text' THEN 'junk' ELSE -77 END
				WHERE rowid = (SELECT max(rowid) FROM %[1]s)`, c[0], c[1]))
			if err != nil && !strings.Contains(err.Error(), "constraint failed") && !strings.Contains(err.Error(), "no such column: rowid") {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if s, err := sqlite.Open(t.Context(), path, sqlite.Options{}); err == nil {
				everything(t.Context(), t, s, "again")
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// guards lists the triggers.
func guards(t *testing.T, db *sql.DB) (names []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT name FROM sqlite_schema WHERE type = 'trigger'`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }() // only read
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// A store in memory does all the same; one that is closed, or only read, or asked
// by somebody who has gone, says so to every caller.
func TestEveryStateOfAStore(t *testing.T) {
	memory, err := sqlite.OpenMemory(t.Context(), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range everything(t.Context(), t, memory, "base") {
		if err != nil {
			t.Errorf("call %d in memory: %v", i, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for i, err := range reads(gone, memory) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("read %d for nobody: %v", i, err)
		}
	}
	if err := memory.Close(); err != nil {
		t.Fatal(err)
	}
	for i, err := range reads(t.Context(), memory) {
		if err == nil {
			t.Errorf("read %d of a closed store", i)
		}
	}

	path := filepath.Join(t.TempDir(), "asap.db")
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	everything(t.Context(), t, s, "base")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for i, err := range reads(t.Context(), s) {
		if err == nil {
			t.Errorf("read %d of a closed store", i)
		}
	}
	if err := s.SetDelivered(t.Context(), "hook", 1, nil); err == nil {
		t.Error("written to a closed store")
	}
	if s, err = sqlite.OpenReadOnly(t.Context(), path, sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	for i, err := range reads(t.Context(), s) {
		if err != nil {
			t.Errorf("read %d of a store that is only read: %v", i, err)
		}
	}
	if err := s.CheckpointSLA(t.Context(), &slawatch.Checkpoint{}); !errors.Is(err, sqlite.ErrReadOnly) {
		t.Errorf("written to a store that is only read: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func reads(ctx context.Context, s *sqlite.Store) (errs []error) {
	read(ctx, s, func(err error) { errs = append(errs, err) })
	return errs
}

// columns lists the tables' columns.
func columns(t *testing.T, path string) (list [][2]string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }() // only read
	rows, err := db.QueryContext(t.Context(), `SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY 1, c.cid`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }() // only read
	for rows.Next() {
		var c [2]string
		if err := rows.Scan(&c[0], &c[1]); err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

// rename changes a column's name.
func rename(t *testing.T, path, table, from, to string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), fmt.Sprintf("ALTER TABLE %s RENAME COLUMN %s TO %s", table, from, to))
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}
