package ledger

import (
	"context"
	"fmt"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// Record stores usage that agents report themselves, each record with its
// rollups and its usage.recorded entry. The same id and content again answers
// with the first receipt (I2); other content, or usage of a task this ledger
// itself has metered, is ErrConflict. In mode Atomic the first refused item
// refuses the batch with an *ItemError and nothing is stored; in mode PerItem
// the reason is in the item's Err. At most MaxBatch items.
func (l *Ledger) Record(ctx context.Context, reports []Report, mode Mode) ([]Recorded, error) {
	if len(reports) == 0 {
		return nil, nil
	}
	if len(reports) > MaxBatch {
		return nil, fmt.Errorf("%w: a batch of %d records, more than %d", ErrInvalid, len(reports), MaxBatch)
	}
	op := &record{mode: mode, items: make([]item, len(reports)), out: make([]Recorded, len(reports))}
	now := l.Now().UTC().Truncate(time.Microsecond)
	for i := range reports {
		it := &op.items[i]
		*it = l.prepareReport(&reports[i], now)
		if it.err != nil && mode == Atomic {
			return nil, &ItemError{i, it.err}
		}
	}
	if err := l.do(ctx, op); err != nil {
		return nil, err
	}
	return op.out, nil
}

// record is a batch of reports.
type record struct {
	mode  Mode
	items []item
	out   []Recorded
}

// item is one report, as far as it can be made without the ledger.
type item struct {
	record *StoredRecord
	row    [32]byte
	list   *metering.PriceList
	err    error
}

func (l *Ledger) prepareReport(in *Report, now time.Time) item {
	it := item{record: &StoredRecord{Record: in.Record, Digest: in.Digest}}
	r := &it.record.Record
	if r.Kind == "" {
		r.Kind = metering.Usage
	}
	if r.Kind != metering.Usage {
		it.err = fmt.Errorf("%w: a report is a usage record, see Correct", ErrInvalid)
		return it
	}
	if it.record.Digest == ([32]byte{}) {
		it.record.Digest = r.ContentDigest()
	}
	r.ReceivedAt, r.Sequence = now, 0
	if it.err = storableRecord(r); it.err != nil {
		return it
	}
	it.list = l.price(r)
	it.row = it.record.seal()
	return it
}

// storableRecord refuses a record that could not be read back.
func storableRecord(r *metering.Record) error {
	if err := r.Validate(); err != nil {
		return err
	}
	token := ""
	if r.Delegation != nil {
		token = r.Delegation.TokenID
	}
	return storable(r.ID, string(r.TaskID), string(r.Agent), string(r.Consumer), r.Skill, r.Ref, token)
}

func (o *record) weight() int { return len(o.items) }

func (o *record) needs(n *Needs) {
	for i := range o.items {
		if it := &o.items[i]; it.err == nil {
			n.Records = append(n.Records, it.record.Record.ID)
			n.Tasks = append(n.Tasks, it.record.Record.TaskID)
			n.Rollups = appendRollupKeys(n.Rollups, &it.record.Record)
		}
	}
}

func (o *record) more(*book, *Needs) {}

func (o *record) apply(b *book) error {
	if o.mode == PerItem {
		for i := range o.items {
			var p posting
			stored, err := o.add(b, &p, i, nil)
			if o.out[i].Err = err; stored != nil {
				b.take(&p)
				o.finish(b, &p, i, 0)
			}
		}
		return nil
	}
	var p posting
	var stored []int // items, in the order of their entries
	fresh := map[string]*StoredRecord{}
	for i := range o.items {
		r, err := o.add(b, &p, i, fresh)
		if err != nil {
			return &ItemError{i, err}
		}
		if r != nil {
			fresh[r.Record.ID] = r
			stored = append(stored, i)
		}
	}
	b.take(&p)
	for at, i := range stored {
		o.finish(b, &p, i, at)
	}
	for i := range o.items { // repetitions within the batch
		if id := o.items[i].record.Record.ID; o.out[i].Duplicate && fresh[id] != nil {
			o.out[i] = Recorded{Record: fresh[id].Record, Receipt: fresh[id].Entry, Duplicate: true}
		}
	}
	return nil
}

// add checks one item and puts it into a posting. It returns nil for one that
// is refused or was there before, of which the answer is complete then.
func (o *record) add(b *book, p *posting, i int, fresh map[string]*StoredRecord) (*StoredRecord, error) {
	it := &o.items[i]
	if it.err != nil {
		return nil, it.err
	}
	r := &it.record.Record
	have := b.records[r.ID]
	if have == nil {
		have = fresh[r.ID]
	}
	if have != nil {
		if have.Digest != it.record.Digest {
			return nil, fmt.Errorf("%w: %s", errRecordConflict, r.ID)
		}
		o.out[i] = Recorded{Record: have.Record, Receipt: have.Entry, Duplicate: true}
		if have.Purged {
			o.out[i].Record = *r
		}
		return nil, nil
	}
	if t := b.tasks[r.TaskID]; t != nil && t.Agent == r.Agent {
		return nil, fmt.Errorf("%w: task %s is metered by this node, it counts once", errRecordConflict, r.TaskID)
	}
	if err := b.tally(p, r); err != nil {
		return nil, err
	}
	if err := b.chain(p, usageEvent(audit.UsageRecorded, string(r.Agent), r, it.row)); err != nil {
		return nil, err
	}
	return it.record, nil
}

// finish stores item i, whose entry is the at-th of the posting.
func (o *record) finish(b *book, p *posting, i, at int) {
	it := &o.items[i]
	b.keep(it.list, it.record.Record.Agent)
	it.record.Entry = p.receipt(at)
	b.store(it.record)
	o.out[i] = Recorded{Record: it.record.Record, Receipt: it.record.Entry}
}

// Correct voids or adjusts a record. The correction is a record of its own, has
// a usage.corrected entry, and adds up with the one it corrects in every total.
// The same id again answers with the first receipt; voiding twice is a
// metering.ErrAlreadyVoided. Budgets stay as they are: what was spent was spent.
func (l *Ledger) Correct(ctx context.Context, c Correction) (Recorded, error) {
	if c.ID == "" {
		c.ID = l.ids.New(l.Now())
	}
	if c.Actor == "" {
		c.Actor = l.actor()
	}
	if err := storable(c.ID, c.Ref); err != nil {
		return Recorded{}, err
	}
	op := &correct{in: c}
	if err := l.do(ctx, op); err != nil {
		return Recorded{}, err
	}
	return op.out, nil
}

type correct struct {
	in  Correction
	out Recorded
}

func (o *correct) weight() int { return 1 }

func (o *correct) needs(n *Needs) {
	n.Records = append(n.Records, o.in.ID, o.in.Ref)
	n.Corrections = append(n.Corrections, o.in.Ref)
}

func (o *correct) more(b *book, n *Needs) {
	if ref := b.records[o.in.Ref]; ref != nil && !ref.Purged {
		n.Rollups = appendRollupKeys(n.Rollups, &ref.Record)
	}
}

func (o *correct) apply(b *book) error {
	ref := b.records[o.in.Ref]
	if ref == nil || ref.Purged {
		return fmt.Errorf("%w: %s", ErrUnknownRecord, o.in.Ref)
	}
	r, err := metering.Correct(&ref.Record, o.in.Correction, b.now)
	if err != nil {
		return err
	}
	rec := &StoredRecord{Record: r, Digest: r.ContentDigest()}
	if have := b.records[o.in.ID]; have != nil {
		if have.Digest != rec.Digest {
			return fmt.Errorf("%w: %s", errRecordConflict, o.in.ID)
		}
		o.out = Recorded{Record: have.Record, Receipt: have.Entry, Duplicate: true}
		return nil
	}
	if ref.Record.Kind != metering.Usage {
		return fmt.Errorf("%w: %s is a correction itself; adjust what it corrects", ErrInvalid, o.in.Ref)
	}
	for _, c := range b.corrections[o.in.Ref] {
		if c.Record.Kind == metering.Void {
			return fmt.Errorf("%w: %w: %s by %s", ErrConflict, metering.ErrAlreadyVoided, o.in.Ref, c.Record.ID)
		}
		if o.in.Kind == metering.Void {
			return fmt.Errorf("%w: %s has been adjusted, a void would leave the adjustment standing", ErrConflict, o.in.Ref)
		}
	}
	var p posting
	if err := b.tally(&p, &r); err != nil {
		return err
	}
	if err := b.chain(&p, usageEvent(audit.UsageCorrected, string(o.in.Actor), &r, rec.seal())); err != nil {
		return err
	}
	b.take(&p)
	rec.Entry = p.receipt(0)
	b.store(rec)
	o.out = Recorded{Record: rec.Record, Receipt: rec.Entry}
	return nil
}

// Append logs events that are no part of a task: acts of an operator, of a
// delegation, of the SLA. All of them or none.
func (l *Ledger) Append(ctx context.Context, events ...audit.Event) ([]Receipt, error) {
	if len(events) > MaxGroup {
		return nil, fmt.Errorf("%w: %d events at once", ErrInvalid, len(events))
	}
	op := &appendEvents{events: events}
	if err := l.do(ctx, op); err != nil {
		return nil, err
	}
	return op.out, nil
}

type appendEvents struct {
	events []audit.Event
	out    []Receipt
}

func (o *appendEvents) weight() int        { return max(1, len(o.events)) }
func (o *appendEvents) needs(*Needs)       {}
func (o *appendEvents) more(*book, *Needs) {}
func (o *appendEvents) apply(b *book) error {
	var p posting
	if err := b.chain(&p, o.events...); err != nil {
		return err
	}
	b.take(&p)
	for i := range p.entries {
		o.out = append(o.out, p.receipt(i))
	}
	return nil
}

// actor returns who does what the ledger does by itself.
func (l *Ledger) actor() asap.AgentURN {
	if l.opts.Operator != "" {
		return l.opts.Operator
	}
	return "urn:asap:agent:ledger"
}
