package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"iter"
	"slices"

	"github.com/asap-protocol/asap-go/audit"
)

// guards are the triggers that keep hands off.
var guards = [...]string{"audit_checkpoints_no_delete", "audit_checkpoints_no_update", "audit_entries_no_delete", "audit_entries_no_replace",
	"audit_entries_no_update", "usage_records_no_delete", "usage_records_no_replace", "usage_records_no_update"}

// VerifyAudit verifies the whole log, with its index columns, head, checkpoints
// and guards, in one snapshot and constant memory. What is wrong with the log is
// in the verdict; an error means that it could not be read.
func (s *Store) VerifyAudit(ctx context.Context, origin string, o audit.Options) (verdict audit.Verdict, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		source := audit.Source{Origin: origin, Rows: logRows(ctx, q), Checkpoints: checkpointRows(ctx, q)}
		head := audit.HeadRow{}
		var hash []byte
		switch err := q.QueryRowContext(ctx, `SELECT seq + 1, hash FROM audit_head`).Scan(&head.Size, &hash); {
		case err == nil:
			copy(head.Hash[:], hash)
			source.Head = &head
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		if source.Prune, err = newestPrune(ctx, q); err != nil {
			return err
		}
		if source.GuardsMissing, err = missingGuards(ctx, q); err != nil {
			return err
		}
		verdict, err = audit.Verify(source, o)
		return err
	})
	return verdict, err
}

func logRows(ctx context.Context, q *sql.Tx) iter.Seq2[audit.Row, error] {
	return func(yield func(audit.Row, error) bool) {
		rows, err := q.QueryContext(ctx, `SELECT seq, octets, hash, id, timestamp_us, event_type, actor, subject FROM audit_entries ORDER BY seq`)
		if err != nil {
			yield(audit.Row{}, err)
			return
		}
		defer rows.Close() //nolint:errcheck // its error is that of Err
		for rows.Next() {
			row := audit.Row{Columns: &audit.Columns{}}
			c := row.Columns
			err := rows.Scan(&row.Seq, &row.Octets, &row.Hash, &c.ID, &c.TimestampUS, &c.EventType, &c.Actor, &c.Subject)
			if !yield(row, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(audit.Row{}, err)
		}
	}
}

func checkpointRows(ctx context.Context, q *sql.Tx) iter.Seq2[audit.CheckpointRow, error] {
	return func(yield func(audit.CheckpointRow, error) bool) {
		for after, id := int64(-1), int64(-1); ; {
			var row audit.CheckpointRow
			var root []byte
			err := q.QueryRowContext(ctx, `SELECT rowid, size, root, note FROM audit_checkpoints INDEXED BY audit_checkpoints_size
				WHERE size >= ? AND (size, rowid) > (?, ?) ORDER BY size, rowid LIMIT 1`, after, after, id).Scan(&id, &row.Size, &root, &row.Note)
			if errors.Is(err, sql.ErrNoRows) {
				return
			}
			copy(row.Root[:], root)
			if !yield(row, err) || err != nil {
				return
			}
			after = row.Size
		}
	}
}

func newestPrune(ctx context.Context, q *sql.Tx) (*audit.Prune, error) {
	var p audit.Prune
	var head, compact []byte
	err := q.QueryRowContext(ctx, `SELECT min_index, head_hash, compact_range, checkpoint_size, at_us FROM audit_prune ORDER BY min_index DESC LIMIT 1`).
		Scan(&p.MinIndex, &head, &compact, &p.CheckpointSize, &p.AtUS)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	copy(p.HeadHash[:], head)
	for hash := range slices.Chunk(compact, len(audit.Hash{})) {
		p.CompactRange = append(p.CompactRange, audit.Hash(append(hash[:len(hash):len(hash)], make([]byte, len(audit.Hash{})-len(hash))...)))
	}
	return &p, err
}

func missingGuards(ctx context.Context, q *sql.Tx) ([]string, error) {
	var missing []string
	for _, name := range guards {
		var there bool
		if err := q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = ?)`, name).Scan(&there); err != nil {
			return nil, err
		}
		if !there {
			missing = append(missing, name)
		}
	}
	return missing, nil
}
