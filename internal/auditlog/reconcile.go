package auditlog

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// Reconciliation is the comparison of the log with the tables that it describes
// (I3): everything is computed again from the log alone. Differences are faults
// of the tables or of the log; there is no tolerance.
type Reconciliation struct {
	Consistent bool `json:"consistent"`
	// DriftPercent is the largest difference of a total, as a part of what the log
	// says: decimal text. The published figure; 0 unless something is broken.
	DriftPercent string `json:"drift_percent"`
	// Partial tells that a part of the log was pruned, so that budgets, and totals
	// of records that are gone with it, cannot be computed again.
	Partial bool    `json:"partial"`
	Totals  []Total `json:"totals"`
	// What was compared.
	Tasks       int64 `json:"tasks"`
	Records     int64 `json:"records"`
	Purged      int64 `json:"purged_records"` // of the records, only the key is left
	Budgets     int64 `json:"budgets"`
	Rollups     int64 `json:"rollups"` // cells of hours, days and months
	Delegations int64 `json:"delegations"`
	Revocations int64 `json:"revocations"`
	// Differences counts faults by reason, Examples shows the first ones.
	Differences map[audit.Reason]int64 `json:"differences"`
	Examples    []Difference           `json:"examples"`
}

// Total is one quantity over all records: as the log says, as the hourly,
// daily and monthly rollups say, and as the records say that are still there.
type Total struct {
	Quantity string `json:"quantity"`
	Log      int64  `json:"log"`
	Hours    int64  `json:"hour_rollups"`
	Days     int64  `json:"day_rollups"`
	Months   int64  `json:"month_rollups"`
	// Rows is nil if records were purged.
	Rows *int64 `json:"records"`
}

// Difference is one fault.
type Difference struct {
	Reason audit.Reason `json:"reason"`
	Seq    *int64       `json:"seq"` // of the entry concerned; null if it is about a sum
	What   string       `json:"what"`
}

const maxExamples = 20

// blockSize is how many entries share a place in the index of URNs.
const blockSize = 64

// reconciliation walks the log beside the tables. Memory grows with the open
// tasks, the budgets and the cells of the rollups, not with the entries.
type reconciliation struct {
	books Books
	min   int64 // entries before it were pruned
	out   Reconciliation
	err   error

	tasks     pulled[Task]
	records   pulled[Record]
	open      map[string]*openTask
	budgets   map[ledger.BudgetKey]*ledger.Budget
	rollups   map[ledger.RollupKey]*metering.Sums
	log, rows metering.Sums // over all records
	index     map[string]int64
	block     int64
}

// openTask is a task that has started and not ended yet, as the log says.
type openTask struct {
	row     *Task
	links   []ledger.BudgetKey
	ceiling *metering.NanoUSD
}

// pulled is a table that is read beside the log.
type pulled[T any] struct {
	next  func() (T, error, bool)
	stop  func()
	value T
	ok    bool
}

func pull[T any](all iter.Seq2[T, error]) pulled[T] {
	next, stop := iter.Pull2(all)
	return pulled[T]{next: next, stop: stop}
}

// advance reads the next row.
func (p *pulled[T]) advance() (err error) {
	p.value, err, p.ok = p.next()
	if err != nil {
		p.ok = false
	}
	return err
}

func newReconciliation(books Books, minIndex int64) *reconciliation {
	return &reconciliation{
		books: books, min: minIndex, open: map[string]*openTask{}, budgets: map[ledger.BudgetKey]*ledger.Budget{},
		rollups: map[ledger.RollupKey]*metering.Sums{}, index: map[string]int64{}, block: -1,
		out: Reconciliation{Partial: minIndex > 0, Differences: map[audit.Reason]int64{}, Examples: []Difference{}},
	}
}

// watch passes rows on and looks at each.
func (r *reconciliation) watch(rows iter.Seq2[audit.Row, error]) iter.Seq2[audit.Row, error] {
	return func(yield func(audit.Row, error) bool) {
		r.tasks, r.records = pull(r.books.Tasks()), pull(r.books.Records())
		defer r.tasks.stop()
		defer r.records.stop()
		r.try(r.tasks.advance)
		r.try(r.records.advance)
		for row, err := range rows {
			if err == nil && r.err == nil {
				// What is no entry is the verifier's to report.
				if e, err := audit.ParseEntry(row.Octets); err == nil {
					r.entry(&e)
				}
			}
			if !yield(row, err) {
				return
			}
		}
		r.tasksUntil(math.MaxInt64)
		r.recordsUntil(math.MaxInt64)
		r.flushIndex()
	}
}

