// Package auditlog answers for a stored audit log: it verifies and exports it,
// proves entries of it, signs and prunes it, and compares it with the tables it
// describes.
//
// The model: package audit has the rules and knows no store; a [Store] shows one
// consistent state of a log at a time; a [Log] joins the two with what lies
// outside the store, the log's name, its key and the signer's memory. Only the
// [Sealer] and [Prune] write, through the ledger.
package auditlog

import (
	"context"
	"iter"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// Store is a database with an audit log, seen by somebody who does not trust it.
type Store interface {
	// ReadAudit runs f on one consistent state, on a connection of its own. f must
	// not keep the snapshot. Errors of f are returned unchanged.
	ReadAudit(ctx context.Context, f func(Snapshot) error) error
}

// Snapshot is one state of a stored log, as it was found. Sequences end with
// their first error. It is used by one goroutine at a time; one sequence of each
// kind may be open at once.
type Snapshot interface {
	// Stored describes the log as a whole.
	Stored() (Stored, error)
	// Entries yields the rows with from <= seq < to in ascending seq.
	Entries(from, to int64) iter.Seq2[audit.Row, error]
	// Hashes yields the hashes of the same rows.
	Hashes(from, to int64) iter.Seq2[[32]byte, error]
	// Nodes yields the stored tree nodes of a level with from <= Position < to in
	// ascending Position.
	Nodes(level int, from, to int64) iter.Seq2[audit.TreeNode, error]
	// Checkpoints yields those with from <= size <= to in ascending size.
	Checkpoints(from, to int64) iter.Seq2[audit.CheckpointRow, error]
	// Newest returns the newest checkpoint of at most that size.
	Newest(atMost int64) (row audit.CheckpointRow, found bool, err error)
	// Books returns the tables that the log describes.
	Books() Books
}

// Stored is what a store says about its log besides the entries.
type Stored struct {
	// Head is what the head row says; nil if there is none, as in an empty log.
	Head *audit.HeadRow
	// Rows is one more than the largest seq of an entry, 0 without any.
	Rows  int64
	Prune *audit.Prune // the latest; nil if there was none
	// Nodes is one more than the largest Position of a stored tree node of level
	// audit.NodeSpan, 0 without any.
	Nodes int64
	// GuardsMissing names triggers that are gone or not what they should be.
	GuardsMissing []string
}

// minIndex is the seq of the first entry that should be there.
func (s *Stored) minIndex() int64 {
	if s.Prune == nil {
		return 0
	}
	return s.Prune.MinIndex
}

// size is the number of entries as the head or the rows say, whichever is more.
func (s *Stored) size() int64 {
	if s.Head != nil {
		return max(s.Rows, s.Head.Size)
	}
	return s.Rows
}

// Books are the business tables of the ledger, in the order of the log.
type Books interface {
	// Tasks yields every task by the seq of its task.started entry.
	Tasks() iter.Seq2[Task, error]
	// Records yields every usage record by the seq of its entry.
	Records() iter.Seq2[Record, error]
	// Purged tells whether only the key of the record is left.
	Purged(id string) (bool, error)
	// PurgedBefore tells whether any purged record has an entry before seq.
	PurgedBefore(seq int64) (bool, error)
	// Indexed tells whether the index of URNs has a block of 64 entries.
	Indexed(urn string, block int64) (bool, error)
	// Issued tells whether the token is kept as one that the node signed; Revoked
	// returns the seq of the entry of its revocation, -1 if there is none.
	Issued(key ledger.BudgetKey) (bool, error)
	Revoked(key ledger.BudgetKey) (entrySeq int64, err error)
	// Delegations counts the tokens that the node signed, and the revocations whose
	// entries have at least seq from.
	Delegations(from int64) (issued, revoked int64, err error)
	// Budgets yields every counter.
	Budgets() iter.Seq2[ledger.Budget, error]
	// Rollups yields every cell.
	Rollups() iter.Seq2[ledger.Rollup, error]
}

// Task is what the tables say about a task.
type Task struct {
	Seq      int64
	ID       asap.TaskID
	Consumer asap.AgentURN
	Agent    asap.AgentURN
	State    ledger.TaskState
	EndSeq   int64 // of the entry that ended it; -1 while it is held
	RecordID string
	Charged  *metering.NanoUSD
}

// Record is what the tables say about a usage record.
type Record struct {
	Sequence int64
	ID       string
	EntrySeq int64
	Octets   []byte // canonical form
	// Index is what the columns say that queries go by.
	Index RecordIndex
}

// RecordIndex are the columns of a record that repeat what its octets say.
type RecordIndex struct {
	TimestampUS                                              int64
	Agent, Consumer, TaskID, Skill, Outcome, Delegation, Ref string
}
