package storetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// admission is a task n of alice for worker.
func admission(n int) ledger.Admission {
	name := strconv.Itoa(n)
	return ledger.Admission{TaskID: asap.TaskID("task_" + name), Consumer: alice, EnvelopeID: asap.EnvelopeID("env_" + name),
		Digest: sha256.Sum256([]byte(name)), Agent: worker, Verified: true, Skill: "echo"}
}

// settlement ends task n with some usage.
func settlement(n int) ledger.Settlement {
	return ledger.Settlement{TaskID: asap.TaskID("task_" + strconv.Itoa(n)), Answer: []byte("answer " + strconv.Itoa(n)),
		Record: metering.Record{Outcome: metering.Completed, Evidence: metering.Observed, TokensIn: new(int64(100 + n)), TokensOut: new(int64(n)),
			APICalls: new(int64(1)), DurationMS: new(int64(20))}}
}

func (r *rig) admit(a ledger.Admission) ledger.Admitted {
	r.t.Helper()
	got, err := r.ledger.Admit(r.ctx, a)
	if err != nil {
		r.t.Fatalf("admit %s: %v", a.TaskID, err)
	}
	return got
}

func (r *rig) settle(s ledger.Settlement) ledger.Posted {
	r.t.Helper()
	got, err := r.ledger.Settle(r.ctx, s)
	if err != nil {
		r.t.Fatalf("settle %s: %v", s.TaskID, err)
	}
	return got
}

// refused runs something that must be refused with want and change nothing.
func (r *rig) refused(want error, f func() error) {
	r.t.Helper()
	size := len(r.log())
	if err := f(); !errors.Is(err, want) {
		r.t.Errorf("got error %v, want %v", err, want)
	}
	if got := len(r.log()); got != size {
		r.t.Errorf("a refusal (%v) added %d entries", want, got-size)
	}
}

func testTask(t *testing.T, b Backend) {
	r := start(t, b)
	admitted := r.admit(admission(1))
	if admitted.Replay != nil || admitted.TaskID != "task_1" {
		t.Fatalf("admitted %+v, want a fresh ticket", admitted)
	}
	if held, oldest, err := r.store.Holds(r.ctx); err != nil || held != 1 || !oldest.Equal(epoch) {
		t.Errorf("holds: %d since %v (%v), want 1 since %v", held, oldest, err, epoch)
	}
	r.clock.advance(time.Second)
	posted := r.settle(settlement(1))
	entries := r.log()
	for i, want := range []struct{ kind, actor string }{{audit.TaskStarted, alice}, {audit.TaskCompleted, worker}, {audit.UsageRecorded, worker}} {
		if e := entries[i]; e.Type != want.kind || e.Actor != want.actor || e.Subject != "task_1" {
			t.Errorf("entry %d is %s of %s about %s", i, e.Type, e.Actor, e.Subject)
		}
	}
	if entries[0].ID != admitted.Receipt.EntryID || entries[1].Hash != posted.Receipt.Hash || posted.Receipt.Seq != 1 {
		t.Errorf("receipts %+v and %+v do not name the entries", admitted.Receipt, posted.Receipt)
	}
	rec := posted.Record
	if rec.Sequence != 1 || rec.Consumer != alice || rec.Agent != worker || !rec.Verified || rec.Skill != "echo" || !rec.ReceivedAt.Equal(epoch.Add(time.Second)) || rec.ID == "" {
		t.Errorf("record %+v lacks what the admission said", rec)
	}
	list, err := r.store.ListUsage(r.ctx, metering.Filter{TaskID: "task_1"}, metering.Page{Limit: 10})
	if err != nil || len(list) != 1 || list[0].ID != rec.ID {
		t.Errorf("usage of the task: %v, %v", list, err)
	}
	stats, err := r.store.UsageStats(r.ctx)
	if err != nil || stats.Records != 1 || !stats.Oldest.Equal(epoch.Add(time.Second)) {
		t.Errorf("stats %+v, %v", stats, err)
	}
	r.check(false)
}

