package ledger

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/registry"
)

// book is the ledger as one transaction sees it: what was loaded, changed by
// the operations of the group one after the other, and the list of those
// changes. An operation checks first and changes after, so a refused one leaves
// no trace and needs no savepoint.
type book struct {
	ledger *Ledger
	now    time.Time // whole microseconds

	head        audit.Head
	counters    Counters
	tasks       map[asap.TaskID]*Task
	envelopes   map[EnvelopeKey]*Task
	held        []*Task // only when asked for
	records     map[string]*StoredRecord
	corrections map[string][]*StoredRecord
	budgets     map[BudgetKey]*cell[Budget]
	rollups     map[RollupKey]*cell[metering.Sums]
	revocations map[BudgetKey]*Revocation
	tokens      map[BudgetKey]bool // known ones, of those asked for
	agents      map[asap.AgentURN]*registry.Agent
	breaches    map[string]Breach
	purgeable   int64
	prunable    bool

	changes Changes
	// order of first change, so that the same group always writes the same way
	dirtyBudgets []BudgetKey
	dirtyRollups []RollupKey
}

// cell is a value that may have been changed.
type cell[T any] struct {
	value  T
	exists bool // a budget that was never seen takes its limits from the first link
	dirty  bool
}

func newBook(now time.Time, l *Ledger) *book {
	return &book{ledger: l, now: now.UTC().Truncate(time.Microsecond),
		tasks: map[asap.TaskID]*Task{}, envelopes: map[EnvelopeKey]*Task{}, records: map[string]*StoredRecord{},
		corrections: map[string][]*StoredRecord{}, budgets: map[BudgetKey]*cell[Budget]{}, rollups: map[RollupKey]*cell[metering.Sums]{},
		revocations: map[BudgetKey]*Revocation{}, tokens: map[BudgetKey]bool{}, agents: map[asap.AgentURN]*registry.Agent{},
		breaches: map[string]Breach{}}
}

// run applies a group inside a transaction. Refusals are the operations' own;
// an error is the store's and concerns all.
func (b *book) run(ctx context.Context, tx Tx, group []*pending) error {
	first := Needs{Head: true}
	for _, p := range group {
		p.op.needs(&first)
	}
	if err := b.load(ctx, tx, &first); err != nil {
		return err
	}
	second := Needs{}
	for _, p := range group {
		p.op.more(b, &second)
	}
	if len(second.Budgets)+len(second.Rollups)+len(second.Corrections)+len(second.Records)+len(second.Envelopes) > 0 {
		if err := b.load(ctx, tx, &second); err != nil {
			return err
		}
	}
	for _, p := range group {
		p.err = p.op.apply(b)
	}
	return b.write(ctx, tx)
}

func (b *book) load(ctx context.Context, tx Tx, n *Needs) error {
	got, err := tx.Load(ctx, n)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	if n.Head {
		b.head, b.counters, b.purgeable, b.prunable = got.Head, got.Counters, got.Purgeable, got.Prunable
		if !got.Now.IsZero() {
			b.now = got.Now.UTC().Truncate(time.Microsecond)
		}
		if b.head.Size == 0 {
			b.head = audit.GenesisHead(b.ledger.opts.Origin)
		}
	}
	for _, t := range got.Tasks {
		b.know(t)
		if t.State == Held {
			b.held = append(b.held, t)
		}
	}
	for _, r := range got.Records {
		b.records[r.Record.ID] = r
	}
	for _, r := range got.Corrections {
		b.corrections[r.Record.Ref] = append(b.corrections[r.Record.Ref], r)
	}
	for _, v := range got.Breaches {
		b.breaches[v.ID] = v
	}
	for _, a := range got.Agents {
		b.agents[a.ID] = a
	}
	for _, v := range got.Budgets {
		b.budgets[v.Key()] = &cell[Budget]{value: v, exists: true}
	}
	for i := range got.Revocations {
		b.revocations[got.Revocations[i].Key()] = &got.Revocations[i]
	}
	for _, key := range got.Tokens {
		b.tokens[key] = true
	}
	for _, v := range got.Rollups {
		b.rollups[v.Key] = &cell[metering.Sums]{value: v.Sums, exists: true}
	}
	return nil
}

// know makes a task findable by both of its keys.
func (b *book) know(t *Task) {
	b.tasks[t.ID] = t
	if t.EnvelopeID != "" {
		b.envelopes[EnvelopeKey{t.Consumer, t.EnvelopeID}] = t
	}
}

