package auditlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"

	"github.com/asap-protocol/asap-go/audit"
)

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// exportPage is how many entries an export holds in memory.
const exportPage = 1000

// Export writes the log as it is at the start, in constant memory. It reads page
// by page, so that a slow reader holds up nothing; entries never change, so the
// pages fit together. A prune that overtakes it ends it with audit.ErrPruned.
func (l *Log) Export(ctx context.Context, w io.Writer, format audit.Format) error {
	var stored Stored
	var sealed audit.CheckpointRow // one of more entries than there are is evidence
	if err := l.store.ReadAudit(ctx, func(s Snapshot) (err error) {
		if stored, err = s.Stored(); err != nil {
			return err
		}
		sealed, _, err = s.Newest(math.MaxInt64)
		return err
	}); err != nil {
		return fmt.Errorf("export the audit log: %w", err)
	}
	size := stored.size()
	out, err := audit.NewExporter(w, format, audit.NewHeader(l.origin, l.vkey, size, stored.Prune))
	if err != nil {
		return err
	}
	page := make([]audit.Row, 0, exportPage)
	for from := stored.minIndex(); from < size; {
		page = page[:0]
		err := l.store.ReadAudit(ctx, func(s Snapshot) error {
			now, err := s.Stored()
			if err != nil {
				return err
			}
			if now.minIndex() > from {
				return fmt.Errorf("the export is overtaken: %w", audit.ErrPruned)
			}
			for row, err := range s.Entries(from, min(size, from+exportPage)) {
				if err != nil {
					return err
				}
				page = append(page, audit.Row{Seq: row.Seq, Octets: bytes.Clone(row.Octets), Hash: bytes.Clone(row.Hash)})
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("export the audit log: %w", err)
		}
		for _, row := range page {
			var hash [32]byte
			copy(hash[:], row.Hash)
			if err := out.Entry(row.Seq, row.Octets, hash); err != nil {
				return err
			}
		}
		from = min(size, from+exportPage)
	}
	if err := l.exportCheckpoints(ctx, out, max(size, sealed.Size)); err != nil {
		return err
	}
	return out.Close()
}

func (l *Log) exportCheckpoints(ctx context.Context, out *audit.Exporter, size int64) error {
	// Several may have one size: those of a page's last size are read at once.
	for from := int64(0); from <= size; {
		var page []audit.CheckpointRow
		err := l.store.ReadAudit(ctx, func(s Snapshot) error {
			for row, err := range s.Checkpoints(from, size) {
				if err != nil {
					return err
				}
				if len(page) >= exportPage && row.Size > page[len(page)-1].Size {
					break
				}
				page = append(page, row)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("export the checkpoints: %w", err)
		}
		if len(page) == 0 {
			return nil
		}
		for _, row := range page {
			if err := out.Checkpoint(row.Note); err != nil {
				return err
			}
		}
		from = page[len(page)-1].Size + 1
	}
	return nil
}

// Checkpoint returns the newest signed checkpoint, nil if there is none yet.
func (l *Log) Checkpoint(ctx context.Context) (note []byte, err error) {
	err = l.store.ReadAudit(ctx, func(s Snapshot) error {
		row, _, err := s.Newest(math.MaxInt64)
		note = row.Note
		return err
	})
	return note, err
}

// Inclusion is a proof that an entry is in the tree of Size entries.
type Inclusion struct {
	Seq, Size int64
	Hash      [32]byte // of the entry
	Root      audit.Hash
	Hashes    []audit.Hash
	// Checkpoint is the signed note of this size; nil if there is none.
	Checkpoint []byte
}

// ProveInclusion proves that the entry seq is in the tree of size entries; size 0
// stands for the newest checkpoint. Sizes and entries that are not there are
// ErrRange, pruned ones audit.ErrPruned.
func (l *Log) ProveInclusion(ctx context.Context, seq, size int64) (p Inclusion, err error) {
	err = l.store.ReadAudit(ctx, func(s Snapshot) error {
		stored, err := s.Stored()
		if err != nil {
			return err
		}
		sealed, err := at(s, &stored, &size)
		if err != nil {
			return err
		}
		switch {
		case seq < 0 || seq >= stored.size():
			return fmt.Errorf("%w: there is no entry %d", ErrRange, seq)
		case seq < stored.minIndex():
			return fmt.Errorf("entry %d: %w", seq, audit.ErrPruned)
		case seq >= size:
			return fmt.Errorf("%w: entry %d is not among the first %d entries", ErrRange, seq, size)
		}
		p = Inclusion{Seq: seq, Size: size, Checkpoint: sealed.Note}
		read, root, err := treeOf(s, &stored, size, sealed)
		if err != nil {
			return err
		}
		p.Root = root
		if p.Hash, _, err = firstOf(s.Hashes(seq, seq+1)); err != nil {
			return err
		}
		if p.Hashes, err = audit.ProveInclusion(size, seq, read); err != nil {
			return err
		}
		return audit.CheckInclusion(p.Hashes, size, root, seq, p.Hash)
	})
	return p, err
}

// Proof is the inclusion proof as a C2SP tlog-proof under the newest checkpoint.
// A log without one that covers the entry yet is ErrRange.
func (l *Log) Proof(ctx context.Context, seq int64) ([]byte, error) {
	p, err := l.ProveInclusion(ctx, seq, 0)
	if err != nil {
		return nil, err
	}
	return audit.Proof{Seq: seq, Hashes: p.Hashes, Checkpoint: p.Checkpoint}.Format(), nil
}

// Consistency is a proof that the tree of Old entries is a prefix of that of New.
type Consistency struct {
	Old, New         int64
	OldRoot, NewRoot audit.Hash
	Hashes           []audit.Hash
	// OldCheckpoint and NewCheckpoint are signed notes of these sizes, nil if
	// there are none.
	OldCheckpoint, NewCheckpoint []byte
}

// ProveConsistency proves that the first sizes of the log belong together. newer
// 0 stands for the newest checkpoint.
func (l *Log) ProveConsistency(ctx context.Context, older, newer int64) (p Consistency, err error) {
	err = l.store.ReadAudit(ctx, func(s Snapshot) error {
		stored, err := s.Stored()
		if err != nil {
			return err
		}
		sealed, err := at(s, &stored, &newer)
		if err != nil {
			return err
		}
		switch {
		case older < 0 || older > newer:
			return fmt.Errorf("%w: size %d is not one before %d", ErrRange, older, newer)
		case older > 0 && older < stored.minIndex():
			return fmt.Errorf("size %d: %w", older, audit.ErrPruned)
		}
		p = Consistency{Old: older, New: newer, NewCheckpoint: sealed.Note}
		read, root, err := treeOf(s, &stored, newer, sealed)
		if err != nil {
			return err
		}
		p.NewRoot = root
		if p.OldRoot, err = read.root(older); err != nil {
			return err
		}
		before, found, err := s.Newest(older)
		if err != nil {
			return err
		}
		if found && before.Size == older {
			p.OldCheckpoint = before.Note
		}
		if p.Hashes, err = audit.ProveConsistency(older, newer, read); err != nil {
			return err
		}
		return audit.CheckConsistency(p.Hashes, audit.Checkpoint{Size: older, Root: p.OldRoot}, audit.Checkpoint{Size: newer, Root: root})
	})
	return p, err
}

// at resolves size 0 to the newest checkpoint and returns the one of the size.
func at(s Snapshot, stored *Stored, size *int64) (audit.CheckpointRow, error) {
	atMost := *size
	if atMost == 0 {
		atMost = stored.size()
	}
	if atMost < 0 || atMost > stored.size() {
		return audit.CheckpointRow{}, fmt.Errorf("%w: it has %d entries", ErrRange, stored.size())
	}
	row, found, err := s.Newest(atMost)
	switch {
	case err != nil:
		return row, err
	case *size == 0 && !found:
		return row, fmt.Errorf("%w: it has no checkpoint yet", ErrRange)
	case *size == 0:
		*size = row.Size
	case !found || row.Size != *size:
		row = audit.CheckpointRow{}
	}
	return row, nil
}
