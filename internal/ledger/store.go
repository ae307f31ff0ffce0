package ledger

import (
	"context"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/registry"
)

// Store keeps the ledger. The rules are all in this package: a store loads what
// it is asked for and writes what it is told, so that two databases cannot come
// to disagree. [github.com/asap-protocol/asap-go/internal/storetest] holds what
// every implementation must pass.
type Store interface {
	// Update runs f in one exclusive write transaction. What Load returns must
	// not change under f before the transaction ends, seen from any process that
	// writes to the same store.
	//
	//   - nil: everything f wrote is durable (it survives a crash of the machine).
	//   - an error of f is returned unchanged, and nothing of f was kept.
	//   - an error that is ErrOutcomeUnknown: the commit may have happened.
	//   - any other error: nothing was kept and the store can be used again.
	//
	// f is called at most once. Update is not called concurrently.
	Update(ctx context.Context, f func(Tx) error) error
	// Renew says that an instance, a run of a node, is alive. Where several nodes
	// may use the store at once it is kept for [InstanceLease], and Standing.Now is
	// the store's clock; a store of one node returns the zero Standing. lead says
	// that the instance leads or would: leadership is free, or lost by whoever had
	// it and has not renewed it for [LeadLease]. It does not wait for an Update.
	Renew(ctx context.Context, instance string, lead bool) (Standing, error)
	// Leave ends an instance: it is dead and leads no more. A store of one node
	// does nothing.
	Leave(ctx context.Context, instance string) error
	// Close ends the store. No Update may be running.
	Close() error
}

// Tx is one write transaction of a Store.
type Tx interface {
	// Load reads what is named. What does not exist is simply missing from the
	// answer. It may be called several times, before Write.
	Load(ctx context.Context, n *Needs) (*Loaded, error)
	// Write stores changes. It is called at most once.
	Write(ctx context.Context, c *Changes) error
}

// Needs names what a group of operations has to know.
type Needs struct {
	Head      bool // Head and Counters
	Tasks     []asap.TaskID
	Envelopes []EnvelopeKey
	// Answers adds to the tasks found by envelope what a retry is answered.
	Records []string // by id, purged ones too
	// Corrections asks for the corrections whose Ref is one of these.
	Corrections []string
	Budgets     []BudgetKey
	Rollups     []RollupKey
	Revocations []BudgetKey
	// Tokens asks which of these delegation tokens are kept.
	Tokens []BudgetKey
	// HeldTasks asks for at most that many tasks in state Held, oldest first:
	// with HeldExpiredBy set those whose ExpiresAt is set and not after it, with
	// HeldBeside set those of dead instances, asked by an instance that is not. In
	// a store of one node every other instance is dead.
	HeldTasks     int
	HeldExpiredBy time.Time
	HeldBeside    string
	// Entry asks for the hash of the entry with that Seq; nil for none.
	Entry *int64
	// Prunable asks whether entries before the minimum index are still there.
	Prunable bool
	// PurgeBefore asks how many raw records are older.
	PurgeBefore time.Time
	// Agents of the registry, removed ones too.
	Agents []asap.AgentURN
	// Breaches by id, and the open ones of agents.
	Breaches, OpenBreaches []string
}

// EnvelopeKey is the key of an admission.
type EnvelopeKey struct {
	Consumer asap.AgentURN
	Envelope asap.EnvelopeID
}

// Loaded answers Needs.
type Loaded struct {
	// Now is the store's clock, with Head; zero for a store of one node, which goes
	// by the clock of that.
	Now         time.Time
	Head        audit.Head // the zero Head for an empty log
	Counters    Counters
	Tasks       []*Task // found by id, envelope or state; each once
	Records     []*StoredRecord
	Corrections []*StoredRecord
	Budgets     []Budget
	Rollups     []Rollup
	Revocations []Revocation
	Tokens      []BudgetKey // those of Needs.Tokens that are kept
	Purgeable   int64
	Agents      []*registry.Agent // without Manifest and Entry
	Prunable    bool
	Breaches    []Breach  // some may come twice
	Entry       *[32]byte // nil: there is no such entry, or not any more
}

// Counters are the single values of a store.
type Counters struct {
	// Records is how many usage records were ever stored: the sequence of the
	// newest one.
	Records int64
	// Purged is how many of them were removed.
	Purged int64
	// PurgedBefore is the retention mark: raw records older than it are gone or
	// about to go. Zero when nothing was ever purged.
	PurgedBefore time.Time
}

// Task is the stored form of a task.
type Task struct {
	// Seq is the sequence of its task.started entry, and the key of its row.
	Seq        int64
	ID         asap.TaskID
	Consumer   asap.AgentURN
	EnvelopeID asap.EnvelopeID // empty once released: the key is free again
	Digest     [32]byte
	Agent      asap.AgentURN
	Verified   bool
	Skill      string
	ParentTask asap.TaskID
	TraceID    string
	Links      []Link // limits are not loaded
	Ceiling    *metering.NanoUSD
	ExpiresAt  time.Time
	StartedAt  time.Time
	Started    Receipt
	// Instance is the run of a node that admitted it. It is kept while the task is
	// held, and not loaded. To write a new task renews its instance.
	Instance string

	State   TaskState
	EndedAt time.Time
	End     Receipt // of the entry that ended it; EntryID and Hash are empty if that entry was pruned
	// RecordID and Settlement identify what it was settled with.
	RecordID   string
	Settlement [32]byte
	Failure    string
	// Charged is what the links were charged; nil while held, when released, and
	// when nobody knows.
	Charged *metering.NanoUSD
	// Answer is stored beside the task and dropped after its keep time.
	Answer []byte
}