func (r *reconciliation) try(f func() error) {
	if r.err == nil {
		r.err = f()
	}
}

// differ notes a fault; seq is -1 for none.
func (r *reconciliation) differ(reason audit.Reason, seq int64, format string, args ...any) {
	r.out.Differences[reason]++
	if len(r.out.Examples) == maxExamples {
		return
	}
	d := Difference{Reason: reason, What: fmt.Sprintf(format, args...)}
	if seq >= 0 {
		d.Seq = &seq
	}
	r.out.Examples = append(r.out.Examples, d)
}

func (r *reconciliation) entry(e *audit.Entry) {
	r.indexed(e)
	switch e.Type {
	case audit.TaskStarted:
		r.started(e)
	case audit.TaskCompleted, audit.TaskFailed, ledger.TaskReleased:
		r.ended(e)
	case audit.UsageRecorded, audit.UsageCorrected:
		r.usage(e)
	case audit.DelegationCreated:
		r.out.Delegations++
		ok, err := r.books.Issued(ledger.BudgetKey{Issuer: asap.AgentURN(e.Actor), TokenID: e.Subject})
		r.try(func() error { return err })
		if err == nil && !ok {
			r.differ(audit.RowMissing, e.Seq, "delegation %s of %s is gone", e.Subject, e.Actor)
		}
	case audit.DelegationRevoked:
		r.revoked(e)
	}
}

// revoked compares a revocation; the issuer of its token is one of the parties.
func (r *reconciliation) revoked(e *audit.Entry) {
	r.out.Revocations++
	for _, party := range e.Parties {
		seq, err := r.books.Revoked(ledger.BudgetKey{Issuer: asap.AgentURN(party), TokenID: e.Subject})
		r.try(func() error { return err })
		if err != nil || seq == e.Seq {
			return
		}
	}
	r.differ(audit.RowMissing, e.Seq, "the revocation of %s is gone", e.Subject)
}

// compareDelegations finds tokens and revocations that the log does not know.
func (r *reconciliation) compareDelegations() error {
	issued, revoked, err := r.books.Delegations(r.min)
	if err != nil {
		return err
	}
	if !r.out.Partial && issued > r.out.Delegations {
		r.differ(audit.EntryMissing, -1, "%d delegations were issued, the log knows %d", issued, r.out.Delegations)
	}
	if revoked > r.out.Revocations {
		r.differ(audit.EntryMissing, -1, "%d delegations were revoked, the log knows %d", revoked, r.out.Revocations)
	}
	return nil
}

// tasksUntil passes over the tasks whose entries are not in the log.
func (r *reconciliation) tasksUntil(seq int64) {
	for r.err == nil && r.tasks.ok && r.tasks.value.Seq < seq {
		if t := &r.tasks.value; t.Seq >= r.min {
			r.differ(audit.EntryMissing, t.Seq, "task %s has no task.started entry", t.ID)
		}
		r.try(r.tasks.advance)
	}
}

func (r *reconciliation) started(e *audit.Entry) {
	r.out.Tasks++
	var d struct {
		Agent      asap.AgentURN `json:"agent"`
		CeilingUSD string        `json:"ceiling_usd"`
		Delegation []struct {
			ID     string        `json:"id"`
			Issuer asap.AgentURN `json:"issuer"`
		} `json:"delegation"`
	}
	if err := json.Unmarshal(e.Details, &d); err != nil {
		r.differ(audit.RowMismatch, e.Seq, "task %s: details that are not those of a start", e.Subject)
		return
	}
	t := &openTask{}
	if d.CeilingUSD != "" {
		t.ceiling = r.amount(e, d.CeilingUSD)
	}
	for _, link := range d.Delegation {
		t.links = append(t.links, ledger.BudgetKey{Issuer: link.Issuer, TokenID: link.ID})
	}
	r.tasksUntil(e.Seq)
	if r.tasks.ok && r.tasks.value.Seq == e.Seq {
		row := r.tasks.value
		t.row = &row
		if string(row.ID) != e.Subject || string(row.Consumer) != e.Actor || row.Agent != d.Agent {
			r.differ(audit.RowMismatch, e.Seq, "task %s of %s for %s: the row says %s of %s for %s", e.Subject, d.Agent, e.Actor, row.ID, row.Agent, row.Consumer)
		}
		r.try(r.tasks.advance)
	} else {
		r.differ(audit.RowMissing, e.Seq, "task %s was started and has no row", e.Subject)
	}
	for _, key := range t.links {
		b := r.budget(key)
		b.HeldTasks++
		if t.ceiling != nil {
			b.HeldNanoUSD = plus(b.HeldNanoUSD, *t.ceiling)
		}
	}
	r.open[e.Subject] = t
}

