package slawatch

import (
	"context"
	"fmt"
	"time"

	"github.com/asap-protocol/asap-go/internal/sla"
)

// Several nodes that share a store judge by one journal: what a service level is
// follows from the inputs in it, in their order and at their instants, and from
// nothing else; the passing of time is an input too. The node that leads journals
// what the ledger, the prober and time bring, stores the state and has breaches
// recorded; the others read the journal and come to the same. Each may journal what
// it is asked for itself: who finds that another was first reads that before.

const (
	// followEvery is how often a node that does not lead reads the journal.
	followEvery = 250 * time.Millisecond
	// tickEvery is how often the node that leads journals that time has passed.
	tickEvery = sla.Instant(1000)
	// journalPage is how many inputs are read at once.
	journalPage = 1000
)

// shared tells whether other nodes judge by the same store.
func (w *Watch) shared() bool { return w.opts.Shared != nil && w.opts.Shared() }

// decides tells whether it is this node's to journal what becomes known.
func (w *Watch) decides() bool { return !w.shared() || w.leading.Load() }

// follow brings the watch up to date with the journal, and begins or ends to lead.
func (w *Watch) follow(ctx context.Context) error {
	leads := w.opts.Leads()
	switch {
	case leads == w.leading.Load():
	case leads: // as after a restart: what the one before has not had recorded is found again
		if err := w.reload(ctx); err != nil {
			return err
		}
		w.leading.Store(true)
		w.checkpoint = time.Now().Add(w.opts.CheckpointEvery)
		w.opts.Log.Info("this node leads the service levels", "input", w.journaled())
		w.opts.Led()
	default:
		w.leading.Store(false)
		w.sweep = nil
		w.opts.Log.Info("this node does not lead the service levels any more")
		if err := w.reload(ctx); err != nil {
			return err
		}
	}
	for {
		seq := w.journaled()
		inputs, position, err := w.store.SLAJournal(ctx, seq, journalPage)
		if err != nil {
			return fmt.Errorf("follow the journal of service levels: %w", err)
		}
		gap := len(inputs) > 0 && inputs[0].Seq != seq+1 || len(inputs) == 0 && position.Input > seq
		stored := !leads && position != (Position{}) && position != w.stored
		if gap || stored { // what is stored by now need not be kept in mind
			if err := w.reload(ctx); err != nil {
				return err
			}
			continue
		}
		if leads && w.sweep == nil && position.Input > w.stored.Input { // by one that does not know yet that it leads no more
			w.stored = position
		}
		if err := w.replay(ctx, inputs); err != nil {
			return err
		}
		if len(inputs) < journalPage {
			return nil
		}
	}
}

// replay tells the engine inputs of the journal. Those of one instant belong
// together: time passes behind the last of them.
func (w *Watch) replay(ctx context.Context, inputs []Input) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range inputs {
		if err := w.apply(ctx, &inputs[i]); err != nil {
			return err
		}
		w.remember(&inputs[i])
		if i+1 == len(inputs) && len(inputs) < journalPage || i+1 < len(inputs) && inputs[i+1].At > inputs[i].At {
			if err := w.advance(inputs[i].At); err != nil {
				return err
			}
		}
	}
	return nil
}

// reload goes back to what the store holds.
func (w *Watch) reload(ctx context.Context) error {
	fresh := &Watch{opts: w.opts, store: w.store, log: w.log}
	if err := fresh.load(ctx); err != nil {
		return err
	}
	if fresh.hasState { // time has passed behind the last input
		events, err := fresh.engine.Advance(fresh.present)
		if err := fresh.took(&Input{At: fresh.present, Kind: kindTime}, events, err); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.engine, w.buckets, w.known, w.present, w.seq, w.records, w.pending = fresh.engine, fresh.buckets, fresh.known, fresh.present, fresh.seq, fresh.records, fresh.pending
	w.stored, w.hasState, w.seenStored, w.sweep = fresh.stored, fresh.hasState, fresh.seenStored, nil
	w.engine.Notice = func(e sla.Event) { w.notices = append(w.notices, e) }
	return nil
}

// journaled is the last input that is known.
func (w *Watch) journaled() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seq
}

// until is how far time passes behind inputs: to now, or where nodes share a store
// to where the journal says. The caller holds mu.
func (w *Watch) until(inputs []Input) sla.Instant {
	if !w.shared() {
		return sla.InstantOf(w.opts.Now())
	}
	if len(inputs) == 0 {
		return w.present
	}
	return inputs[len(inputs)-1].At
}

// ticks tells whether it is to be journaled that time has passed. The caller holds
// mu.
func (w *Watch) ticks() bool {
	if !w.shared() || !w.leading.Load() {
		return false
	}
	now := sla.InstantOf(w.opts.Now())
	due, ok := w.engine.NextDue()
	return now >= w.present+tickEvery || ok && due > w.present && now >= due
}

// overhear is what record is for a node that does not lead.
func (w *Watch) overhear(ctx context.Context) error {
	w.mu.Lock()
	notices := w.notices
	w.pending, w.notices = nil, nil
	w.mu.Unlock()
	w.feed.notify(notices)
	return w.tellNews(ctx)
}

// tellNews tells what the log has of breaches behind what was told, if there may be
// anything.
func (w *Watch) tellNews(ctx context.Context) error {
	for w.news.Swap(false) {
		w.feed.mu.Lock()
		last := w.feed.last
		w.feed.mu.Unlock()
		changes, err := w.log.BreachChanges(ctx, last, replayPage)
		if err != nil {
			w.news.Store(true)
			return fmt.Errorf("read changes of breaches after %d: %w", last, err)
		}
		w.feed.publish(changes)
		if len(changes) == replayPage {
			w.news.Store(true)
		}
	}
	return nil
}