func testEnvelopeRepeats(t *testing.T, b Backend) {
	r := start(t, b)
	first := r.admit(admission(1))
	again := admission(1)
	again.TaskID = "task_other"
	got := r.admit(again)
	if got.Replay == nil || got.Replay.State != ledger.Held || got.TaskID != "task_1" || got.Receipt != first.Receipt {
		t.Errorf("while it runs: %+v", got)
	}
	posted := r.settle(settlement(1))
	for _, restart := range []bool{false, !b.Forgets} {
		if restart {
			r.restart()
		}
		got = r.admit(again)
		if got.Replay == nil || got.Replay.State != ledger.Settled || !bytes.Equal(got.Replay.Answer, []byte("answer 1")) || got.Replay.Receipt != posted.Receipt {
			t.Errorf("after the end: %+v", got.Replay)
		}
		other := again
		other.Digest[0]++
		r.refused(ledger.ErrConflict, func() error { _, err := r.ledger.Admit(r.ctx, other); return err })
		taken := admission(2)
		taken.TaskID = "task_1"
		r.refused(ledger.ErrConflict, func() error { _, err := r.ledger.Admit(r.ctx, taken); return err })
	}
	r.check(false)
}

func testDuplicatesAtOnce(t *testing.T, b Backend) {
	r := start(t, b)
	var fresh atomic.Int64
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			a := admission(1)
			a.TaskID = asap.TaskID(fmt.Sprintf("task_try_%d", i))
			got, err := r.ledger.Admit(r.ctx, a)
			if err != nil {
				t.Error(err)
			} else if got.Replay == nil {
				fresh.Add(1)
			}
		})
	}
	wg.Wait()
	if fresh.Load() != 1 || len(r.log()) != 1 {
		t.Errorf("%d of 20 equal envelopes started a task, %d entries", fresh.Load(), len(r.log()))
	}
	r.check(false)
}

func testSettleRepeats(t *testing.T, b Backend) {
	r := start(t, b)
	r.admit(admission(1))
	first := r.settle(settlement(1))
	again := r.settle(settlement(1))
	if !again.Replay || again.Receipt != first.Receipt || again.Record.ID != first.Record.ID || again.Record.Sequence != 1 {
		t.Errorf("second settlement %+v, want the first one's receipt %+v", again, first)
	}
	other := settlement(1)
	other.Answer = []byte("another")
	r.refused(ledger.ErrConflict, func() error { _, err := r.ledger.Settle(r.ctx, other); return err })
	r.refused(ledger.ErrUnknownTask, func() error { _, err := r.ledger.Settle(r.ctx, settlement(2)); return err })
	r.refused(ledger.ErrUnknownTask, func() error { _, err := r.ledger.Release(r.ctx, "task_2", "x"); return err })
	r.admit(admission(3))
	taken := settlement(3)
	taken.Record.ID = first.Record.ID
	r.refused(ledger.ErrConflict, func() error { _, err := r.ledger.Settle(r.ctx, taken); return err })
	mismatch := settlement(3)
	mismatch.Record.Consumer = bob
	r.refused(ledger.ErrInvalid, func() error { _, err := r.ledger.Settle(r.ctx, mismatch); return err })
	full := settlement(3) // everything said by the caller, as the agent does
	full.Record.Agent, full.Record.Consumer, full.Record.Verified, full.Record.Skill = worker, alice, true, "echo"
	full.Record.Outcome, full.Failure = metering.TimedOut, "task_timeout"
	full.Record.ID, full.Record.Timestamp = "01KGB7ZK00000000000000000Z", epoch.Add(-time.Minute)
	r.settle(full)
	if entries := r.log(); entries[len(entries)-2].Type != audit.TaskFailed {
		t.Errorf("a task that timed out is logged as %s", entries[len(entries)-2].Type)
	}
	r.check(false)
}

