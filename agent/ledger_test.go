package agent

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	asap "github.com/asap-protocol/asap-go"
)

// memoryLedger is a ledger that forgets everything when the test ends. Its
// hooks stand in for disks that are full and nodes that die.
type memoryLedger struct {
	mu          sync.Mutex
	byKey       map[requestKey]*entry
	byTask      map[asap.TaskID]*entry
	admissions  []Admission
	settlements []Settlement

	onAdmit  func(Admission) error  // before anything is written
	onSettle func(Settlement) error // before anything is written
	afterAck func(Settlement) error // after it is written: the outcome is unknown
}

type entry struct {
	admission Admission
	answer    []byte
	ended     bool
	failure   string
	receipt   Receipt
}

func newLedger() *memoryLedger {
	return &memoryLedger{byKey: make(map[requestKey]*entry), byTask: make(map[asap.TaskID]*entry)}
}

func (l *memoryLedger) Admit(_ context.Context, a Admission) (Admitted, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.onAdmit != nil {
		if err := l.onAdmit(a); err != nil {
			return Admitted{}, err
		}
	}
	key := requestKey{a.Consumer, a.EnvelopeID}
	if known := l.byKey[key]; known != nil {
		if known.admission.Digest != a.Digest {
			return Admitted{}, fmt.Errorf("admit: %w", ErrConflict)
		}
		return Admitted{Replay: true, TaskID: known.admission.TaskID, Ended: known.ended, FailureCode: known.failure, Answer: known.answer, Receipt: known.receipt}, nil
	}
	e := &entry{admission: a}
	l.byKey[key], l.byTask[a.TaskID] = e, e
	l.admissions = append(l.admissions, a)
	return Admitted{TaskID: a.TaskID}, nil
}

func (l *memoryLedger) Settle(_ context.Context, s Settlement) (Receipt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.onSettle != nil {
		if err := l.onSettle(s); err != nil {
			return Receipt{}, err
		}
	}
	e := l.byTask[s.TaskID]
	if e == nil {
		return Receipt{}, fmt.Errorf("settle: task %s was not admitted", s.TaskID)
	}
	if e.answer != nil {
		return e.receipt, nil
	}
	l.settlements = append(l.settlements, s)
	e.answer = s.Answer
	e.receipt = Receipt{Seq: int64(len(l.settlements)), EntryID: "entry-" + string(s.TaskID), Hash: sha256.Sum256(s.Answer)}
	if l.afterAck != nil {
		if err := l.afterAck(s); err != nil {
			return Receipt{}, err
		}
	}
	return e.receipt, nil
}

func (l *memoryLedger) settled() []Settlement {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Settlement(nil), l.settlements...)
}
