package httpapi

import (
	"context"
	"crypto/sha256"
	"iter"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// memory is a ledger and its readers in a slice: what the interfaces promise
// and nothing else.
type memory struct {
	now func() time.Time

	mu       sync.Mutex
	records  []metering.Record
	receipts map[string]metering.Receipt
	entries  []audit.Entry
	purged   time.Time
	fail     error // every method fails with it
	failAt   int   // ExportUsage fails after so many records
}

func newMemory(now func() time.Time) *memory {
	return &memory{now: now, receipts: map[string]metering.Receipt{}}
}

func (m *memory) selected(f metering.Filter) []metering.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []metering.Record
	for _, r := range m.records {
		if f.Matches(&r) {
			list = append(list, r)
		}
	}
	slices.SortStableFunc(list, func(a, b metering.Record) int { return a.Timestamp.Compare(b.Timestamp) })
	return list
}

func (m *memory) ListUsage(_ context.Context, f metering.Filter, page metering.Page) ([]metering.Record, error) {
	list := slices.DeleteFunc(m.selected(f), func(r metering.Record) bool {
		p := r.Position()
		return p.TimestampUS < page.After.TimestampUS || p.TimestampUS == page.After.TimestampUS && p.Sequence <= page.After.Sequence
	})
	list = list[min(page.Offset, len(list)):]
	return list[:min(page.Limit, len(list))], m.fail
}

func (m *memory) Rollups(_ context.Context, f metering.Filter, dims metering.Dims) iter.Seq2[metering.RollupRow, error] {
	return func(yield func(metering.RollupRow, error) bool) {
		if m.fail != nil {
			yield(metering.RollupRow{}, m.fail)
			return
		}
		for _, r := range m.selected(f) {
			if !yield(r.RollupRow(dims), nil) {
				return
			}
		}
	}
}

func (m *memory) ExportUsage(_ context.Context, f metering.Filter) iter.Seq2[metering.Record, error] {
	return func(yield func(metering.Record, error) bool) {
		for i, r := range m.selected(f) {
			if m.fail != nil && i == m.failAt {
				yield(metering.Record{}, m.fail)
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (m *memory) UsageStats(context.Context) (metering.Stats, error) {
	s := metering.Stats{Records: int64(len(m.records)), PurgedBefore: m.purged}
	if list := m.selected(metering.Filter{}); len(list) > 0 {
		s.Oldest = list[0].Timestamp
	}
	return s, m.fail
}

func (m *memory) Record(_ context.Context, reports []ledger.Report, mode ledger.Mode) ([]ledger.Recorded, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, m.fail
	}
	before := slices.Clone(m.records)
	out := make([]ledger.Recorded, len(reports))
	for i := range reports {
		out[i] = m.add(reports[i].Record)
		if out[i].Err != nil && mode == ledger.Atomic {
			m.records = before
			return nil, &ledger.ItemError{Index: i, Err: out[i].Err}
		}
	}
	return out, nil
}

func (m *memory) add(r metering.Record) ledger.Recorded {
	for _, have := range m.records {
		if have.ID == r.ID {
			if have.ContentDigest() != r.ContentDigest() {
				return ledger.Recorded{Err: ledger.ErrConflict}
			}
			return ledger.Recorded{Record: have, Receipt: m.receipts[r.ID], Duplicate: true}
		}
	}
	r.Sequence, r.ReceivedAt = int64(len(m.records)+1), m.now().UTC().Truncate(time.Microsecond)
	if r.Kind == metering.Usage && r.Agent == "urn:asap:agent:priced" {
		cost := metering.NanoUSD(1_500_000)
		r.CostNanoUSD, r.PriceList = &cost, "list"
	}
	receipt := metering.Receipt{Seq: int64(len(m.receipts)), EntryID: "E" + strconv.Itoa(len(m.receipts)), Hash: sha256.Sum256([]byte(r.ID))}
	m.records, m.receipts[r.ID] = append(m.records, r), receipt
	return ledger.Recorded{Record: r, Receipt: receipt}
}

func (m *memory) Correct(_ context.Context, c ledger.Correction) (ledger.Recorded, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, have := range m.records {
		if have.Ref == c.Ref && have.Kind == metering.Void {
			return ledger.Recorded{}, metering.ErrAlreadyVoided
		}
	}
	for _, have := range m.records {
		if have.ID == c.Ref {
			if c.ID == "" {
				c.ID = "correction-of-" + c.Ref
			}
			r, err := metering.Correct(&have, c.Correction, m.now())
			if err != nil {
				return ledger.Recorded{}, err
			}
			return m.add(r), nil
		}
	}
	return ledger.Recorded{}, ledger.ErrUnknownRecord
}

func (m *memory) Purge(_ context.Context, before time.Time) (ledger.Purged, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.records)
	m.records = slices.DeleteFunc(m.records, func(r metering.Record) bool { return r.Timestamp.Before(before) })
	p := ledger.Purged{Before: before, Records: int64(n - len(m.records))}
	if p.Records > 0 {
		p.Receipt = metering.Receipt{EntryID: "purge"}
	}
	return p, m.fail
}

func (m *memory) ListAudit(_ context.Context, f audit.Filter, from int64, limit int) ([]audit.Entry, int64, error) {
	var list []audit.Entry
	for _, e := range m.entries {
		mine := f.Party == "" || e.Actor == f.Party || e.Subject == f.Party || slices.Contains(e.Parties, f.Party)
		if e.Seq >= from && mine && len(list) < limit && (f.Actor == "" || f.Actor == e.Actor) && (f.Subject == "" || f.Subject == e.Subject) &&
			(f.Type == "" || f.Type == e.Type) && !e.Timestamp.Before(f.Start) && (f.End.IsZero() || e.Timestamp.Before(f.End)) {
			list = append(list, e)
		}
	}
	return list, int64(len(m.entries)), m.fail
}

func (m *memory) AuditEntry(_ context.Context, id string) (audit.Entry, error) {
	for _, e := range m.entries {
		if e.ID == id {
			return e, m.fail
		}
	}
	return audit.Entry{}, audit.ErrNoEntry
}

func (m *memory) ListTokens(context.Context, ledger.TokenFilter, int64, int) ([]ledger.Token, error) {
	return nil, m.fail
}

func (m *memory) Budget(context.Context, ledger.BudgetKey) (ledger.Budget, bool, error) {
	return ledger.Budget{}, false, m.fail
}

func (m *memory) Revocation(context.Context, ledger.BudgetKey) (ledger.Revocation, bool, error) {
	return ledger.Revocation{}, false, m.fail
}
