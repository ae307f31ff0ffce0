package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json/jsontext"
)

// Ledger is where tasks are authorised before they run and recorded before
// they are answered. It is safe for concurrent use.
//
// Admit MUST be durable when it returns nil: the task is recorded as started,
// and the pair (Consumer, EnvelopeID) is taken for good. For a pair it has seen
// with the same Digest it returns what became of the first one (Replay) and
// starts nothing; with another Digest it returns an error that wraps
// [ErrConflict]. A *[Refusal] says the task is not allowed and changes nothing.
// [ErrUnavailable] says nothing was decided and nothing changed: try again.
// [ErrOutcomeUnknown] says that it may have been recorded, or may not.
//
// Settle MUST be durable when it returns nil, and idempotent by TaskID: once
// with the first content, the same receipt after. After [ErrUnavailable] it is
// called again until Admission.ExpiresAt; who waits for the answer is told
// meanwhile. A *[Superseded] says that the task was ended otherwise before; the
// caller tells that. Any other error means the outcome is not known to the caller,
// who will not tell anybody the task succeeded.
//
// The contexts carry a bound in time; they do not end when a client hangs up.
type Ledger interface {
	Admit(ctx context.Context, a Admission) (Admitted, error)
	Settle(ctx context.Context, s Settlement) (Receipt, error)
}

var (
	// ErrUnavailable reports that the ledger cannot decide at the moment and
	// that nothing changed. The caller is told 503 with Retry-After.
	ErrUnavailable = errors.New("the ledger is not available")
	// ErrOutcomeUnknown reports that the ledger cannot tell whether it recorded
	// what it was asked to. The caller is told so, with 503: the same request
	// again, with the same envelope id, finds out and runs nothing twice.
	ErrOutcomeUnknown = errors.New("the ledger cannot tell whether it recorded this")
	// ErrConflict reports an envelope id that came before with other content.
	ErrConflict = errors.New("the envelope id was used before with other content")
)

// Memory is what a [Ledger] may be besides: it remembers tasks longer than the
// server does, over restarts. It is safe for concurrent use.
type Memory interface {
	// Recall tells how a task stands; false if there is none of this id. Whether
	// the caller may know is decided by the server.
	Recall(ctx context.Context, id asap.TaskID) (Recalled, bool, error)
}

// Waiter is what a [Ledger] may be besides, where several servers share one. It is
// safe for concurrent use.
type Waiter interface {
	// Await returns how a task ended that runs on another server, once it has; the
	// error is that of ctx if that ends before.
	Await(ctx context.Context, id asap.TaskID) (Admitted, error)
}

// Recalled is what a [Memory] knows of a task.
type Recalled struct {
	Consumer asap.AgentURN // who asked for it
	Verified bool          // Consumer was authenticated
	// Principal is who delegated the task in the first place; "" if nobody did.
	Principal asap.AgentURN
	// Ended, Answer, FailureCode and Receipt are as in [Admitted].
	Ended       bool
	Answer      []byte
	FailureCode string
	Receipt     Receipt
}

// Refusal is a ledger's no. Its texts are shown to the caller.
type Refusal struct {
	Code    string         // stable, snake_case
	Message string         // one sentence a person understands
	Details jsontext.Value // a JSON object, or nil
}

// Error implements error.
func (r *Refusal) Error() string { return r.Code + ": " + r.Message }

// Superseded is the answer to a settlement that comes too late: the ledger counts
// the task as lost, because its time was over or its server was taken for dead.
type Superseded struct {
	// As is how the task ended for everybody: as in an [Admitted] that is Ended.
	As Admitted
}

// Error implements error.
func (s *Superseded) Error() string {
	return "task " + string(s.As.TaskID) + " was ended otherwise before: " + s.As.FailureCode
}

