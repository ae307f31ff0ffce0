package sqlite

import (
	"context"
	"database/sql"
	"errors"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
)

// Task returns how a task stands; false if it was never admitted here.
func (s *Store) Task(ctx context.Context, id asap.TaskID) (t ledger.EndedTask, found bool, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		var end sql.NullInt64
		var entry, failure sql.NullString
		var hash []byte
		err := q.QueryRowContext(ctx, `SELECT t.consumer, t.verified, t.state, t.failure, t.end_seq, e.id, e.hash, a.answer, coalesce(k.issuer, '')
			FROM tasks t LEFT JOIN audit_entries e ON e.seq = t.end_seq LEFT JOIN answers a ON a.task_seq = t.seq
			LEFT JOIN task_links k ON k.task_seq = t.seq AND k.link = 0 WHERE t.task_id = ?`, string(id)).
			Scan(&t.Consumer, &t.Verified, &t.State, &failure, &end, &entry, &hash, &t.Answer, &t.Principal)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		found, t.Failure = err == nil, failure.String
		t.Receipt = ledger.Receipt{Seq: end.Int64, EntryID: entry.String}
		copy(t.Receipt.Hash[:], hash)
		return err
	})
	return t, found, err
}
