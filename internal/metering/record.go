// Package metering says what a usage record is, what it costs, and how records
// add up. The model: one task leaves one record; a record is never edited, only
// corrected by another one; a sum of records is the same however it is grouped,
// paged or exported. Everything here is a pure function of its arguments.
package metering

import (
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Outcome is how a task ended.
type Outcome string

// The outcomes of a task.
const (
	Completed Outcome = "completed"
	Failed    Outcome = "failed"
	Cancelled Outcome = "cancelled"
	TimedOut  Outcome = "timeout"
	Rejected  Outcome = "rejected"
)

// Kind tells a first record from a correction.
type Kind string

// The kinds of a record. A Void takes the record Ref refers to out of every
// total; an Adjustment adds its (possibly negative) quantities to them.
const (
	Usage      Kind = "usage"
	Void       Kind = "void"
	Adjustment Kind = "adjustment"
)

// Evidence ranks where a record's quantities come from.
type Evidence string

// Evidence, weakest first.
const (
	Estimated        Evidence = "estimated"
	SelfReported     Evidence = "self_reported"
	Observed         Evidence = "observed"
	ProviderReported Evidence = "provider_reported"
)

// Count is a quantity that may be unknown: nil is "not reported", which is not
// the same as a reported 0.
type Count = *int64

// Tokens are the disjoint buckets that make up tokens_in and tokens_out. A nil
// bucket was not reported.
type Tokens struct {
	InputUncached   Count
	InputCacheRead  Count
	InputCacheWrite Count
	OutputText      Count
	OutputReasoning Count
}

// Delegation names the token a task ran under.
type Delegation struct {
	Issuer     asap.AgentURN // of the leaf
	TokenID    string        // jti of the leaf
	RootIssuer asap.AgentURN
	RootID     string
}

// Record is what one task used. Times are UTC with microsecond precision.
type Record struct {
	ID         string // ULID, or derived from the content; the key that counts once
	Kind       Kind
	Ref        string // the record a Void or Adjustment corrects
	TaskID     asap.TaskID
	Agent      asap.AgentURN // who worked
	Consumer   asap.AgentURN // who asked
	Verified   bool          // Consumer was authenticated
	Skill      string
	Outcome    Outcome
	TokensIn   Count
	TokensOut  Count
	APICalls   Count
	DurationMS Count // measured by the node; nil in a report that leaves it out and for a task whose node died
	Tokens     Tokens
	Model      string
	Delegation *Delegation
	ParentTask asap.TaskID
	TraceID    string
	Evidence   Evidence
	// CostNanoUSD is nil while no price is known (cost_status "unpriced").
	CostNanoUSD *NanoUSD
	PriceList   string // content hash of the list that priced it
	// Overrun marks an actual cost above the ceiling that was held for it.
	Overrun bool
	// Indeterminate marks a task whose node died: charged its ceiling.
	Indeterminate bool
	// Timestamp is when the task ended, the time every report goes by. A
	// correction carries that of the record it corrects, so that both fall into
	// the same hour.
	Timestamp  time.Time
	ReceivedAt time.Time // when the ledger took it
	Sequence   int64     // position in the ledger, from 1; set by the store
	Reason     string    // why a correction was made; empty on Usage
	// Signature and PublicKey are those of a report an agent signed itself.
	Signature, PublicKey []byte
}

// Filter selects records. Zero members do not restrict. The time range is
// half-open, [Start, End), on Timestamp.
type Filter struct {
	Agent      asap.AgentURN
	Consumer   asap.AgentURN
	TaskID     asap.TaskID
	Skill      string
	Outcome    Outcome
	Delegation string // leaf token id
	// Party restricts to records in which it is the agent or the consumer: what
	// an agent may see.
	Party      asap.AgentURN
	Start, End time.Time
}
