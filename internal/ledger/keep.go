package ledger

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// removeAtOnce is how many rows one commit removes, so that tasks do not wait
// behind a purge.
const removeAtOnce = 2000

// DefaultAnswerKeep is how long answers are kept for retries.
const DefaultAnswerKeep = 24 * time.Hour

// recover settles what dead instances left behind, as lost. Run is not running yet.
func (l *Ledger) recover(ctx context.Context) error {
	if _, err := l.expireDead(ctx, l.alone); err != nil {
		return err
	}
	// A purge or a prune that was interrupted has moved its mark already.
	if err := l.removePurged(ctx, l.alone); err != nil {
		return err
	}
	return l.removePruned(ctx, l.alone)
}

// alone commits one operation without the committer's goroutine.
func (l *Ledger) alone(ctx context.Context, op operation) error {
	p := &pending{op: op, done: make(chan struct{})}
	l.commit(ctx, []*pending{p})
	return p.err
}

// ExpireDue settles, as lost, every held task whose ExpiresAt has passed, and
// returns how many. A task that is settled in the meantime is left alone.
func (l *Ledger) ExpireDue(ctx context.Context) (int, error) {
	for total := 0; ; {
		op := &expire{atOnce: MaxGroup, by: l.Now()}
		if err := l.do(ctx, op); err != nil {
			return total, err
		}
		total += op.count
		if op.count < op.atOnce {
			return total, nil
		}
	}
}

// expireDead settles, as lost, every held task of an instance that is dead, and
// returns how many.
func (l *Ledger) expireDead(ctx context.Context, do func(context.Context, operation) error) (int, error) {
	for total := 0; ; {
		op := &expire{atOnce: MaxGroup, beside: l.instance}
		if err := do(ctx, op); err != nil {
			return total, err
		}
		total += op.count
		if op.count < op.atOnce {
			return total, nil
		}
	}
}

// expire settles held tasks as lost: those due by a time, or those of instances
// that are dead beside one that is not.
type expire struct {
	atOnce int
	by     time.Time
	beside string
	lost   []*settle
	count  int
}

func (o *expire) weight() int { return MaxGroup } // a group of its own
func (o *expire) needs(n *Needs) {
	n.HeldTasks, n.HeldExpiredBy, n.HeldBeside = o.atOnce, o.by, o.beside
}

func (o *expire) more(b *book, n *Needs) {
	for _, t := range b.held {
		if o.by.IsZero() || !t.ExpiresAt.IsZero() && !t.ExpiresAt.After(o.by) {
			s := &settle{in: Settlement{TaskID: t.ID}, lost: true}
			s.more(b, n)
			o.lost = append(o.lost, s)
		}
	}
}

func (o *expire) apply(b *book) error {
	for _, s := range o.lost {
		if b.tasks[s.in.TaskID].State != Held {
			continue
		}
		if err := s.apply(b); err != nil {
			return fmt.Errorf("task %s: %w", s.in.TaskID, err)
		}
		o.count++
	}
	return nil
}

// Purge removes the raw records of whole hours older than before, and keeps
// their ids (I2) and the rollups. It is itself an entry of the log,
// usage.purged, and durable before anything goes. Rows are removed a few at a
// time; if that is interrupted, the next Open or Purge goes on.
func (l *Ledger) Purge(ctx context.Context, before time.Time) (Purged, error) {
	op := &purge{before: before.UTC().Truncate(time.Hour)}
	if err := l.do(ctx, op); err != nil {
		return Purged{}, err
	}
	return op.out, l.removePurged(ctx, l.do)
}

func (l *Ledger) removePurged(ctx context.Context, do func(context.Context, operation) error) error {
	for {
		op := &remove{purged: true}
		if err := do(ctx, op); err != nil {
			return fmt.Errorf("remove purged records: %w", err)
		}
		if op.removed < removeAtOnce {
			return nil
		}
	}
}

// DropAnswers forgets the answers of tasks that ended before a time. Their keys
// stay: a retry is still recognised, and told that the task is done.
func (l *Ledger) DropAnswers(ctx context.Context, before time.Time) (int64, error) {
	for total := int64(0); ; {
		op := &remove{answersBefore: before}
		if err := l.do(ctx, op); err != nil {
			return total, err
		}
		if total += op.removed; op.removed < removeAtOnce {
			return total, nil
		}
	}
}

type purge struct {
	before time.Time
	out    Purged
}

func (o *purge) weight() int        { return MaxGroup } // a group of its own: Purgeable is one number
func (o *purge) needs(n *Needs)     { n.PurgeBefore = o.before }
func (o *purge) more(*book, *Needs) {}
func (o *purge) apply(b *book) error {
	o.out = Purged{Before: o.before, Records: b.purgeable}
	if b.purgeable == 0 {
		return nil
	}
	details := strconv.AppendInt([]byte(`{"records":`), b.purgeable, 10)
	details = append(appendText(append(details, `,"until":`...), o.before.Format(time.RFC3339)), '}')
	var p posting
	if err := b.chain(&p, audit.Event{Type: audit.UsagePurged, Actor: string(b.ledger.actor()), Subject: "usage", Details: details}); err != nil {
		return err
	}
	b.take(&p)
	b.changes.PurgeBefore = o.before
	b.counters.PurgedBefore = later(b.counters.PurgedBefore, o.before)
	o.out.Receipt = p.receipt(0)
	return nil
}

type remove struct {
	purged        bool
	pruned        bool
	answersBefore time.Time
	removed       int64
}

func (o *remove) weight() int        { return MaxGroup }
func (o *remove) needs(n *Needs)     { n.Prunable = n.Prunable || o.pruned }
func (o *remove) more(*book, *Needs) {}
func (o *remove) apply(b *book) error {
	b.changes.Removed = &o.removed
	if o.purged {
		if !b.counters.PurgedBefore.IsZero() {
			b.changes.RemovePurged = removeAtOnce
		}
		return nil
	}
	if o.pruned {
		if b.prunable {
			b.changes.RemovePruned = removeAtOnce
		}
		return nil
	}
	b.changes.DropAnswers, b.changes.DropAnswersBefore = removeAtOnce, o.answersBefore
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// PriceOf returns what a record would cost now, without storing anything.
func (l *Ledger) PriceOf(r metering.Record) metering.Record {
	l.price(&r)
	return r
}
