package sqlite

import (
	"context"
	"database/sql"
)

// Integrity is what a look at the pages of a database found.
type Integrity struct {
	// Faults are SQLite's words for what is damaged, at most ten; none: it is whole.
	Faults []string
	// Journal is the journal mode that the file is in; a node writes with "wal".
	Journal string
}

// Integrity looks at every page of the database without changing anything. It
// reads all of the file.
func (s *Store) Integrity(ctx context.Context) (i Integrity, err error) {
	if err := s.readers.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&i.Journal); err != nil {
		return i, explain(s.path, err)
	}
	err = s.read(ctx, func(q *sql.Tx) error {
		rows, err := q.QueryContext(ctx, "PRAGMA integrity_check(10)")
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }() // only read
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				return err
			}
			if line != "ok" {
				i.Faults = append(i.Faults, line)
			}
		}
		return rows.Err()
	})
	if err != nil {
		return i, explain(s.path, err)
	}
	return i, nil
}
