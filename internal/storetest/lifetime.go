package storetest

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

func testExpiry(t *testing.T, b Backend) {
	r := start(t, b)
	for n := range 3 {
		a := admission(n)
		a.Links, a.Ceiling = chain(10), new(metering.NanoUSD(5))
		if n < 2 {
			a.ExpiresAt = epoch.Add(time.Duration(n+1) * time.Minute)
		}
		r.admit(a)
	}
	for _, want := range []int{0, 1, 1, 0} {
		got, err := r.ledger.ExpireDue(r.ctx)
		if err != nil || got != want {
			t.Errorf("%d expired (%v), want %d", got, err, want)
		}
		r.clock.advance(time.Minute)
	}
	late := settlement(0)
	r.refused(ledger.ErrTaskEnded, func() error {
		_, err := r.ledger.Settle(r.ctx, late)
		var ended *ledger.TaskEndedError
		if !errors.As(err, &ended) || ended.As.State != ledger.Expired || ended.As.Failure != ledger.FailureIndeterminate ||
			string(ended.As.Answer) != "lost task_0" || ended.As.Receipt.EntryID == "" {
			t.Errorf("a settlement that comes too late: %v, %+v", err, ended)
		}
		return err
	})
	got := r.admit(admission(0))
	if got.Replay == nil || got.Replay.State != ledger.Expired || got.Replay.Failure != ledger.FailureIndeterminate || string(got.Replay.Answer) != "lost task_0" {
		t.Errorf("retry of a lost task: %+v", got.Replay)
	}
	if b := r.budget(chain(10)[0]); b.UsedTasks != 2 || b.UsedNanoUSD != 10 || b.HeldTasks != 1 {
		t.Errorf("budget %+v, want two ceilings charged", b)
	}
	list, err := r.store.ListUsage(r.ctx, metering.Filter{TaskID: "task_0"}, metering.Page{Limit: 2})
	if err != nil || len(list) != 1 || !list[0].Indeterminate || *list[0].CostNanoUSD != 5 {
		t.Errorf("record of a lost task: %+v, %v", list, err)
	}
	r.check(false)
}