func (r *reconciliation) ended(e *audit.Entry) {
	t := r.open[e.Subject]
	if t == nil {
		if r.min == 0 {
			r.differ(audit.EntryMissing, e.Seq, "task %s ended and never started", e.Subject)
		}
		return
	}
	delete(r.open, e.Subject)
	var d struct {
		ChargedUSD string `json:"charged_usd"`
		RecordID   string `json:"record_id"`
	}
	if err := json.Unmarshal(e.Details, &d); err != nil {
		r.differ(audit.RowMismatch, e.Seq, "task %s: details that are not those of an end", e.Subject)
		return
	}
	var charged *metering.NanoUSD
	if d.ChargedUSD != "" {
		charged = r.amount(e, d.ChargedUSD)
	}
	released := e.Type == ledger.TaskReleased
	if row := t.row; row != nil {
		if row.EndSeq != e.Seq || row.RecordID != d.RecordID || !same(row.Charged, charged) || (row.State == ledger.Released) != released || row.State == ledger.Held {
			r.differ(audit.RowMismatch, e.Seq, "task %s ended as entry %d says; its row says entry %d, %s", e.Subject, e.Seq, row.EndSeq, row.State)
		}
	}
	for _, key := range t.links {
		b := r.budget(key)
		b.HeldTasks--
		if t.ceiling != nil {
			b.HeldNanoUSD -= *t.ceiling
		}
		if released {
			continue
		}
		b.UsedTasks++
		if charged == nil {
			continue
		}
		within := *charged
		if t.ceiling != nil {
			within = min(within, *t.ceiling)
		}
		b.UsedNanoUSD, b.OverrunNanoUSD = plus(b.UsedNanoUSD, within), plus(b.OverrunNanoUSD, *charged-within)
	}
}

func (r *reconciliation) amount(e *audit.Entry, text string) *metering.NanoUSD {
	n, err := metering.ParseUSD(text)
	if err != nil {
		r.differ(audit.RowMismatch, e.Seq, "%s: %q is no amount", e.Subject, text)
		return nil
	}
	return &n
}

func (r *reconciliation) budget(key ledger.BudgetKey) *ledger.Budget {
	b := r.budgets[key]
	if b == nil {
		b = &ledger.Budget{Link: ledger.Link{Issuer: key.Issuer, TokenID: key.TokenID}}
		r.budgets[key] = b
	}
	return b
}

// plus adds amounts as the counters do: a full one stays full.
func plus(a, b metering.NanoUSD) metering.NanoUSD {
	if sum, err := a.Add(b); err == nil {
		return sum
	}
	return math.MaxInt64
}

func same(a, b *metering.NanoUSD) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// recordsUntil passes over the records whose entries are not in the log. Those
// of a pruned part are counted as their rows say.
func (r *reconciliation) recordsUntil(seq int64) {
	for r.err == nil && r.records.ok && r.records.value.EntrySeq < seq {
		row := &r.records.value
		rec, err := metering.ParseRecord(row.Octets)
		switch {
		case err != nil:
			r.differ(audit.RowMismatch, row.EntrySeq, "usage record %s cannot be read", row.ID)
		case row.EntrySeq < r.min:
			r.count(&rec)
			r.sum(&r.rows, &rec)
		default:
			r.differ(audit.EntryMissing, row.EntrySeq, "usage record %s has no entry", row.ID)
			r.sum(&r.rows, &rec)
		}
		r.try(r.records.advance)
	}
}