func (b *book) write(ctx context.Context, tx Tx) error {
	c := &b.changes
	for _, key := range b.dirtyBudgets {
		c.Budgets = append(c.Budgets, b.budgets[key].value)
	}
	for _, key := range b.dirtyRollups {
		c.Rollups = append(c.Rollups, Rollup{key, b.rollups[key].value})
	}
	c.Counters = b.counters
	if c.empty() {
		return nil
	}
	if err := tx.Write(ctx, c); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func (c *Changes) empty() bool {
	return len(c.Entries) == 0 && len(c.Checkpoints) == 0 && c.RemovePurged == 0 && c.RemovePruned == 0 && c.DropAnswers == 0
}

func (b *book) batch() Batch {
	batch := Batch{Entries: b.changes.Entries, Records: make([]metering.Record, len(b.changes.Records)), Warnings: b.changes.Warnings}
	for i, r := range b.changes.Records {
		batch.Records[i] = r.Record
	}
	return batch
}

// posting is what an operation is about to add to the book. It is complete
// before anything changes.
type posting struct {
	entries []audit.Entry
	head    audit.Head
	budgets []Budget
	rollups []Rollup
	at      map[RollupKey]int // index of rollups, once they are many
}

// chain extends the log by events, tentatively.
func (b *book) chain(p *posting, events ...audit.Event) error {
	if p.entries == nil {
		p.head = b.head
	}
	for _, ev := range events {
		entry, head, err := audit.Append(p.head, b.now, ev, b.ledger.opts.Entropy)
		if err != nil {
			return fmt.Errorf("%w: %s entry: %w", ErrInvalid, ev.Type, err)
		}
		p.entries, p.head = append(p.entries, entry), head
	}
	return nil
}

// receipt returns the receipt of the i-th entry of a posting.
func (p *posting) receipt(i int) Receipt {
	e := &p.entries[i]
	return Receipt{Seq: e.Seq, EntryID: e.ID, Hash: e.Hash}
}

// budget returns the counter of a link, a fresh one if it was never seen.
func (b *book) budget(l Link) *cell[Budget] {
	c := b.budgets[l.Key()]
	if c == nil {
		c = &cell[Budget]{value: Budget{Link: l}}
		b.budgets[l.Key()] = c
	}
	return c
}

// tally adds a record to its cells, tentatively.
func (b *book) tally(p *posting, r *metering.Record) error {
	var keys [maxRollupKeys]RollupKey
	for _, key := range appendRollupKeys(keys[:0], r) {
		var sums metering.Sums
		if c := b.rollups[key]; c != nil {
			sums = c.value
		}
		at, again := p.rollup(&key)
		if again {
			sums = p.rollups[at].Sums
		}
		if err := sums.Add(r); err != nil {
			return fmt.Errorf("totals of %s: %w", key.Agent, err)
		}
		if again {
			p.rollups[at].Sums = sums
			continue
		}
		p.addRollup(Rollup{key, sums})
	}
	return nil
}

// fewRollups is how many cells of a posting are searched without an index. One
// task has no more; a batch of reports may have thousands.
const fewRollups = 2 * maxRollupKeys

// rollup finds a cell of the posting.
func (p *posting) rollup(key *RollupKey) (at int, found bool) {
	if p.at != nil {
		at, found = p.at[*key]
		return at, found
	}
	for i := range p.rollups {
		if p.rollups[i].Key == *key {
			return i, true
		}
	}
	return 0, false
}

// addRollup adds a cell that is not there yet.
func (p *posting) addRollup(v Rollup) {
	switch {
	case p.rollups == nil:
		p.rollups = make([]Rollup, 0, maxRollupKeys)
	case p.at != nil:
		p.at[v.Key] = len(p.rollups)
	case len(p.rollups) == fewRollups:
		p.at = make(map[RollupKey]int, 2*fewRollups)
		for i := range p.rollups {
			p.at[p.rollups[i].Key] = i
		}
		p.at[v.Key] = len(p.rollups)
	}
	p.rollups = append(p.rollups, v)
}

// take makes a posting part of the book. It cannot fail.
func (b *book) take(p *posting) {
	b.changes.Entries = append(b.changes.Entries, p.entries...)
	if p.entries != nil {
		b.head = p.head
	}
	for _, v := range p.budgets {
		c := b.budgets[v.Key()]
		if !c.dirty {
			c.dirty = true
			b.dirtyBudgets = append(b.dirtyBudgets, v.Key())
		}
		b.warn(&p.entries[0], &c.value, &v)
		c.value, c.exists = v, true
	}
	for _, v := range p.rollups {
		c := b.rollups[v.Key]
		if c == nil {
			c = &cell[metering.Sums]{}
			b.rollups[v.Key] = c
		}
		if !c.dirty {
			c.dirty = true
			b.dirtyRollups = append(b.dirtyRollups, v.Key)
		}
		c.value, c.exists = v.Sums, true
	}
}

// store makes a record part of the book: it gets the next sequence.
func (b *book) store(r *StoredRecord) {
	b.counters.Records++
	r.Record.Sequence = b.counters.Records
	b.records[r.Record.ID] = r
	if r.Record.Ref != "" {
		b.corrections[r.Record.Ref] = append(b.corrections[r.Record.Ref], r)
	}
	b.changes.Records = append(b.changes.Records, r)
}

// keep notes a price list that has priced a record and may not be stored yet.
func (b *book) keep(list *metering.PriceList, agent asap.AgentURN) {
	if list == nil || b.ledger.priced[list.Hash()] {
		return
	}
	for _, have := range b.changes.PriceLists {
		if have.Hash == list.Hash() {
			return
		}
	}
	b.changes.PriceLists = append(b.changes.PriceLists, StoredPriceList{Hash: list.Hash(), Agent: agent, Canonical: list.AppendCanonical(nil), At: b.now})
}

// maxRollupKeys is how many cells a record is counted in at most.
const maxRollupKeys = 6

// RollupKeys lists the cells a record is counted in.
func RollupKeys(r *metering.Record) []RollupKey {
	return appendRollupKeys(make([]RollupKey, 0, maxRollupKeys), r)
}

func appendRollupKeys(keys []RollupKey, r *metering.Record) []RollupKey {
	for _, span := range [...]Span{Hour, Day, Month} {
		key := RollupKey{Span: span, StartUS: span.StartUS(r.Timestamp),
			Agent: r.Agent, Consumer: r.Consumer, Outcome: r.Outcome, Skill: r.Skill}
		keys = append(keys, key)
		if r.Delegation != nil {
			key.Delegation = r.Delegation.TokenID
			keys = append(keys, key)
		}
	}
	return keys
}

// seal fills in the canonical form and the hash of what will be stored.
func (r *StoredRecord) seal() (rowHash [32]byte) {
	r.Octets = r.Record.AppendCanonical(r.Octets[:0])
	return sha256.Sum256(r.Octets)
}