// Admission asks whether a task may start.
type Admission struct {
	TaskID     asap.TaskID
	Agent      asap.AgentURN // who would work
	Consumer   asap.AgentURN // who asks
	Verified   bool          // Consumer is authenticated
	EnvelopeID asap.EnvelopeID
	// Digest is SHA-256 over what the request asks for - the agent, the payload,
	// whatever its spacing and member order - and whether the caller is verified,
	// so that nobody gets the answer of a verified caller by using its name. Time
	// and trace are left out: a retry with a fresh timestamp is the same request.
	Digest     [32]byte
	Skill      string
	ParentTask asap.TaskID // empty if none
	TraceID    string      // empty if none
	// Delegation is the text of the X-ASAP-Delegation-Token header, not yet
	// verified if Use is nil; empty if none was sent. A ledger that cannot check it MUST
	// refuse the task.
	Delegation string
	// Use is the delegation once it is verified, all but its limits; nil if there
	// is none, or if the server has no [Delegations]. The ledger counts on every
	// link of it and reports to it what remains.
	Use *Delegation
	// ExpiresAt is when the task will surely have ended; a hold on a budget
	// may lapse after it.
	ExpiresAt time.Time
}

// Admitted is the ledger's yes, or its memory of the first time.
type Admitted struct {
	// Replay says this request came before. Then TaskID is that of the first
	// run, which is still running unless Ended.
	Replay bool
	TaskID asap.TaskID
	Ended  bool
	// Answer is the answer envelope given then, without its receipt; nil if it
	// is no longer kept, or if there was none because the node died.
	Answer []byte
	// FailureCode says why the first run did not complete, where Answer cannot.
	FailureCode string
	Receipt     Receipt
}

// Outcome is how a task ended, in the words of a usage record.
type Outcome string

// The outcomes of an admitted task.
const (
	Completed Outcome = "completed"
	Failed    Outcome = "failed"
	Cancelled Outcome = "cancelled"
	TimedOut  Outcome = "timeout"
)

// Settlement is what a task was and what it used.
type Settlement struct {
	TaskID     asap.TaskID
	Agent      asap.AgentURN
	Consumer   asap.AgentURN
	Verified   bool
	EnvelopeID asap.EnvelopeID
	Skill      string
	ParentTask asap.TaskID
	TraceID    string
	Delegation string
	Use        *Delegation // as in the Admission
	Outcome    Outcome
	// FailureCode says why Outcome is not Completed, in snake_case; else empty.
	FailureCode string
	Quantities  Quantities
	StartedAt   time.Time
	EndedAt     time.Time
	// DurationMS is measured by the monotonic clock, from dispatch to the
	// terminal state.
	DurationMS int64
	// Answer is the answer envelope as JSON, without its receipt: what a
	// replay gives again.
	Answer []byte
}

// Receipt points to the audit entry that records how a task ended. The zero
// Receipt is none.
type Receipt struct {
	Seq     int64
	EntryID string
	Hash    [32]byte
}

// extensionName is the member of an answer's extensions that holds the receipt.
const extensionName = "asap-receipt"

// extensions returns the extensions of an answer with this receipt, or nil.
func (r Receipt) extensions() jsontext.Value {
	if r == (Receipt{}) {
		return nil
	}
	return object(extensionName, object("seq", r.Seq, "id", r.EntryID, "hash", hex.EncodeToString(r.Hash[:])))
}

// Unmetered returns a ledger that keeps nothing: every task is allowed, nothing
// is recorded, answers carry no receipt, and a retry that arrives after its
// first answer runs again. It refuses delegations, which it could not check. It
// is for trying an agent out and for agents whose economics live elsewhere.
func Unmetered() Ledger { return unmetered{} }

type unmetered struct{}

func (unmetered) Admit(_ context.Context, a Admission) (Admitted, error) {
	if a.Delegation != "" {
		return Admitted{}, &Refusal{Code: string(asap.CodeDelegationRootUntrusted), Message: "this server keeps no ledger, so it cannot take a delegation"}
	}
	return Admitted{TaskID: a.TaskID}, nil
}

func (unmetered) Settle(context.Context, Settlement) (Receipt, error) { return Receipt{}, nil }