func (r *reconciliation) usage(e *audit.Entry) {
	r.out.Records++
	logged, err := metering.ParseRecord(e.Details)
	if err != nil {
		r.differ(audit.RowMismatch, e.Seq, "%s: details that are not those of a record", e.Subject)
		return
	}
	r.count(&logged)
	r.recordsUntil(e.Seq)
	if r.err != nil {
		return
	}
	if !r.records.ok || r.records.value.EntrySeq != e.Seq {
		purged, err := r.books.Purged(logged.ID)
		r.try(func() error { return err })
		if purged {
			r.out.Purged++
		} else {
			r.differ(audit.RowMissing, e.Seq, "usage record %s is gone", logged.ID)
		}
		return
	}
	row := &r.records.value
	if fault := rowFault(row, e); fault != "" {
		r.differ(audit.RowMismatch, e.Seq, "usage record %s: %s", logged.ID, fault)
	}
	if rec, err := metering.ParseRecord(row.Octets); err == nil {
		r.sum(&r.rows, &rec)
	}
	r.try(r.records.advance)
}

// rowFault says what is wrong with a record beside its entry.
func rowFault(row *Record, e *audit.Entry) string {
	if e.RowHash == nil || sha256.Sum256(row.Octets) != *e.RowHash {
		return "its row is not what was logged"
	}
	rec, err := metering.ParseRecord(row.Octets)
	if err != nil {
		return "its row cannot be read"
	}
	lean := rec
	lean.Signature, lean.PublicKey, lean.TraceID, lean.ParentTask = nil, nil, "", ""
	if !bytes.Equal(lean.AppendCanonical(nil), e.Details) {
		return "the entry's details are not its own row"
	}
	index := RecordIndex{TimestampUS: rec.Timestamp.UnixMicro(), Agent: string(rec.Agent), Consumer: string(rec.Consumer), TaskID: string(rec.TaskID),
		Skill: rec.Skill, Outcome: string(rec.Outcome), Ref: rec.Ref}
	if rec.Delegation != nil {
		index.Delegation = rec.Delegation.TokenID
	}
	if row.ID != rec.ID || row.Index != index {
		return "its index columns are not what it says"
	}
	return ""
}

// count adds a record to the cells it belongs to.
func (r *reconciliation) count(rec *metering.Record) {
	r.sum(&r.log, rec)
	for _, key := range ledger.RollupKeys(rec) {
		sums := r.rollups[key]
		if sums == nil {
			sums = &metering.Sums{}
			r.rollups[key] = sums
		}
		r.sum(sums, rec)
	}
}

func (r *reconciliation) sum(to *metering.Sums, rec *metering.Record) {
	r.try(func() error { return to.Add(rec) })
}

// indexed notes whom an entry concerns; a block's places are looked up together.
func (r *reconciliation) indexed(e *audit.Entry) {
	if block := e.Seq / blockSize; block != r.block {
		r.flushIndex()
		r.block = block
	}
	note := func(urn string) {
		if _, ok := r.index[urn]; !ok {
			r.index[urn] = e.Seq
		}
	}
	note(e.Actor)
	for _, party := range e.Parties {
		note(party)
	}
	if strings.HasPrefix(e.Subject, "urn:") {
		note(e.Subject)
	}
}

func (r *reconciliation) flushIndex() {
	for urn, seq := range r.index {
		if r.err != nil {
			break
		}
		ok, err := r.books.Indexed(urn, r.block)
		r.try(func() error { return err })
		if err == nil && !ok {
			r.differ(audit.IndexMismatch, seq, "a search for %s does not find the entry", urn)
		}
	}
	clear(r.index)
}

// conclude compares the sums and puts the result into the verdict.
func (r *reconciliation) conclude(v *audit.Verdict) error {
	for subject, t := range r.open {
		if t.row != nil && t.row.State != ledger.Held {
			r.differ(audit.EntryMissing, t.row.EndSeq, "task %s is %s and the log does not say so", subject, t.row.State)
		}
	}
	if r.err == nil && !r.out.Partial {
		r.err = r.compareBudgets()
	}
	if r.err == nil {
		r.err = r.compareDelegations()
	}
	if r.err == nil {
		r.err = r.compareRollups()
	}
	switch {
	case errors.Is(r.err, metering.ErrOverflow):
		r.differ(audit.RowMismatch, -1, "the totals of the log exceed what can be counted")
	case r.err != nil:
		return r.err
	}
	r.out.Consistent = len(r.out.Differences) == 0
	slices.SortStableFunc(r.out.Examples, func(a, b Difference) int { return int(min(max(place(a)-place(b), -1), 1)) })
	text, err := json.Marshal(r.out, json.Deterministic(true))
	if err != nil {
		return err
	}
	v.Reconciliation = text
	if !r.out.Consistent && v.Valid {
		first := r.out.Examples[0]
		v.Valid, v.Assurance, v.Reason, v.FirstBadSeq, v.Message = false, audit.None, first.Reason, first.Seq, first.What
	}
	return nil
}

