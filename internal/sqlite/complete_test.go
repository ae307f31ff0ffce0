package sqlite_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// crashing is a store whose commits sometimes end the run: before they happened,
// or after, and the caller is not told which.
type crashing struct {
	ledger.Store
	r *rand.Rand
}

func (c *crashing) Update(ctx context.Context, f func(ledger.Tx) error) error {
	switch c.r.IntN(25) {
	case 0:
		return fmt.Errorf("%w: crash before the commit", ledger.ErrOutcomeUnknown)
	case 1:
		if err := c.Store.Update(ctx, f); err != nil {
			return err
		}
		return fmt.Errorf("%w: crash after the commit", ledger.ErrOutcomeUnknown)
	}
	return c.Store.Update(ctx, f)
}

// After random work with crashes in it there are as many entries as facts, of
// every billable kind.
func TestFactsAndEntriesAgree(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "asap.db")
	n, crashes := 0, 0
	for n < 300 {
		s, err := sqlite.Open(ctx, path, sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		l, err := ledger.Open(ctx, &crashing{s, r}, ledger.Options{Origin: "urn:asap:agent:complete"})
		if err == nil {
			run, stop := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- l.Run(run) }()
			for n < 300 && l.Healthy() == nil {
				n++
				fact(ctx, l, r, n)
			}
			stop()
			err = <-done
		}
		if err != nil {
			crashes++
			if !errors.Is(err, ledger.ErrOutcomeUnknown) {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if crashes == 0 {
		t.Log("no crash this time")
	}
	s, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	entries := map[string]int64{}
	for from := int64(0); ; {
		page, _, err := s.ListAudit(ctx, audit.Filter{}, from, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			entries[e.Type]++
			from = e.Seq + 1
		}
	}
	facts := map[string]int64{}
	if err := s.ReadAudit(ctx, func(snap auditlog.Snapshot) error {
		b := snap.Books()
		for task, err := range b.Tasks() {
			if err != nil {
				return err
			}
			facts[audit.TaskStarted]++
			if task.State != ledger.Held {
				facts["ended"]++
			}
		}
		for _, err := range b.Records() {
			if err != nil {
				return err
			}
			facts[audit.UsageRecorded]++
		}
		facts[audit.DelegationCreated], facts[audit.DelegationRevoked], err = b.Delegations(0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	changes, err := s.BreachChanges(ctx, -1, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	facts[audit.SLABreach] = int64(len(changes))
	entries["ended"] = entries[audit.TaskCompleted] + entries[audit.TaskFailed] + entries["task.released"]
	for _, kind := range []string{audit.TaskStarted, "ended", audit.UsageRecorded, audit.DelegationCreated, audit.DelegationRevoked, audit.SLABreach} {
		if facts[kind] != entries[kind] || facts[kind] == 0 {
			t.Errorf("%s: %d facts, %d entries", kind, facts[kind], entries[kind])
		}
	}
}

// fact makes one thing happen, or not: what the caller is told does not count here.
func fact(ctx context.Context, l *ledger.Ledger, r *rand.Rand, n int) {
	const agent, caller = "urn:asap:agent:worker", "urn:asap:agent:caller"
	name, now := fmt.Sprint("n", n), time.Now().UTC().Truncate(time.Microsecond)
	switch r.IntN(6) {
	case 0, 1:
		if _, err := l.Admit(ctx, ledger.Admission{TaskID: asap.TaskID(name), Consumer: caller, EnvelopeID: asap.EnvelopeID(name), Digest: sha256.Sum256([]byte(name)), Agent: agent}); err != nil {
			return
		}
		switch r.IntN(4) {
		case 0: // stays
		case 1:
			_, _ = l.Release(ctx, asap.TaskID(name), "no work")
		default:
			_, _ = l.Settle(ctx, ledger.Settlement{TaskID: asap.TaskID(name), Answer: []byte("{}"),
				Record: metering.Record{Outcome: metering.Completed, Evidence: metering.Observed, DurationMS: new(int64(1))}})
		}
	case 2:
		_, _ = l.Record(ctx, []ledger.Report{{Record: metering.Record{ID: name, Kind: metering.Usage, TaskID: asap.TaskID(name), Agent: agent, Consumer: caller,
			Outcome: metering.Failed, Evidence: metering.SelfReported, Timestamp: now}}}, ledger.Atomic)
	case 3:
		_, _ = l.Issue(ctx, []ledger.Token{{Issuer: caller, Delegate: agent, TokenID: name, Scopes: []string{"*"}, IssuedAt: now.Truncate(time.Second),
			ExpiresAt: now.Add(time.Hour).Truncate(time.Second), Signed: true}})
	case 4:
		_, _ = l.Revoke(ctx, ledger.Revocation{Issuer: caller, TokenID: fmt.Sprint("n", r.IntN(n)+1), Reason: "over"})
	case 5:
		at := sla.Instant(now.UnixMilli())
		_, _ = l.RecordBreaches(ctx, []sla.Event{{At: at, Kind: sla.Firing, Breach: sla.Breach{ID: name, Agent: "urn:asap:agent:" + name, Objective: sla.Availability, Window: sla.LastDay,
			Threshold: "99%", ActualOpen: "90%", ActualWorst: "90%", ActualLast: "90%", Severity: sla.Warning, SeverityMax: sla.Warning, StartedAt: at - 5, DetectedAt: at}}})
	}
}
