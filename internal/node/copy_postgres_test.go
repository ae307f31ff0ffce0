//go:build postgres

package node

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/httpapi"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/postgres"
	"github.com/asap-protocol/asap-go/internal/postgrestest"
	"github.com/asap-protocol/asap-go/internal/registry"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// history makes a data directory in which everything has happened that leaves a
// row: tasks, delegated, released and held ones, reports, a correction, a purge,
// delegations, a revocation, agents of the registry, breaches, checkpoints.
func history(t *testing.T) Config {
	t.Helper()
	c := testConfig(filepath.Join(t.TempDir(), "data"))
	c.Metering.Prices = []PriceConfig{{Agent: counterURN, List: jsontext.Value(`{"usd_per_task":"0.25","max_usd_per_task":"0.5"}`)}}
	n, stop := start(t, c, counter(new(atomic.Int64)))
	caller, err := client.New(n.URL(), client.WithSender(callerURN))
	if err != nil {
		t.Fatal(err)
	}
	var half time.Time
	for i := range 300 {
		if i == 100 {
			if err := n.sealer.Seal(t.Context()); err != nil {
				t.Fatal(err)
			}
			half = time.Now()
		}
		if _, err := caller.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(fmt.Sprintf(`{"n":%d}`, i))}); err != nil {
			t.Fatal(err)
		}
	}
	for _, run := range []string{"a", "b"} {
		things(t, n.ledger, run)
	}
	if err := n.pruneAuditBefore(t.Context(), half, "test"); err != nil {
		t.Fatal(err)
	}
	stop()
	// One task is held by a run that died, and a sink has given something up.
	store, err := sqlite.Open(t.Context(), filepath.Join(c.Data, LedgerFile), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	inputs, position, err := store.SLAJournal(t.Context(), 0, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	last := position.Input
	if len(inputs) > 0 {
		last, position.At = inputs[len(inputs)-1].Seq, max(position.At, inputs[len(inputs)-1].At)
	}
	if err := errors.Join(
		store.CheckpointSLA(t.Context(), &slawatch.Checkpoint{Position: position, Journal: last, Buckets: []sla.Bucket{{Tier: sla.TierDay, Start: 86_400_000, Agent: counterURN}}}),
		store.JournalSLA(t.Context(), []slawatch.Input{{Seq: last + 1, At: position.At + 1, Kind: "probe", Agent: counterURN}}),
		store.SetDelivered(t.Context(), "hook", 1, &slawatch.DeadLetter{At: 1, Attempts: 3, Error: "gone"})); err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), store, ledger.Options{Origin: c.URN})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	_, err = l.Admit(t.Context(), ledger.Admission{TaskID: "held", Consumer: callerURN, EnvelopeID: "held", Agent: counterURN, Skill: "count"})
	cancel()
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	return c
}