// place sorts faults without an entry to the end.
func place(d Difference) int64 {
	if d.Seq == nil {
		return math.MaxInt64 - 1
	}
	return *d.Seq
}

func (r *reconciliation) compareBudgets() error {
	for have, err := range r.books.Budgets() {
		if err != nil {
			return err
		}
		r.out.Budgets++
		want := ledger.Budget{Link: have.Link}
		if b := r.budgets[have.Key()]; b != nil {
			want = *b
			want.Link = have.Link
		}
		delete(r.budgets, have.Key())
		if have != want {
			r.differ(audit.RowMismatch, -1, "budget of token %s of %s: used %d and %s, held %d and %s, overrun %s; the log says used %d and %s, held %d and %s, overrun %s",
				have.TokenID, have.Issuer, have.UsedTasks, have.UsedNanoUSD, have.HeldTasks, have.HeldNanoUSD, have.OverrunNanoUSD,
				want.UsedTasks, want.UsedNanoUSD, want.HeldTasks, want.HeldNanoUSD, want.OverrunNanoUSD)
		}
	}
	for key := range r.budgets {
		r.differ(audit.RowMissing, -1, "token %s of %s was used and has no budget", key.TokenID, key.Issuer)
	}
	return nil
}

func (r *reconciliation) compareRollups() error {
	var spans [3]metering.Sums
	unknown := false
	if r.out.Partial { // records that went with their entries cannot be counted
		var err error
		if unknown, err = r.books.PurgedBefore(r.min); err != nil {
			return err
		}
	}
	for have, err := range r.books.Rollups() {
		if err != nil {
			return err
		}
		r.out.Rollups++
		want := metering.Sums{}
		if sums := r.rollups[have.Key]; sums != nil {
			want = *sums
		}
		delete(r.rollups, have.Key)
		if have.Key.Delegation == "" {
			if err := spans[min(max(have.Key.Span, ledger.Hour), ledger.Month)].Merge(have.Sums); err != nil {
				return err
			}
		}
		if have.Sums != want && !unknown {
			r.differ(audit.RowMismatch, -1, "totals of %s for %s: the cell says %+v, the log %+v", have.Key.Agent, have.Key.Consumer, have.Sums, want)
		}
	}
	for key, sums := range r.rollups {
		if !sums.IsZero() {
			r.differ(audit.RowMissing, -1, "totals of %s for %s are missing: %+v", key.Agent, key.Consumer, *sums)
		}
	}
	r.totals(&spans)
	return nil
}

// totals lists the quantities and the largest drift.
func (r *reconciliation) totals(spans *[3]metering.Sums) {
	drift := 0.0
	add := func(quantity string, of func(*metering.Sums) int64) {
		t := Total{Quantity: quantity, Log: of(&r.log), Hours: of(&spans[ledger.Hour]), Days: of(&spans[ledger.Day]), Months: of(&spans[ledger.Month])}
		if r.out.Purged == 0 && !r.out.Partial {
			t.Rows = new(of(&r.rows))
		}
		r.out.Totals = append(r.out.Totals, t)
		others := []int64{t.Hours, t.Days, t.Months}
		if t.Rows != nil {
			others = append(others, *t.Rows)
		}
		for _, other := range others {
			if other != t.Log {
				drift = max(drift, 100*math.Abs(float64(other)-float64(t.Log))/max(1, math.Abs(float64(t.Log))))
			}
		}
	}
	add("tasks", func(s *metering.Sums) int64 { return s.Tasks })
	add("tokens_in", func(s *metering.Sums) int64 { return s.TokensIn })
	add("tokens_out", func(s *metering.Sums) int64 { return s.TokensOut })
	add("api_calls", func(s *metering.Sums) int64 { return s.APICalls })
	add("duration_ms", func(s *metering.Sums) int64 { return s.DurationMS })
	add("cost_nano_usd", func(s *metering.Sums) int64 { return int64(s.CostNanoUSD) })
	add("unpriced_tasks", func(s *metering.Sums) int64 { return s.Unpriced })
	add("unreported_tasks", func(s *metering.Sums) int64 { return s.Unreported })
	r.out.DriftPercent = strconv.FormatFloat(drift, 'f', -1, 64)
}