func testRelease(t *testing.T, b Backend) {
	r := start(t, b)
	links := chain(2)
	a := admission(1)
	a.Links = links
	r.admit(a)
	receipt, err := r.ledger.Release(r.ctx, "task_1", "queue full")
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.ledger.Release(r.ctx, "task_1", "queue full")
	if err != nil || again != receipt {
		t.Errorf("released twice: %+v (%v), want %+v", again, err, receipt)
	}
	r.refused(ledger.ErrTaskEnded, func() error { _, err := r.ledger.Settle(r.ctx, settlement(1)); return err })
	a.TaskID = "task_2" // the same envelope, for the work was never begun
	if got := r.admit(a); got.Replay != nil || got.Budgets[0].UsedTasks != 0 || got.Budgets[0].HeldTasks != 1 {
		t.Errorf("after a release: %+v", got)
	}
	s := settlement(2)
	r.settle(s)
	r.refused(ledger.ErrTaskEnded, func() error { _, err := r.ledger.Release(r.ctx, "task_2", "x"); return err })
	r.check(false)
}

func testRefusals(t *testing.T, b Backend) {
	r := start(t, b)
	r.admit(admission(9))
	admissions := map[string]func(*ledger.Admission){
		"no task":          func(a *ledger.Admission) { a.TaskID = "" },
		"no envelope":      func(a *ledger.Admission) { a.EnvelopeID = "" },
		"NUL":              func(a *ledger.Admission) { a.EnvelopeID = "a\x00b" },
		"not UTF-8":        func(a *ledger.Admission) { a.Skill = "\xff" },
		"negative ceiling": func(a *ledger.Admission) { a.Ceiling = new(metering.NanoUSD(-1)) },
		"nine links":       func(a *ledger.Admission) { a.Links = chain(1, 1, 1, 1, 1, 1, 1, 1, 1) },
		"link without id":  func(a *ledger.Admission) { a.Links = []ledger.Link{{Issuer: alice}} },
		"bad link":         func(a *ledger.Admission) { a.Links = []ledger.Link{{Issuer: alice, TokenID: "\xff"}} },
		"link twice":       func(a *ledger.Admission) { a.Links = append(chain(1), chain(1)...) },
		"long skill":       func(a *ledger.Admission) { a.Skill = strings.Repeat("s", 1000) },
		"huge ceiling":     func(a *ledger.Admission) { a.Ceiling = new(metering.NanoUSD(math.MaxInt64)) },
		"actor no URN":     func(a *ledger.Admission) { a.Consumer = "ålice" },
	}
	for name, change := range admissions {
		t.Run(name, func(t *testing.T) {
			a := admission(1)
			change(&a)
			r.refused(ledger.ErrInvalid, func() error { _, err := r.ledger.Admit(r.ctx, a); return err })
		})
	}
	settlements := map[string]func(*ledger.Settlement){
		"no outcome":   func(s *ledger.Settlement) { s.Record.Outcome = "" },
		"two tasks":    func(s *ledger.Settlement) { s.Record.TaskID = "task_8" },
		"negative":     func(s *ledger.Settlement) { s.Record.TokensIn = new(int64(-1)) },
		"NUL":          func(s *ledger.Settlement) { s.Record.ID = "\x00" },
		"other parent": func(s *ledger.Settlement) { s.Record.ParentTask = "task_7" },
	}
	for name, change := range settlements {
		t.Run(name, func(t *testing.T) {
			s := settlement(9)
			change(&s)
			r.refused(ledger.ErrInvalid, func() error { _, err := r.ledger.Settle(r.ctx, s); return err })
		})
	}
	r.refused(ledger.ErrInvalid, func() error { _, err := r.ledger.Release(r.ctx, "\x00", "x"); return err })
	r.refused(ledger.ErrInvalid, func() error {
		_, err := r.ledger.Append(r.ctx, audit.Event{Type: audit.ConfigChanged, Actor: operator}, audit.Event{Type: "Bad Type"})
		return err
	})
	r.refused(ledger.ErrInvalid, func() error {
		_, err := r.ledger.Append(r.ctx, make([]audit.Event, ledger.MaxGroup+1)...)
		return err
	})
	receipts, err := r.ledger.Append(r.ctx, audit.Event{Type: audit.ConfigChanged, Actor: operator}, audit.Event{Type: audit.KeyRotated, Actor: operator})
	if err != nil || len(receipts) != 2 || receipts[1].Seq != 2 {
		t.Errorf("append: %+v, %v", receipts, err)
	}
	// What was refused did not disturb its neighbours.
	r.settle(settlement(9))
	r.check(false)
}
