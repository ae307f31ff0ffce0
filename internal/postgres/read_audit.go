package postgres

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
)

// seqAt finds the first entry at or after a time by halving: times never go
// back along the log, so no index on them is needed.
func seqAt(ctx context.Context, q querier, size, us int64) (int64, error) {
	lo, hi := int64(0), size
	for lo < hi {
		mid := lo + (hi-lo)/2
		at := int64(math.MinInt64) // pruned, so older than what is kept
		if err := query(ctx, q, `SELECT timestamp_us FROM audit_entries WHERE seq = $1`, func(r *row) error { at = r.int(0); return nil }, mid); err != nil {
			return 0, err
		}
		if at < us {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, nil
}

// commonTypes are found by walking the log; the index holds the others.
var commonTypes = []string{audit.TaskStarted, audit.TaskCompleted, audit.UsageRecorded}

// urnQuery finds the entries of the blocks that concern a URN.
const urnQuery = `SELECT e.seq, e.octets, e.hash FROM audit_blocks b
	CROSS JOIN LATERAL (SELECT seq, octets, hash FROM audit_entries WHERE seq >= b.block * 64 AND seq < b.block * 64 + 64) e
	WHERE b.urn = $1 AND b.block >= $2 / 64 AND e.seq >= $2 AND e.seq < $3 ORDER BY b.block, e.seq LIMIT $4`

// subjectQuery finds the entries of a task through its row and its records, and
// the others through their index.
const subjectQuery = `WITH s (seq) AS MATERIALIZED (SELECT seq FROM tasks WHERE task_id = $1
	UNION SELECT d.end_seq FROM tasks t JOIN task_ends d ON d.task_seq = t.seq WHERE t.task_id = $1
	UNION SELECT d.end_seq + 1 FROM tasks t JOIN task_ends d ON d.task_seq = t.seq WHERE t.task_id = $1 AND d.record_id IS NOT NULL
	UNION SELECT entry_seq FROM usage_records WHERE task_seq IS NULL AND task_id = $1
	UNION SELECT entry_seq FROM usage_ids WHERE purged AND task_id = $1
	UNION SELECT seq FROM audit_entries WHERE subject = $1
		AND event_type NOT IN ('task.started', 'task.completed', 'task.failed', 'task.released', 'usage.recorded', 'usage.corrected'))
	SELECT e.seq, e.octets, e.hash FROM audit_entries e WHERE e.seq = ANY (ARRAY(SELECT seq FROM s)) AND e.seq >= $2 AND e.seq < $3 ORDER BY e.seq LIMIT $4`

// ListAudit returns at most limit matching entries in ascending Seq from
// position from on, and the size of the log. It answers from the octets: a row
// whose index columns say something else is not served under that filter.
func (s *Store) ListAudit(ctx context.Context, f audit.Filter, from int64, limit int) (entries []audit.Entry, size int64, err error) {
	err = s.read(ctx, func(q pgx.Tx) error {
		if size, err = auditSize(ctx, q); err != nil {
			return err
		}
		until := size
		if !f.Start.IsZero() {
			first, err := seqAt(ctx, q, size, ledger.CeilUS(f.Start))
			if err != nil {
				return err
			}
			from = max(from, first)
		}
		if !f.End.IsZero() {
			if until, err = seqAt(ctx, q, size, ledger.CeilUS(f.End)); err != nil {
				return err
			}
		}
		for len(entries) < limit && from < until {
			from, err = auditPage(ctx, q, &f, from, until, limit, &entries)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return entries, size, err
}

// auditChunk is how many candidates are read at once.
const auditChunk = 512

// auditPage adds matching entries until there are limit, and returns where to go
// on. What drives the query is the filter that leaves fewest rows; the others
// are applied to the octets.
func auditPage(ctx context.Context, q querier, f *audit.Filter, from, until int64, limit int, entries *[]audit.Entry) (int64, error) {
	const columns = `SELECT e.seq, e.octets, e.hash FROM audit_entries e`
	const within = ` AND e.seq >= $2 AND e.seq < $3 ORDER BY e.seq LIMIT $4`
	args := []any{"", from, until, auditChunk}
	sql := columns + ` WHERE $1 = ''::text` + within
	switch urn := cmp.Or(f.Actor, f.Agent, f.Party); {
	case f.Subject != "":
		sql, args[0] = subjectQuery, f.Subject
	case urn != "":
		sql, args[0] = urnQuery, urn
	case slices.Contains(commonTypes, f.Type):
		sql, args[0] = columns+` WHERE e.event_type = $1`+within, f.Type
	case f.Type != "":
		sql, args[0] = columns+` WHERE e.event_type = $1 AND e.event_type NOT IN ('task.started', 'task.completed', 'usage.recorded')`+within, f.Type
	}
	read := 0
	err := query(ctx, q, sql, func(r *row) error {
		read++
		from = r.int(0) + 1
		e, err := audit.ParseEntry(r.blob(1))
		if err != nil {
			return fmt.Errorf("audit entry %d: %w: %w", r.int(0), errDamaged, err)
		}
		if !matches(f, &e) {
			return nil
		}
		// The stored hash is shown, so that a page of edited octets does not verify.
		e.Hash = r.hash(2)
		if *entries = append(*entries, e); len(*entries) == limit {
			return errEnough
		}
		return nil
	}, args...)
	switch {
	case isEnough(err):
		return from, nil
	case err != nil:
		return 0, err
	case read < auditChunk:
		return until, nil
	}
	return from, nil
}

// matches tells whether the octets of an entry say what the filter asks for.
func matches(f *audit.Filter, e *audit.Entry) bool {
	return (f.Actor == "" || f.Actor == e.Actor) &&
		(f.Subject == "" || f.Subject == e.Subject) &&
		(f.Type == "" || f.Type == e.Type) &&
		concerns(e, f.Party) && concerns(e, f.Agent) &&
		(f.Start.IsZero() || !e.Timestamp.Before(f.Start)) &&
		(f.End.IsZero() || e.Timestamp.Before(f.End))
}

// concerns tells whether an entry is about a party; "" is anybody.
func concerns(e *audit.Entry, party string) bool {
	return party == "" || party == e.Actor || party == e.Subject || slices.Contains(e.Parties, party)
}

// auditSize returns how many entries were ever appended.
func auditSize(ctx context.Context, q querier) (size int64, err error) {
	err = query(ctx, q, `SELECT seq + 1 FROM ledger_head`, func(r *row) error { size = r.int(0); return nil })
	return size, err
}

// AuditEntry returns the entry with that id, or audit.ErrNoEntry. Ids grow along
// the log, so it is found by halving.
func (s *Store) AuditEntry(ctx context.Context, id string) (e audit.Entry, err error) {
	err = s.read(ctx, func(q pgx.Tx) error {
		size, err := auditSize(ctx, q)
		if err != nil {
			return err
		}
		lo, hi := int64(0), size
		for lo < hi {
			mid := lo + (hi-lo)/2
			found, at, seq := false, "", int64(0)
			if err := query(ctx, q, `SELECT seq, id, octets, hash FROM audit_entries WHERE seq >= $1 ORDER BY seq LIMIT 1`, func(r *row) error {
				found, seq, at = true, r.int(0), r.text(1)
				if at != id {
					return nil
				}
				var err error
				if e, err = audit.ParseEntry(r.blob(2)); err != nil {
					return fmt.Errorf("audit entry %d: %w: %w", seq, errDamaged, err)
				}
				e.Hash = r.hash(3)
				return nil
			}, mid); err != nil {
				return err
			}
			switch {
			case !found || at > id:
				hi = mid
			case at == id:
				return nil
			default:
				lo = seq + 1
			}
		}
		return fmt.Errorf("%w: %s", audit.ErrNoEntry, id)
	})
	return e, err
}