// EndedTask is how a task stands, for those who ask for it by its id.
type EndedTask struct {
	Consumer asap.AgentURN
	Verified bool
	// Principal is the root issuer of the delegation the task was under, or "".
	Principal asap.AgentURN
	State     TaskState
	Failure   string
	// Receipt is zero while the task is held, and names only the sequence if the
	// entry that ended it was pruned.
	Receipt Receipt
	Answer  []byte // nil if there is none any more
}

// StoredRecord is the stored form of a usage record.
type StoredRecord struct {
	Record metering.Record
	// Digest is that of the report, to tell a repetition from a conflict.
	Digest [32]byte
	// Octets is the canonical form; its SHA-256 is the row_hash of the entry.
	Octets []byte
	Entry  Receipt
	// Task is the task that the record settles; nil for a report or a correction.
	// It is not loaded.
	Task *Task
	// Purged tells that only id, digest and entry are left.
	Purged bool
}

// Span is the length of time a rollup covers.
type Span int

// The spans that are maintained. The numbers are stored.
const (
	Hour Span = 0
	Day  Span = 1
	// Month is a calendar month in UTC, which keeps totals over years cheap.
	Month Span = 2
)

// StartUS returns the start of the cell that t falls into, in microseconds since
// 1970.
func (s Span) StartUS(t time.Time) int64 {
	t = t.UTC()
	switch s {
	case Day:
		return t.Truncate(24 * time.Hour).UnixMicro()
	case Month:
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	}
	return t.Truncate(time.Hour).UnixMicro()
}

// RollupKey is one cell of the rollups. Delegated tasks are counted twice over:
// in the cell with an empty Delegation, like every record, and in one of their
// token's own. So totals never have to walk through tokens, which may be as many
// as there are tasks.
type RollupKey struct {
	Span       Span
	StartUS    int64 // see Span.StartUS
	Delegation string
	Agent      asap.AgentURN
	Consumer   asap.AgentURN
	Outcome    metering.Outcome
	Skill      string
}

// Rollup is a cell and what it holds.
type Rollup struct {
	Key  RollupKey
	Sums metering.Sums
}

// Changes is what a group of operations leaves behind, in the order of the
// group. Values are absolute, not differences.
type Changes struct {
	NewTasks   []*Task  // in any state; an Answer that is set is stored
	EndedTasks []*Task  // stored before: State and what follows it changed
	Budgets    []Budget // inserted or replaced
	Records    []*StoredRecord
	Rollups    []Rollup // inserted or replaced
	PriceLists []StoredPriceList
	Agents     []registry.Agent // inserted or replaced, with their keys
	// Breaches are inserted or replaced, and each change is kept in the log of
	// notifications under its Seq.
	Breaches []BreachChange
	// Tokens are kept unless their key is there already, Revocations are new.
	Tokens      []Token
	Revocations []Revocation
	// Warnings are kept unless one of the same token, unit and percentage is.
	Warnings []Warning
	Entries  []audit.Entry // extend the log; the last one is the head
	Counters Counters
	// Checkpoints are signed notes to keep beside the log.
	Checkpoints []audit.CheckpointRow
	// TreeNodes are kept for proofs, unless the store has one at that place.
	TreeNodes []audit.TreeNode
	// Prune moves the minimum index of the log; the entries before it are removed
	// by RemovePruned.
	Prune *audit.Prune
	// PurgeBefore moves the retention mark; the rows behind it are removed by
	// RemovePurged.
	PurgeBefore time.Time
	// RemovePurged removes at most that many raw records behind the mark and
	// keeps their ids; RemovePruned that many entries before the minimum index;
	// DropAnswers that many answers older than DropAnswersBefore. They report what
	// they did through Removed.
	RemovePurged      int
	RemovePruned      int
	DropAnswers       int
	DropAnswersBefore time.Time
	Removed           *int64
}

// News is what a log has gained behind a position, for a node that follows it. All
// of it is of one moment.
type News struct {
	// Head is the seq of the newest entry; -1 for an empty log.
	Head int64
	// Records is the sequence of the newest usage record.
	Records int64
	// Agents are those that changed behind the position, removed ones too, as they
	// are now, parsed; Revocations those that were made. Each in the order of the log.
	Agents      []registry.Agent
	Revocations []Revocation
	// Breaches and Warnings tell whether there are changes of breaches, and warnings
	// of limits, behind the position.
	Breaches, Warnings bool
}

// StoredPriceList is a price list as the records that it priced refer to it.
type StoredPriceList struct {
	Hash      string
	Agent     asap.AgentURN
	Canonical []byte
	At        time.Time
}
