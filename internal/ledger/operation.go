package ledger

import (
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// Admission asks to start a task. Its key is (Consumer, EnvelopeID).
type Admission struct {
	TaskID     asap.TaskID // must be new
	Consumer   asap.AgentURN
	EnvelopeID asap.EnvelopeID
	// Digest is the SHA-256 of what was asked; the same key with another digest
	// is ErrConflict.
	Digest     [32]byte
	Agent      asap.AgentURN
	Verified   bool // Consumer was authenticated
	Skill      string
	ParentTask asap.TaskID
	TraceID    string
	// Links is the delegation chain the task runs under, root first; empty for
	// none.
	Links []Link
	// Tokens describes the links, in the same order, to be kept at their first
	// use; nil keeps nothing.
	Tokens []Token
	// Ceiling is the most the task may cost; nil if nobody knows. It is required
	// when any link limits cost.
	Ceiling *metering.NanoUSD
	// ExpiresAt is when the task counts as lost if it was not settled by then;
	// zero for never.
	ExpiresAt time.Time
}

// Link is one token of a delegation chain with its own limits; nil is no limit.
// (Issuer, TokenID) is the key of the counter; the limits of one token never
// change.
type Link struct {
	Issuer       asap.AgentURN
	TokenID      string
	LimitTasks   *int64
	LimitNanoUSD *metering.NanoUSD
}

// Admitted is the answer to an Admission.
type Admitted struct {
	// Replay is nil for a task that was started by this call, and what is known
	// of the first one when the same envelope came before.
	Replay *Replay
	TaskID asap.TaskID // of the first one, for a replay
	// Receipt is that of the task.started entry.
	Receipt Receipt
	// Budgets are the counters of every link, root first, as this admission left
	// them; empty for a replay.
	Budgets []Budget
}

// Replay is what is known of a task that was admitted before.
type Replay struct {
	State   TaskState
	Answer  []byte // nil while it runs, and when the answer was dropped after its keep time
	Failure string
	Receipt Receipt // of the task.completed or task.failed entry; zero while it runs
}

// TaskState is where a task stands. A task that has started holds its place in
// every budget until it is in exactly one of the other states.
type TaskState int

// The states of a task. The numbers are stored.
const (
	Held     TaskState = 0
	Settled  TaskState = 1
	Released TaskState = 2 // surely did not start; its envelope id may be used again
	Expired  TaskState = 3 // outcome unknown: charged its ceiling
)

func (s TaskState) String() string {
	return [...]string{"held", "settled", "released", "expired"}[s]
}

// Settlement ends a task that was admitted. Its key is TaskID: settling again
// with the same record and answer returns the first receipt.
type Settlement struct {
	TaskID asap.TaskID
	// Record holds the quantities and the outcome. What the admission already
	// said (agent, consumer, skill, delegation, parent, trace) may be left out
	// and must not differ; ID may be left out; cost, price list and the times of
	// receipt are the ledger's to fill in.
	Record  metering.Record
	Failure string // stable code, empty when the task completed
	Answer  []byte // what a retry of the envelope is answered
}

// Receipt names the audit entry that proves an operation.
type Receipt = metering.Receipt

// Recorded is the answer to one Report or Correction.
type Recorded = metering.Recorded

// Posted is the answer to a Settlement.
type Posted struct {
	Receipt Receipt         // of the task.completed or task.failed entry
	Record  metering.Record // as stored: priced, with id and sequence
	Replay  bool            // the task had been settled before, alike
	Budgets []Budget        // counters of every link after this settlement
}

// Report is usage that an agent reports itself. Its key is Record.ID.
type Report struct {
	Record metering.Record
	// Digest is the SHA-256 of what was reported. Zero means that of the
	// record's own content.
	Digest [32]byte
}

// Mode says what one refused item means for its batch.
type Mode int

// The modes of a batch.
const (
	Atomic  Mode = iota // one refused item refuses the batch, with an *ItemError
	PerItem             // each item is answered for itself
)

// Correction takes back or amends a record. Nothing is edited: it is a record
// of its own that falls into the hour of the one it corrects. Its key is ID.
type Correction struct {
	metering.Correction
	Actor asap.AgentURN // who corrects
}

// Purged is the answer to a purge.
type Purged struct {
	Before  time.Time // whole hour; raw records older than it are gone
	Records int64     // how many this call removed
	Receipt Receipt   // zero when there was nothing to do
}

// Budget is the counter of one delegation token.
//
// Invariant (I4): UsedTasks + HeldTasks <= LimitTasks and UsedNanoUSD +
// HeldNanoUSD <= LimitNanoUSD. What tasks cost beyond their ceiling is in
// OverrunNanoUSD: it is money spent, counts against the limit for later tasks,
// and could not be refused any more.
type Budget struct {
	Link
	UsedTasks, HeldTasks     int64
	UsedNanoUSD, HeldNanoUSD metering.NanoUSD
	OverrunNanoUSD           metering.NanoUSD
}
