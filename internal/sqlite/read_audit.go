package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
)

// entryTime is when an entry was made; no row if it is not there.
const entryTime = `SELECT timestamp_us FROM audit_entries WHERE seq = ?`

// seqAt finds the first entry at or after a time by halving: times never go
// back along the log, so no index on them is needed.
func seqAt(timeOf func(seq int64) (int64, error), size, us int64) (int64, error) {
	lo, hi := int64(0), size
	for lo < hi {
		mid := lo + (hi-lo)/2
		at, err := timeOf(mid)
		switch {
		case errors.Is(err, sql.ErrNoRows): // pruned, so older than what is kept
			at = math.MinInt64
		case err != nil:
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

// urnQuery finds the entries of the blocks that concern a URN. The blocks of a
// chunk are as many as hold at least its number of entries.
const urnQuery = `SELECT e.seq, e.octets, e.hash FROM audit_blocks b CROSS JOIN audit_entries e ON e.seq >= b.block * 64 AND e.seq < b.block * 64 + 64
	WHERE b.urn = ?1 AND b.block >= ?2 / 64 AND e.seq >= ?2 AND e.seq < ?3 ORDER BY b.block, e.seq LIMIT ?4`

// subjectQuery finds the entries of a task through its row and its records, and
// the others through their index.
const subjectQuery = `WITH s (seq) AS (SELECT seq FROM tasks WHERE task_id = ?1
	UNION SELECT end_seq FROM tasks WHERE task_id = ?1
	UNION SELECT end_seq + 1 FROM tasks WHERE task_id = ?1 AND record_id IS NOT NULL
	UNION SELECT entry_seq FROM usage_records WHERE task_seq IS NULL AND task_id = ?1
	UNION SELECT entry_seq FROM purged_records WHERE task_id = ?1
	UNION SELECT seq FROM audit_entries INDEXED BY audit_entries_subject WHERE subject = ?1
		AND event_type <> 'task.started' AND event_type <> 'task.completed' AND event_type <> 'task.failed'
		AND event_type <> 'task.released' AND event_type <> 'usage.recorded' AND event_type <> 'usage.corrected')
	SELECT e.seq, e.octets, e.hash FROM s JOIN audit_entries e ON e.seq = s.seq WHERE e.seq >= ?2 AND e.seq < ?3 ORDER BY e.seq LIMIT ?4`

// ListAudit returns at most limit matching entries in ascending Seq from
// position from on, and the size of the log. It answers from the octets: a row
// whose index columns say something else is not served under that filter.
func (s *Store) ListAudit(ctx context.Context, f audit.Filter, from int64, limit int) (entries []audit.Entry, size int64, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		if size, err = auditSize(ctx, q); err != nil {
			return err
		}
		until := size
		timeOf := func(seq int64) (us int64, err error) {
			return us, q.QueryRowContext(ctx, entryTime, seq).Scan(&us)
		}
		if !f.Start.IsZero() {
			first, err := seqAt(timeOf, size, ledger.CeilUS(f.Start))
			if err != nil {
				return err
			}
			from = max(from, first)
		}
		if !f.End.IsZero() {
			if until, err = seqAt(timeOf, size, ledger.CeilUS(f.End)); err != nil {
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
func auditPage(ctx context.Context, q *sql.Tx, f *audit.Filter, from, until int64, limit int, entries *[]audit.Entry) (int64, error) {
	const columns = `SELECT e.seq, e.octets, e.hash FROM audit_entries e`
	const within = ` AND e.seq >= ?2 AND e.seq < ?3 ORDER BY e.seq LIMIT ?4`
	args := []any{"", from, until, auditChunk}
	query := columns + ` WHERE ?1 = ''` + within
	switch urn := cmp.Or(f.Actor, f.Agent, f.Party); {
	case f.Subject != "":
		query, args[0] = subjectQuery, f.Subject
	case urn != "":
		query, args[0] = urnQuery, urn
	case slices.Contains(commonTypes, f.Type):
		query, args[0] = columns+` NOT INDEXED WHERE e.event_type = ?1`+within, f.Type
	case f.Type != "":
		query, args[0] = columns+` INDEXED BY audit_entries_type WHERE e.event_type = ?1
			AND e.event_type <> 'task.started' AND e.event_type <> 'task.completed' AND e.event_type <> 'usage.recorded'`+within, f.Type
	}
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close() //nolint:errcheck // its error is that of Err
	read := 0
	for rows.Next() {
		read++
		var hash []byte
		var octets []byte
		if err := rows.Scan(&from, &octets, &hash); err != nil {
			return 0, err
		}
		from++
		e, err := audit.ParseEntry(octets)
		if err != nil {
			return 0, fmt.Errorf("audit entry %d: %w: %w", from-1, errDamaged, err)
		}
		if !matches(f, &e) {
			continue
		}
		// The stored hash is shown, so that a page of edited octets does not verify.
		copy(e.Hash[:], hash)
		if *entries = append(*entries, e); len(*entries) == limit {
			return from, rows.Close()
		}
	}
	if read < auditChunk {
		from = until
	}
	return from, rows.Err()
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
func auditSize(ctx context.Context, q *sql.Tx) (int64, error) {
	var size int64
	err := q.QueryRowContext(ctx, `SELECT coalesce(max(seq) + 1, 0) FROM audit_head`).Scan(&size)
	return size, err
}

// AuditEntry returns the entry with that id, or audit.ErrNoEntry. Ids grow along
// the log, so it is found by halving.
func (s *Store) AuditEntry(ctx context.Context, id string) (e audit.Entry, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		size, err := auditSize(ctx, q)
		if err != nil {
			return err
		}
		lo, hi := int64(0), size
		for lo < hi {
			mid := lo + (hi-lo)/2
			var seq int64
			var octets, hash []byte
			var at string
			err := q.QueryRowContext(ctx, `SELECT seq, id, octets, hash FROM audit_entries WHERE seq >= ? ORDER BY seq LIMIT 1`, mid).Scan(&seq, &at, &octets, &hash)
			switch {
			case errors.Is(err, sql.ErrNoRows):
				hi = mid
				continue
			case err != nil:
				return err
			case at == id:
				if e, err = audit.ParseEntry(octets); err != nil {
					return fmt.Errorf("audit entry %d: %w: %w", seq, errDamaged, err)
				}
				copy(e.Hash[:], hash)
				return nil
			case at < id:
				lo = seq + 1
			default:
				hi = mid
			}
		}
		return fmt.Errorf("%w: %s", audit.ErrNoEntry, id)
	})
	return e, err
}
