package ledger

import (
	"errors"
	"fmt"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// What an operation may answer. Each is a sentinel for [errors.Is]; the text
// around it says which key was meant. Except for ErrOutcomeUnknown, an error
// means that the operation changed nothing.
var (
	// ErrConflict reports a key that is already taken by other content: an
	// envelope id, a record id, a task that ended otherwise, or the limits of a
	// delegation token.
	ErrConflict = errors.New("conflicts with what the ledger holds")
	// ErrUnknownTask reports a task that was never admitted here.
	ErrUnknownTask = errors.New("unknown task")
	// ErrUnknownRecord reports a correction of a record that is not here, or not
	// any more. It is a metering.ErrNotFound.
	ErrUnknownRecord = fmt.Errorf("the ledger has %w to correct", metering.ErrNotFound)
	// errRecordConflict is ErrConflict for the key of a record.
	errRecordConflict = fmt.Errorf("%w: %w", ErrConflict, metering.ErrConflict)
	// ErrTaskEnded reports a task that was already released or expired.
	ErrTaskEnded = errors.New("task has already ended")
	// ErrInvalid reports an operation that breaks its own contract.
	ErrInvalid = errors.New("invalid operation")
	// ErrCostUnbounded reports a cost-limited delegation and no cost ceiling for
	// the task (code delegation_cost_unbounded).
	ErrCostUnbounded = errors.New("the delegation limits cost and the task has no cost ceiling")
	// ErrUnavailable reports a store that could not commit, for instance because
	// the disk is full. Nothing was changed; the same call may be repeated.
	ErrUnavailable = errors.New("ledger unavailable")
	// ErrOverloaded reports a full queue. It is an ErrUnavailable.
	ErrOverloaded = fmt.Errorf("%w: too many operations are waiting", ErrUnavailable)
	// ErrClosed reports a ledger that is shutting down. It is an ErrUnavailable.
	ErrClosed = fmt.Errorf("%w: shutting down", ErrUnavailable)
	// ErrOutcomeUnknown reports a commit that may or may not have become durable.
	// On a store of one node it stops the ledger for good: every later call gets it
	// too, and what is true is found out by opening the store again. On a shared
	// store the ledger finds it out, and stops only if it has to end before.
	ErrOutcomeUnknown = errors.New("the outcome of a commit is unknown, the ledger has stopped")
)

// TaskEndedError is the refusal of a settlement that comes too late: the task
// was released or counted as lost. It changed nothing and is an ErrTaskEnded.
type TaskEndedError struct {
	TaskID asap.TaskID
	As     Replay // how it ended: what everybody is told
}

func (e *TaskEndedError) Error() string {
	return fmt.Sprintf("%v: %s was %s", ErrTaskEnded, e.TaskID, e.As.State)
}

// Unwrap returns ErrTaskEnded.
func (e *TaskEndedError) Unwrap() error { return ErrTaskEnded }

// Unit is what a limit counts.
type Unit string

// The units of a limit.
const (
	UnitTasks Unit = "tasks"
	UnitCost  Unit = "cost" // nano-USD
)

// LimitError is the refusal of an admission by a limit of its delegation. It
// changed nothing. Used, Held, Remaining and Needed are tasks or nano-USD as
// Unit says, as they were at the moment of the refusal; Used + Held + Needed is
// greater than Limit (I6).
type LimitError struct {
	Link      int // position in the chain, the root is 0
	Issuer    asap.AgentURN
	TokenID   string
	Unit      Unit
	Limit     int64
	Used      int64
	Held      int64
	Remaining int64 // never negative
	Needed    int64
}

// MayFree tells whether only open holds stand in the way, so that the same call
// may succeed later (code delegation_limit_held).
func (e *LimitError) MayFree() bool { return e.Needed <= e.Limit-e.Used }

// Code returns the stable code of the refusal.
func (e *LimitError) Code() string {
	switch {
	case e.MayFree():
		return "delegation_limit_held"
	case e.Unit == UnitCost:
		return "delegation_limit_cost"
	default:
		return "delegation_limit_tasks"
	}
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s: link %d (%s): limit %d %s, used %d, held %d, remaining %d, needed %d",
		e.Code(), e.Link, e.TokenID, e.Limit, e.Unit, e.Used, e.Held, e.Remaining, e.Needed)
}

// ItemError says which item of an atomic batch was refused, and with it the
// whole batch.
type ItemError struct {
	Index int
	Err   error
}

func (e *ItemError) Error() string { return fmt.Sprintf("item %d: %v", e.Index, e.Err) }

// Unwrap returns the reason.
func (e *ItemError) Unwrap() error { return e.Err }
