package slawatch

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sla"
)

// Kinds of inputs.
const (
	kindRegister = "register"
	kindPromise  = "promise"
	kindRemove   = "remove"
	kindProbe    = "probe"
	kindExclude  = "maintenance"
	kindInclude  = "maintenance_withdrawn"
	kindTasks    = "tasks"
	kindTime     = "time" // has passed
)

// Input is one thing the engine is told. At is the instant at which it is.
type Input struct {
	Seq  int64       `json:"-"`
	At   sla.Instant `json:"-"`
	Kind string      `json:"kind"`
	// Agent is whom it concerns; empty for tasks.
	Agent string `json:"agent,omitempty"`

	IntervalMS int64          `json:"interval_ms,omitzero"` // register
	TTLMS      int64          `json:"ttl_ms,omitzero"`      // register
	Zone       string         `json:"tz,omitempty"`         // register
	SLA        jsontext.Value `json:"sla,omitempty"`        // promise; none promises nothing
	State      sla.State      `json:"state,omitzero"`       // probe
	Observer   string         `json:"observer,omitempty"`   // probe
	ProbedAt   sla.Instant    `json:"probed_at,omitzero"`   // probe
	Exclusion  *sla.Exclusion `json:"exclusion,omitempty"`  // maintenance; only its id, if it is withdrawn
	// From and To are the first and last usage record that were taken.
	From int64 `json:"from,omitzero"`
	To   int64 `json:"to,omitzero"`

	// told hears what the rules say to it; nil if nobody waits for that.
	told chan<- error
}

// Position is up to where a stored state knows everything.
type Position struct {
	At      sla.Instant
	Input   int64 // the last input
	Records int64 // the last usage record
}

// Saved is what a store holds: a state, and the inputs after it.
type Saved struct {
	// Known is false for a store without a state. Position.Records is then the
	// newest usage record.
	Known    bool
	Position Position
	Agents   []sla.AgentState // some may know more than Position says: see their Mark
	Seen     []sla.SeenTasks
	Inputs   []Input // in order
}

// Checkpoint replaces a part of a stored state.
type Checkpoint struct {
	// Position is up to where the state is complete then; inputs up to it are of no
	// use any more.
	Position Position
	// Journal is the last input in the journal, as far as the writer knows.
	Journal int64
	// Agents are those that changed; the others stay.
	Agents []sla.AgentState
	// Seen are the hours that changed; those before SeenSince go.
	Seen      []sla.SeenTasks
	SeenSince sla.Instant
	// Buckets are inserted or replaced; those of a tier before its entry in Expire go.
	Buckets []sla.Bucket
	Expire  map[sla.Tier]sla.Instant
}

// TaskEnd is a usage record as far as it tells how a task ended.
type TaskEnd struct {
	Record     int64
	Agent      string
	TaskID     string
	Outcome    string
	Failure    string // code, if the task ran on this node
	EndedAt    sla.Instant
	DurationMS *int64
	// Observed tells that the node saw the task end itself: the ledger has no
	// other record of its end.
	Observed bool
	// Delegation is the id of the token that the task ran under; empty for none.
	Delegation string
}

// ErrFenced reports that somebody else has written to the journal, or made a state
// the stored one: what this watch knows is not all, and it must not go on writing.
var ErrFenced = errors.New("another node has written service levels")

// Store keeps the state. All methods are safe for concurrent use, by several nodes
// too where they share it, and what returned nil is durable.
type Store interface {
	// LoadSLA returns everything that is needed to go on.
	LoadSLA(ctx context.Context) (*Saved, error)
	// JournalSLA appends inputs, which are of one instant. It is ErrFenced, and
	// nothing is stored, unless the first one's Seq is the next (after the last one
	// in the journal and the stored position) and its At not before the last one's
	// and the position's.
	JournalSLA(ctx context.Context, inputs []Input) error
	// CheckpointSLA makes what it is given part of the stored state, in one
	// transaction. The inputs up to the position that was stored before may be
	// forgotten a while later: who follows the journal needs the newer ones. It is
	// ErrFenced, and nothing is stored, unless Checkpoint.Journal is the last in the
	// journal, and neither Input nor At of the position before those of the stored one.
	CheckpointSLA(ctx context.Context, c *Checkpoint) error
	// SLAJournal returns at most limit inputs after one, in order, and the stored
	// position (zero: none), both of one moment.
	SLAJournal(ctx context.Context, after int64, limit int) ([]Input, Position, error)
	// SLABuckets returns the buckets of a tier that start in [from, until), of one
	// agent or, with "", of all; ordered by start.
	SLABuckets(ctx context.Context, tier sla.Tier, agent string, from, until sla.Instant) ([]sla.Bucket, error)
	// TaskEnds returns at most limit ends of tasks, from the usage records after
	// the given one up to another, in order; 0 is no end. Corrections are none.
	TaskEnds(ctx context.Context, after, until int64, limit int) (ends []TaskEnd, last int64, err error)
}

// BreachFilter selects breaches. Zero values select all.
type BreachFilter struct {
	Agents     []string // nil: of all
	Objective  sla.Objective
	Severity   sla.Severity // highest reached
	Open       *bool
	Start, End sla.Instant // overlap [Start, End); 0 is open
	// DetectedFrom and DetectedUntil bound when a breach was detected, inclusive.
	DetectedFrom, DetectedUntil sla.Instant
	Ascending                   bool // by DetectedAt, instead of newest start first
	After                       *BreachPlace
	Limit                       int // 0: all
}

// BreachPlace is where a page ended.
type BreachPlace struct {
	StartedAt sla.Instant `json:"started_at"`
	ID        string      `json:"id"`
}

// Log is what was recorded of breaches.
type Log interface {
	// Breaches returns the selected ones, and how many are selected without After
	// and Limit.
	Breaches(ctx context.Context, f BreachFilter) (list []ledger.Breach, total int, err error)
	// BreachChanges returns at most limit changes after a position, in order.
	BreachChanges(ctx context.Context, after int64, limit int) ([]ledger.BreachChange, error)
	// LastBreachChange is the position of the newest change; -1 if there is none.
	LastBreachChange(ctx context.Context) (int64, error)
}

// Deliveries keeps how far sinks have got.
type Deliveries interface {
	// Delivered is the last change that a sink is done with. A sink that is not
	// known begins after the newest.
	Delivered(ctx context.Context, sink string) (seq int64, err error)
	// SetDelivered says that a sink is done with a change; letter tells that it
	// could not be delivered.
	SetDelivered(ctx context.Context, sink string, seq int64, letter *DeadLetter) error
}

// DeadLetter is a change that a sink could not get rid of.
type DeadLetter struct {
	At       sla.Instant
	Attempts int
	Error    string
}
