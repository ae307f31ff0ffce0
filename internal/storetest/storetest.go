// Package storetest holds what every implementation of ledger.Store must pass.
//
// The model: a backend says how to open one storage, again and again; the suite
// drives ledgers on it - alone, from many goroutines, with faults at every step,
// with random histories beside a naive model - and after each asks the same
// question: do the records, the rollups, the budgets and the audit log tell the
// same story, to the unit?
package storetest

import (
	"context"
	"errors"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/registry"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// Store is a ledger.Store with the readers of what it holds.
type Store interface {
	ledger.Store
	auditlog.Store
	ListUsage(ctx context.Context, f metering.Filter, page metering.Page) ([]metering.Record, error)
	ExportUsage(ctx context.Context, f metering.Filter) iter.Seq2[metering.Record, error]
	Rollups(ctx context.Context, f metering.Filter, dims metering.Dims) iter.Seq2[metering.RollupRow, error]
	UsageStats(ctx context.Context) (metering.Stats, error)
	ListAudit(ctx context.Context, f audit.Filter, from int64, limit int) ([]audit.Entry, int64, error)
	AuditEntry(ctx context.Context, id string) (audit.Entry, error)
	Budget(ctx context.Context, key ledger.BudgetKey) (ledger.Budget, bool, error)
	Holds(ctx context.Context) (int64, time.Time, error)
	Agents(ctx context.Context) ([]registry.Agent, error)
	Revocations(ctx context.Context) iter.Seq2[ledger.Revocation, error]
	Revocation(ctx context.Context, key ledger.BudgetKey) (ledger.Revocation, bool, error)
	ListTokens(ctx context.Context, f ledger.TokenFilter, before int64, limit int) ([]ledger.Token, error)
	slawatch.Store
	Breaches(ctx context.Context, f slawatch.BreachFilter) ([]ledger.Breach, int, error)
	News(ctx context.Context, after int64) (ledger.News, error)
	LimitWarnings(ctx context.Context, after int64, limit int) ([]ledger.Warning, error)
	LastLimitWarning(ctx context.Context) (int64, error)
}

// Backend is one storage. Open opens it; it is called again after the store it
// returned was closed, and finds what was stored.
type Backend struct {
	Open func(ctx context.Context) (Store, error)
	// Forgets tells that a closed store is empty when it is opened again.
	Forgets bool
	// Shared tells that it may be opened several times at once, and that what is
	// open is one store.
	Shared bool
}

// Run runs the suite. fresh makes an empty backend; it is called for each test.
func Run(t *testing.T, fresh func(t testing.TB) Backend) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Backend)
	}{
		{"Task", testTask},
		{"EnvelopeRepeats", testEnvelopeRepeats},
		{"DuplicatesAtOnce", testDuplicatesAtOnce},
		{"SettleRepeats", testSettleRepeats},
		{"Release", testRelease},
		{"Refusals", testRefusals},
		{"Reports", testReports},
		{"Corrections", testCorrections},
		{"Prices", testPrices},
		{"Overflow", testOverflow},
		{"LimitsUnderLoad", testLimitsUnderLoad},
		{"LimitRefusals", testLimitRefusals},
		{"Overrun", testOverrun},
		{"Expiry", testExpiry},
		{"Recovery", testRecovery},
		{"Restart", testRestart},
		{"Purge", testPurge},
		{"DropAnswers", testDropAnswers},
		{"Filters", testFilters},
		{"AuditFilters", testAuditFilters},
		{"Checkpoints", testCheckpoints},
		{"ReadersDuringCommits", testReadersDuringCommits},
		{"Faults", testFaults},
		{"Shutdown", testShutdown},
		{"Feed", testFeed},
		{"News", testNews},
		{"Warnings", testWarnings},
		{"Breaches", testBreaches},
		{"Journal", testJournal},
		{"Deserted", testDeserted},
		{"Instances", testInstances},
		{"Nodes", testNodes},
		{"Registry", testRegistry},
		{"RegistryRace", testRegistryRace},
		{"Revocation", testRevocation},
		{"RevocationUnderLoad", testRevocationUnderLoad},
		{"Tokens", testTokens},
		{"BudgetOrder", testBudgetOrder},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
	t.Run("Histories", func(t *testing.T) { testHistories(t, fresh) })
}

// Epoch is when the suite's clock starts.
var epoch = time.Date(2026, 3, 10, 12, 30, 0, 0, time.UTC)

const (
	worker   = "urn:asap:agent:worker"
	alice    = "urn:asap:agent:alice"
	bob      = "urn:asap:agent:bob"
	operator = "urn:asap:agent:operator"
	origin   = "audit.example.com/asap/test"
)

// clock is the time of a test; it stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// rig is a running ledger on a backend.
type rig struct {
	t       testing.TB
	ctx     context.Context
	backend Backend
	clock   *clock
	prices  *metering.PriceBook
	wrap    func(ledger.Store) ledger.Store
	feed    func(ledger.Batch)
	agents  func([]registry.Agent)

	store  Store
	ledger *ledger.Ledger
	stop   func() error // ends Run and returns its error
}

// start opens the backend and runs a ledger on it until the test ends.
func start(t testing.TB, b Backend, options ...func(*rig)) *rig {
	t.Helper()
	r := &rig{t: t, ctx: context.Background(), backend: b, clock: &clock{now: epoch}}
	for _, o := range options {
		o(r)
	}
	r.up()
	t.Cleanup(func() { r.down() })
	return r
}

func (r *rig) up() {
	r.t.Helper()
	if err := r.tryUp(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) tryUp() error {
	store, err := r.backend.Open(r.ctx)
	if err != nil {
		return err
	}
	r.store = store
	var under ledger.Store = &clocked{store, r.clock}
	if r.wrap != nil {
		under = r.wrap(under)
	}
	l, err := ledger.Open(r.ctx, under, ledger.Options{Origin: origin, Operator: operator, Now: r.clock.Now, Prices: r.prices,
		LostAnswer: func(t *ledger.Task) []byte { return []byte("lost " + t.ID) }, Committed: r.feed, AgentsChanged: r.agents})
	if err != nil {
		return errors.Join(err, store.Close())
	}
	r.ledger = l
	ctx, cancel := context.WithCancel(r.ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	return nil
}

// down stops the ledger and closes the store.
func (r *rig) down() {
	if r.store == nil {
		return
	}
	if err := r.stop(); err != nil && !errors.Is(err, ledger.ErrOutcomeUnknown) {
		r.t.Errorf("run: %v", err)
	}
	if err := r.store.Close(); err != nil {
		r.t.Errorf("close: %v", err)
	}
	r.store = nil
}

// restart is down and up. A node that is killed leaves the same behind: nothing
// is written on the way down.
func (r *rig) restart() {
	r.t.Helper()
	r.down()
	r.up()
}
