package postgres

import (
	"context"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
)

// Task returns how a task stands; false if it was never admitted here.
func (s *Store) Task(ctx context.Context, id asap.TaskID) (t ledger.EndedTask, found bool, err error) {
	err = s.one(ctx, `SELECT t.consumer, t.verified, d.state, d.failure, d.end_seq, e.id, e.hash, a.answer, t.links
		FROM tasks t LEFT JOIN task_ends d ON d.task_seq = t.seq LEFT JOIN audit_entries e ON e.seq = d.end_seq
		LEFT JOIN answers a ON a.task_seq = t.seq WHERE t.task_id = $1`, func(r *row) error {
		t = ledger.EndedTask{Consumer: asap.AgentURN(r.text(0)), Verified: r.int(1) != 0, State: ledger.TaskState(r.int(2)), Failure: r.text(3),
			Receipt: ledger.Receipt{Seq: r.int(4), EntryID: r.text(5), Hash: r.hash(6)}, Answer: r.blob(7)}
		found = true
		if r.null(8) {
			return nil
		}
		links, err := readPairs(r.bytes(8))
		if err == nil && len(links) > 0 {
			t.Principal = links[0].Issuer
		}
		return err
	}, string(id))
	return t, found, err
}