func testRecovery(t *testing.T, b Backend) {
	if b.Forgets {
		return
	}
	r := start(t, b, func(r *rig) { r.prices = prices(t, `{"usd_per_task":"0.000000003"}`) })
	const n = 2*ledger.MaxGroup + 7
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := part; i < n; i += 4 {
				a := admission(i)
				if i%2 == 0 {
					a.Links, a.Ceiling = chain(n), new(metering.NanoUSD(7))
				}
				if _, err := r.ledger.Admit(r.ctx, a); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	r.settle(settlement(0))
	r.restart()
	if held, _, err := r.store.Holds(r.ctx); held != 0 || err != nil {
		t.Fatalf("I5: %d tasks are held after recovery (%v)", held, err)
	}
	total := r.sums(metering.Filter{}, metering.ByOutcome)
	failed := total[metering.RollupRow{RollupKey: metering.RollupKey{Outcome: metering.Failed}}]
	if failed.Tasks != n-1 || failed.CostNanoUSD != 7*(n/2) || failed.Unpriced != n/2 {
		t.Errorf("lost tasks: %+v", failed)
	}
	if got := r.budget(chain(n)[0]); got.UsedTasks != n/2+1 || got.UsedNanoUSD != 7*(n/2)+3 || got.HeldNanoUSD != 0 {
		t.Errorf("budget %+v", got)
	}
	got := r.admit(admission(1))
	if got.Replay == nil || got.Replay.State != ledger.Expired || !bytes.Equal(got.Replay.Answer, []byte("lost task_1")) || got.Replay.Receipt.EntryID == "" {
		t.Errorf("retry of a lost task: %+v", got.Replay)
	}
	size := len(r.log())
	r.restart()
	if got := len(r.log()); got != size {
		t.Errorf("recovery of nothing added %d entries", got-size)
	}
	r.check(false)
}

func testRestart(t *testing.T, b Backend) {
	if b.Forgets {
		return
	}
	r := start(t, b)
	for n := range 30 {
		r.admit(admission(n))
		r.settle(settlement(n))
		if n%10 == 9 {
			// A clock that was set back does not turn the log back.
			r.clock.advance(-time.Hour)
			r.restart()
		}
	}
	if _, err := r.ledger.Record(r.ctx, reports(0, 3), ledger.Atomic); err != nil {
		t.Fatal(err)
	}
	r.restart()
	again, err := r.ledger.Record(r.ctx, reports(0, 3), ledger.Atomic)
	if err != nil || !again[2].Duplicate || again[2].Receipt.EntryID == "" {
		t.Errorf("reported again after a restart: %+v, %v", again, err)
	}
	r.check(false)
}

func testPurge(t *testing.T, b Backend) {
	r := start(t, b)
	var batch []ledger.Report
	for n := range 3000 {
		rep := report(n)
		rep.Record.Timestamp = epoch.Add(-time.Duration(n) * 10 * time.Second)
		batch = append(batch, rep)
	}
	if _, err := r.ledger.Record(r.ctx, batch, ledger.Atomic); err != nil {
		t.Fatal(err)
	}
	before := r.sums(metering.Filter{}, allDims)
	export, stop := iter.Pull2(r.store.ExportUsage(r.ctx, metering.Filter{}))
	defer stop()
	if _, err, _ := export(); err != nil {
		t.Fatal(err)
	}
	purged, err := r.ledger.Purge(r.ctx, epoch.Add(-time.Hour))
	if err != nil || !purged.Before.Equal(epoch.Add(-90*time.Minute)) || purged.Records != 3000-541 {
		t.Fatalf("%+v, %v", purged, err)
	}
	for range 500 {
		if _, err, _ = export(); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("an export that a purge overtook ended as if it were whole")
	}
	if raw := r.records(); len(raw) != 541 {
		t.Errorf("%d records are left, want 541", len(raw))
	}
	stats, err := r.store.UsageStats(r.ctx)
	if err != nil || stats.Records != 541 || stats.Oldest.Before(purged.Before) {
		t.Errorf("stats %+v, %v", stats, err)
	}
	if after := r.sums(metering.Filter{}, allDims); len(after) != len(before) {
		t.Error("the rollups were purged too")
	}
	// Whole hours are still known, parts of them are not, and nobody guesses.
	if err := failure(r, metering.Filter{Start: epoch.Add(-3*time.Hour - 15*time.Minute)}); err == nil {
		t.Error("a part of a purged hour was answered")
	}
	for _, f := range []metering.Filter{{Start: epoch.Add(-5 * time.Hour).Truncate(time.Hour)}, {End: epoch.Add(-400 * time.Hour).Add(time.Minute)}} {
		if err := failure(r, f); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
	}
	again, err := r.ledger.Record(r.ctx, []ledger.Report{report(2900)}, ledger.PerItem)
	if err != nil || !errors.Is(again[0].Err, metering.ErrConflict) {
		t.Errorf("I2: the id of a purged record with other content: %+v, %v", again, err)
	}
	again, err = r.ledger.Record(r.ctx, batch[2900:2901], ledger.Atomic)
	if err != nil || !again[0].Duplicate || again[0].Receipt.EntryID == "" || again[0].Record.ID != "rep_2900" {
		t.Errorf("I2: a purged record again: %+v, %v", again, err)
	}
	r.refused(ledger.ErrUnknownRecord, func() error {
		_, err := r.ledger.Correct(r.ctx, ledger.Correction{Correction: metering.Correction{Kind: metering.Void, Ref: "rep_2900"}})
		return err
	})
	if list, _, err := r.store.ListAudit(r.ctx, audit.Filter{Subject: "own_2900"}, 0, 10); err != nil || len(list) != 1 {
		t.Errorf("the entry of a purged record: %d, %v", len(list), err)
	}
	last := r.log()
	if e := last[len(last)-1]; e.Type != audit.UsagePurged || e.Actor != operator || !strings.Contains(string(e.Details), "2459") {
		t.Errorf("the purge is logged as %s: %s", e.Type, e.Details)
	}
	nothing, err := r.ledger.Purge(r.ctx, epoch.Add(-time.Hour))
	if err != nil || nothing.Records != 0 || nothing.Receipt.EntryID != "" {
		t.Errorf("purged again: %+v, %v", nothing, err)
	}
	if !b.Forgets {
		r.restart()
	}
	r.check(true)
}

func failure(r *rig, f metering.Filter) (err error) {
	for _, err = range r.store.Rollups(r.ctx, f, 0) {
	}
	return err
}

func testDropAnswers(t *testing.T, b Backend) {
	r := start(t, b)
	for n := range 10 {
		r.admit(admission(n))
		r.settle(settlement(n))
		r.clock.advance(time.Hour)
	}
	dropped, err := r.ledger.DropAnswers(r.ctx, epoch.Add(4*time.Hour))
	if err != nil || dropped != 4 {
		t.Errorf("%d answers dropped (%v), want 4", dropped, err)
	}
	for n, want := range map[int]string{3: "", 4: "answer 4"} {
		got := r.admit(admission(n))
		if got.Replay == nil || got.Replay.State != ledger.Settled || string(got.Replay.Answer) != want {
			t.Errorf("retry %d: %+v, want answer %q", n, got.Replay, want)
		}
	}
	r.check(false)
}

func testReadersDuringCommits(t *testing.T, b Backend) {
	r := start(t, b)
	ctx, cancel := context.WithCancel(r.ctx)
	var readers, writers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for last := int64(0); ctx.Err() == nil; {
				var seen, tasks int64
				for rec, err := range r.store.ExportUsage(r.ctx, metering.Filter{}) {
					if err != nil {
						t.Error(err)
						return
					}
					seen = max(seen, rec.Sequence)
				}
				for row, err := range r.store.Rollups(r.ctx, metering.Filter{}, 0) {
					if err != nil {
						t.Error(err)
						return
					}
					tasks += row.Tasks
				}
				if tasks < seen || seen < last {
					t.Errorf("saw %d records after %d, and totals of %d", seen, last, tasks)
				}
				last = seen
			}
		})
	}
	for w := range 8 {
		writers.Go(func() {
			for i := range 40 {
				n := w*1000 + i
				if _, err := r.ledger.Admit(r.ctx, admission(n)); err != nil {
					t.Error(err)
				}
				if _, err := r.ledger.Settle(r.ctx, settlement(n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	cancel()
	readers.Wait()
	r.check(false)
}

func testShutdown(t *testing.T, b Backend) {
	r := start(t, b)
	var wg sync.WaitGroup
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				a := admission(w*1000 + i)
				switch _, err := r.ledger.Admit(r.ctx, a); {
				case err == nil:
					mu.Lock()
					acknowledged[string(a.TaskID)] = true
					mu.Unlock()
				case errors.Is(err, ledger.ErrClosed) && errors.Is(err, ledger.ErrUnavailable):
					return
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	r.settleSome(t)
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	started := map[string]bool{}
	for _, e := range r.log() {
		if e.Type == audit.TaskStarted {
			started[e.Subject] = true
		}
	}
	for id := range acknowledged {
		if !started[id] {
			t.Errorf("I1: %s was acknowledged and is not there", id)
		}
	}
	cancelled, cancel := context.WithCancel(r.ctx)
	cancel()
	if _, err := r.ledger.Admit(cancelled, admission(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// settleSome lets some work go by.
func (r *rig) settleSome(t *testing.T) {
	for n := range 20 {
		a := admission(100_000 + n)
		if _, err := r.ledger.Admit(r.ctx, a); err != nil {
			t.Error(err)
		}
	}
}

func testFeed(t *testing.T, b Backend) {
	var fed []audit.Entry
	var records []metering.Record
	r := start(t, b, func(r *rig) {
		r.feed = func(batch ledger.Batch) {
			fed, records = append(fed, batch.Entries...), append(records, batch.Records...)
		}
	})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 20 {
				n := w*100 + i
				if _, err := r.ledger.Admit(r.ctx, admission(n)); err != nil {
					t.Error(err)
				}
				if _, err := r.ledger.Settle(r.ctx, settlement(n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if len(fed) != 8*20*3 || len(records) != 8*20 {
		t.Fatalf("fed %d entries and %d records", len(fed), len(records))
	}
	for i := range fed {
		if fed[i].Seq != int64(i) {
			t.Fatalf("entry %d came as number %d", fed[i].Seq, i)
		}
	}
	for i := range records {
		if records[i].Sequence != int64(i+1) {
			t.Fatalf("record %d came as number %d", records[i].Sequence, i+1)
		}
	}
}
