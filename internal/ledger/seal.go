package ledger

import (
	"context"
	"fmt"

	"github.com/asap-protocol/asap-go/audit"
)

// StoreCheckpoint keeps a checkpoint that was signed, and tree nodes that are
// complete by then. It is not an entry: the log does not change. The caller has
// checked that it is one of this log.
func (l *Ledger) StoreCheckpoint(ctx context.Context, c audit.CheckpointRow, nodes ...audit.TreeNode) error {
	return l.do(ctx, &storeCheckpoint{row: c, nodes: nodes})
}

type storeCheckpoint struct {
	row   audit.CheckpointRow
	nodes []audit.TreeNode
}

func (o *storeCheckpoint) weight() int        { return 1 }
func (o *storeCheckpoint) needs(*Needs)       {}
func (o *storeCheckpoint) more(*book, *Needs) {}
func (o *storeCheckpoint) apply(b *book) error {
	if o.row.Size > b.head.Size {
		return fmt.Errorf("%w: a checkpoint of %d entries, the log has %d", ErrInvalid, o.row.Size, b.head.Size)
	}
	b.changes.Checkpoints = append(b.changes.Checkpoints, o.row)
	b.changes.TreeNodes = append(b.changes.TreeNodes, o.nodes...)
	return nil
}

// Prune is the removal of the oldest entries of the audit log.
type Prune struct {
	audit.Prune
	From    int64  // minimum index before
	Policy  string // why, as the entry says it
	Archive string // SHA-256 of an archived export in hexadecimal, or ""
}

// PruneAudit removes the entries before p.MinIndex, which the caller has
// verified up to a signed checkpoint. The audit.pruned entry and the row with
// what later proofs need are durable before any entry goes; entries are removed
// a few at a time, and if that is interrupted, the next Open goes on.
func (l *Ledger) PruneAudit(ctx context.Context, p Prune) (Receipt, error) {
	op := &prune{in: p}
	if err := l.do(ctx, op); err != nil {
		return Receipt{}, err
	}
	return op.out, l.removePruned(ctx, l.do)
}

func (l *Ledger) removePruned(ctx context.Context, do func(context.Context, operation) error) error {
	for {
		op := &remove{pruned: true}
		if err := do(ctx, op); err != nil {
			return fmt.Errorf("remove pruned entries: %w", err)
		}
		if op.removed < removeAtOnce {
			return nil
		}
	}
}

type prune struct {
	in  Prune
	out Receipt
}

func (o *prune) weight() int        { return MaxGroup }
func (o *prune) needs(*Needs)       {}
func (o *prune) more(*book, *Needs) {}
func (o *prune) apply(b *book) error {
	in := &o.in
	if in.MinIndex <= in.From || in.MinIndex > in.CheckpointSize || in.CheckpointSize > b.head.Size {
		return fmt.Errorf("%w: prune of entries %d to %d below a checkpoint of %d", ErrInvalid, in.From, in.MinIndex, in.CheckpointSize)
	}
	actor := string(b.ledger.actor())
	var p posting
	if err := b.chain(&p, in.Event(actor, "audit", in.From, in.Policy, in.Archive)); err != nil {
		return err
	}
	b.take(&p)
	row := in.Prune
	row.AtUS = p.entries[0].Timestamp.UnixMicro()
	b.changes.Prune = &row
	o.out = p.receipt(0)
	return nil
}