func things(t *testing.T, l *ledger.Ledger, run string) {
	t.Helper()
	ctx, now := t.Context(), time.Now().UTC().Truncate(time.Microsecond)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ceiling, limit := metering.NanoUSD(1e9), metering.NanoUSD(1e12)
	links := []ledger.Link{{Issuer: callerURN, TokenID: run + "root", LimitTasks: new(int64(10)), LimitNanoUSD: &limit}, {Issuer: counterURN, TokenID: run + "leaf", LimitTasks: new(int64(2))}}
	for _, name := range []string{"ends", "released", "more"} {
		must(l.Admit(ctx, ledger.Admission{TaskID: asap.TaskID(run + name), Consumer: callerURN, EnvelopeID: asap.EnvelopeID(run + name), Digest: sha256.Sum256([]byte(name)),
			Agent: counterURN, Skill: "s\t\"é", Ceiling: &ceiling, Links: links, ExpiresAt: now.Add(time.Hour)}))
		if name == "released" {
			must(l.Release(ctx, asap.TaskID(run+name), "no work"))
			continue
		}
		must(l.Settle(ctx, ledger.Settlement{TaskID: asap.TaskID(run + name), Answer: []byte("{}"), Failure: "handler_error",
			Record: metering.Record{Outcome: metering.Failed, Evidence: metering.Observed, TokensIn: new(int64(3)), DurationMS: new(int64(4))}}))
	}
	record := func(id string, at time.Time) metering.Record {
		return metering.Record{ID: run + id, Kind: metering.Usage, TaskID: asap.TaskID(run + id), Agent: counterURN, Consumer: callerURN,
			Outcome: metering.Completed, Evidence: metering.SelfReported, TokensOut: new(int64(7)), Timestamp: at}
	}
	must(l.Record(ctx, []ledger.Report{{Record: record("old", now.Add(-48*time.Hour))}, {Record: record("new", now)}, {Record: record("month", now.Add(-time.Hour))}}, ledger.Atomic))
	must(l.Correct(ctx, ledger.Correction{Correction: metering.Correction{ID: run + "void", Kind: metering.Void, Ref: run + "new", Reason: "wrong"}}))
	for _, token := range []string{"one", "two"} {
		must(l.Issue(ctx, []ledger.Token{{Issuer: callerURN, Delegate: counterURN, TokenID: run + token, Scopes: []string{"s", "<&>"}, LimitTasks: new(int64(1)),
			IssuedAt: now.Truncate(time.Second), ExpiresAt: now.Add(time.Hour).Truncate(time.Second), Signed: true}}))
	}
	must(l.Revoke(ctx, ledger.Revocation{Issuer: callerURN, TokenID: run + "one", Reason: "over"}))
	for _, name := range []string{"stays", "goes"} {
		id := asap.AgentURN("urn:asap:agent:" + run + name)
		signed, err := asap.SignManifest(&asap.Manifest{ID: id, Name: "Agent", Version: "1.0.0", TTLSeconds: 300,
			Capabilities: asap.Capability{ASAPVersion: "0.1"}, Endpoints: asap.Endpoint{ASAP: "https://a.example/asap"}}, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
		if err != nil {
			t.Fatal(err)
		}
		r, err := registry.NewRegistration(registry.Caller{Agent: id}, id, signed.AppendJSON(nil))
		if err != nil {
			t.Fatal(err)
		}
		must(l.Register(ctx, r))
	}
	must(l.Unregister(ctx, registry.Removal{By: registry.Caller{Operator: true}, ID: asap.AgentURN("urn:asap:agent:" + run + "goes")}))
	at := sla.Instant(now.UnixMilli())
	breach := sla.Breach{ID: run + "breach", Agent: counterURN, Objective: sla.Availability, Window: sla.LastDay, Threshold: "99%", ActualOpen: "90%", ActualWorst: "90%",
		ActualLast: "90%", Severity: sla.Warning, SeverityMax: sla.Warning, StartedAt: at - 500, DetectedAt: at}
	must(l.RecordBreaches(ctx, []sla.Event{{At: at, Kind: sla.Firing, Breach: breach}}))
	must(l.Purge(ctx, now.Add(-24*time.Hour)))
}

// pages is what every GET of the REST interface answers over a store, by path,
// as the operator and at one moment.
func pages(t *testing.T, store interface {
	auditlog.Store
	httpapi.UsageReader
	httpapi.AuditReader
	httpapi.DelegationReader
	slawatch.Store
	slawatch.Log
	Agents(ctx context.Context) ([]registry.Agent, error)
}, c Config, now time.Time,
) map[string]string {
	t.Helper()
	clock := func() time.Time { return now }
	log, err := openAuditLog(t.Context(), store, c.Data)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := audit.ParseKeys(log.VKey())
	if err != nil {
		t.Fatal(err)
	}
	watch, err := slawatch.Open(t.Context(), store, store, slawatch.Options{Now: clock, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	watch.SetAgent(slawatch.Agent{ID: counterURN})
	agents, err := store.Agents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	index := registry.NewIndex(registry.Measured)
	showAgents(index, agents)
	mux := http.NewServeMux()
	httpapi.New(httpapi.Config{
		Usage: store, Audit: store, AuditLog: log, AuditVKey: log.VKey(), AuditKeys: keys, DelegationReader: store,
		Authenticate: func(*http.Request) (httpapi.Caller, error) { return httpapi.Caller{Role: httpapi.Operator}, nil },
		SLA:          func(context.Context) (httpapi.SLAReader, error) { return watch, nil },
		Registry:     httpapi.RegistryConfig{Index: func(context.Context) (*registry.Index, error) { return index, nil }},
		Now:          clock, Logger: slog.New(slog.DiscardHandler),
	}).Routes(mux)
	answers := map[string]string{}
	get := func(path string) string {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		answers[path] = fmt.Sprintf("%d %s", w.Code, w.Body)
		return w.Body.String()
	}
	var document struct {
		Paths map[string]map[string]jsontext.Value `json:"paths"`
	}
	if err := json.Unmarshal([]byte(get("/openapi.json")), &document); err != nil {
		t.Fatal(err)
	}
	var entries struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(get("/audit/logs?limit=1000")), &entries); err != nil {
		t.Fatal(err)
	}
	ids := map[string][]string{"/usage/": {"aends", "bnew", "aold", "held", "none"}, "/delegations/": {"aone", "btwo", "aroot", "none"}, "/asap/delegations/": {"aone", "aroot"},
		"/agents/": {counterURN, "urn:asap:agent:astays", "none"}, "/registry/agents/": {"urn:asap:agent:astays", "urn:asap:agent:agoes"}, "/sla/": {counterURN, "abreach"}, "/audit/logs/": nil}
	for i, e := range entries.Data {
		if i%50 == 0 || i > len(entries.Data)-40 {
			ids["/audit/logs/"] = append(ids["/audit/logs/"], e.ID)
		}
	}
	queries := map[string][]string{
		"/usage":           {"?limit=7", "?consumer=" + callerURN, "?outcome=failed", "?delegation=aleaf", "?task_id=aends", "?order=desc"},
		"/usage/aggregate": {"?group_by=agent", "?group_by=day", "?group_by=hour&zone=Europe/Berlin", "?group_by=delegation", "?group_by=skill", "?group_by=outcome", "?group_by=consumer"},
		"/usage/export":    {"?format=csv", "?format=ndjson", "?format=json"},
		"/audit/logs":      {"?event_type=delegation.created", "?actor=" + counterURN, "?agent=" + callerURN + "&limit=30", "?subject=aends"},
		"/audit/verify":    {"?reconcile=1", "?from=10&to=90", "?max_unsealed=0"}, "/audit/export": {"?format=jsonl", "?format=csv"},
		"/audit/proof/inclusion": {"?seq=3", "?seq=700", "?seq=5&size=600"}, "/audit/proof/consistency": {"?from=100", "?from=5&to=600"},
		"/delegations": {"?limit=1", "?revoked=true"},
	}
	for path, methods := range document.Paths {
		if methods["get"] == nil {
			continue
		}
		before, after, named := strings.Cut(path, "{")
		all := []string{path}
		if named {
			_, rest, _ := strings.Cut(after, "}")
			all = nil
			for _, id := range ids[before] {
				all = append(all, before+url.PathEscape(id)+rest)
			}
			if all == nil {
				t.Errorf("no id to fill in %s", path)
			}
		}
		for _, path := range all {
			get(path)
			for _, query := range queries[path] {
				get(path + query)
			}
		}
	}
	return answers
}

// After a copy everything that can be asked for is answered with the same bytes.
func TestStoreCopy(t *testing.T) {
	cluster := postgrestest.Start(t)
	c := history(t)
	address := cluster.Database(t)
	report, err := CopyStore(t.Context(), c, address, time.Now, func(CopiedTable) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range report.Tables {
		if table.Rows == 0 {
			t.Errorf("%s has no rows: the test has not tried it", table.Name)
		}
	}
	if report.DriftPercent != "0" || report.Records < 200 || report.Entries < 900 || report.SealedThrough < 900 {
		t.Errorf("the report is %+v", report)
	}
	now := time.Now().Add(time.Second)
	from, err := sqlite.Open(t.Context(), filepath.Join(c.Data, LedgerFile), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := from.Close(); err != nil {
			t.Error(err)
		}
	}()
	to, err := postgres.Open(t.Context(), address, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := to.Close(); err != nil {
			t.Error(err)
		}
	}()
	want, have := pages(t, from, c, now), pages(t, to, c, now)
	if len(want) < 100 {
		t.Errorf("only %d questions were asked", len(want))
	}
	good := 0
	for _, path := range slices.Sorted(func(yield func(string) bool) {
		for path := range want {
			if !yield(path) {
				return
			}
		}
	}) {
		if strings.HasPrefix(want[path], "200 ") {
			good++
		}
		if have[path] != want[path] {
			t.Errorf("%s\nSQLite:     %.600s\nPostgreSQL: %.600s", path, want[path], have[path])
		}
	}
	if good < 80 {
		t.Errorf("only %d of %d questions were answered", good, len(want))
	}
	// The ledger goes on there, and settles what a dead run has left.
	l, err := ledger.Open(t.Context(), to, ledger.Options{Origin: c.URN})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	things(t, l, "after")
	if _, err := l.Admit(t.Context(), ledger.Admission{TaskID: "x", Consumer: callerURN, EnvelopeID: "aends", Digest: sha256.Sum256([]byte("other")), Agent: counterURN}); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("an envelope of before the copy is taken again: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if v, err := audited(t.Context(), to, c.Data); err != nil || !v.Valid {
		t.Errorf("after more work: %+v %v", v, err)
	}
}

// What is not a good copy is not taken for one.
func TestStoreCopyRefusals(t *testing.T) {
	cluster := postgrestest.Start(t)
	c := history(t)
	ctx, none := t.Context(), func(CopiedTable) {}
	address := cluster.Database(t)
	unfinished := func(what string) {
		t.Helper()
		store, err := postgres.Open(ctx, address, postgres.Options{})
		if err == nil {
			err = store.Close()
		}
		if !errors.Is(err, postgres.ErrCopyUnfinished) {
			t.Errorf("%s: a node opens the store: %v", what, err)
		}
	}
	// Interrupted within the tables, and again, and between the tables and the
	// verification: each time the next one starts over.
	for n := range 2 {
		cut, cancel := context.WithCancel(ctx)
		if _, err := CopyStore(cut, c, address, time.Now, func(done CopiedTable) {
			if done.Name == "audit_entries" {
				cancel()
			}
		}); err == nil {
			t.Errorf("interruption %d went unnoticed", n)
		}
		cancel()
		unfinished("interrupted")
	}
	from, err := sqlite.Open(ctx, filepath.Join(c.Data, LedgerFile), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CopyStore(ctx, c, address, time.Now, none); !errors.Is(err, ErrInUse) {
		t.Errorf("a store in use: %v", err)
	}
	var report CopyReport
	before, err := audited(ctx, from, c.Data)
	if err != nil {
		t.Fatal(err)
	}
	digests, err := copyTables(ctx, from, address, &report, none)
	if err != nil {
		t.Fatal(err)
	}
	unfinished("not verified")
	for table := range digests {
		wrong := map[string][32]byte{}
		for name, sum := range digests {
			wrong[name] = sum
		}
		wrong[table] = [32]byte{}
		if err := compareCopy(ctx, from, address, c.Data, wrong, before, &report); !errors.Is(err, ErrCopyRefused) || !strings.Contains(err.Error(), table) {
			t.Errorf("%s differs: %v", table, err)
		}
	}
	other := before
	other.HeadHash = ""
	if err := compareCopy(ctx, from, address, c.Data, digests, other, &report); !errors.Is(err, ErrCopyRefused) {
		t.Errorf("another head: %v", err)
	}
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}
	unfinished("refused")
	if _, err := CopyStore(ctx, c, address, time.Now, none); err != nil {
		t.Fatal(err)
	}
	if _, err := CopyStore(ctx, c, address, time.Now, none); !errors.Is(err, ErrCopyRefused) {
		t.Errorf("a store that is full: %v", err)
	}
	// A source that does not verify is not moved, and touches nothing.
	second := cluster.Database(t)
	stranger, err := audit.FormatVKey(c.URN, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Data, VKeyFile), []byte(stranger), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CopyStore(ctx, c, second, time.Now, none); !errors.Is(err, ErrCopyRefused) {
		t.Errorf("a source signed by another key: %v", err)
	}
	store, err := postgres.Open(ctx, second, postgres.Options{})
	if err != nil {
		t.Fatalf("it has touched the target: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	c.Store = "memory:"
	if _, err := CopyStore(ctx, c, second, time.Now, none); !errors.Is(err, ErrConfig) {
		t.Errorf("a store in memory: %v", err)
	}
}
