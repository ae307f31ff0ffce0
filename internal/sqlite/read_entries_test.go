package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
)

// laxLog is a database whose audit_entries takes anything, as somebody can make
// it who writes to the file.
func laxLog(t testing.TB) (*Store, *sql.DB) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "asap.db")
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	db, err := sql.Open("sqlite", fileDSN(path, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := db.ExecContext(t.Context(), `PRAGMA synchronous = OFF; DROP TABLE audit_entries;
		CREATE TABLE audit_entries (seq INTEGER PRIMARY KEY, id, timestamp_us, event_type, actor, subject, octets, hash)`); err != nil {
		t.Fatal(err)
	}
	return s, db
}

// shown is a row with nothing shared.
func shown(r audit.Row) string {
	return fmt.Sprintf("%d %q %x %+v", r.Seq, r.Octets, r.Hash, *r.Columns)
}

// both reads a range packed and row by row.
func both(ctx context.Context, s *Store, from, to int64) (fast, slow []string, err error) {
	err = s.ReadAudit(ctx, func(v auditlog.Snapshot) error {
		for r, err := range v.Entries(from, to) {
			if err != nil {
				return err
			}
			fast = append(fast, shown(r))
		}
		for r, err := range v.(*snapshot).eachEntry(from, to) {
			if err != nil {
				return err
			}
			slow = append(slow, shown(r))
		}
		return nil
	})
	return fast, slow, err
}

// Whatever a table holds, a page read at once has the rows it has when they are
// read one by one: separators in columns, nulls, gaps, other types, wrong sizes.
func TestEntriesAtOnceAndOneByOne(t *testing.T) {
	s, db := laxLog(t)
	odd := []any{nil, "", "\t", "\n", "x\ty", "a\nb", "\x00", int64(7), int64(-7), 1.5, "7", "07", "+7", []byte("blob"), []byte{0xff, '\t'}, "é"}
	hashes := []any{nil, []byte{}, bytes.Repeat([]byte{9}, 31), bytes.Repeat([]byte{10}, 33), bytes.Repeat([]byte("h"), 64), "text"}
	names := []string{"id", "timestamp_us", "event_type", "actor", "subject", "octets", "hash"}
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		do := func(statement string, args ...any) {
			if _, err := db.ExecContext(ctx, statement, args...); err != nil {
				t.Fatal(err)
			}
		}
		first := rapid.SampledFrom([]int64{-3, 0, 100, math.MaxInt64 - 300}).Draw(t, "first")
		n := rapid.SampledFrom([]int64{1, 5, 127, 128, 129, 256, 300}).Draw(t, "rows")
		do(`DELETE FROM audit_entries`)
		do(`WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?2 - 1)
			INSERT INTO audit_entries SELECT ?1 + i, 'id' || i, i * 10, 'task.started', 'urn:x:y', 's', CAST('{}' AS BLOB), randomblob(32) FROM n`, first, n)
		row := rapid.Int64Range(first, first+n-1)
		for range rapid.IntRange(0, 4).Draw(t, "odd") {
			name := rapid.SampledFrom(names).Draw(t, "column")
			value := rapid.SampledFrom(odd).Draw(t, "value")
			if name == "hash" {
				value = rapid.SampledFrom(hashes).Draw(t, "hash")
			}
			do(`UPDATE audit_entries SET `+name+` = ? WHERE seq = ?`, value, row.Draw(t, "row"))
		}
		for range rapid.IntRange(0, 2).Draw(t, "gaps") {
			from := row.Draw(t, "from")
			do(`DELETE FROM audit_entries WHERE seq >= ? AND seq < ?`, from, from+min(math.MaxInt64-from, rapid.SampledFrom([]int64{1, 100, 128, 140}).Draw(t, "gap")))
		}
		for _, r := range [][2]int64{{first, math.MaxInt64}, {0, math.MaxInt64}, {first + 1, first + 1 + 128}, {5, 5}, {5, 4}} {
			fast, slow, err := both(ctx, s, r[0], r[1])
			if err != nil {
				t.Fatal(err)
			}
			for i := range slow {
				if len(fast) <= i || fast[i] != slow[i] {
					t.Fatalf("entries from %d to %d, row %d:\n%s\none by one:\n%s", r[0], r[1], i, slices.Concat(fast, []string{"missing"})[min(i, len(fast))], slow[i])
				}
			}
			if len(fast) != len(slow) {
				t.Fatalf("entries from %d to %d: %d rows, one by one %d", r[0], r[1], len(fast), len(slow))
			}
		}
	})
}

// A reader that stops early, or whose context ends, is not waited for in vain and
// is told.
func TestEntriesEndEarly(t *testing.T) {
	s, db := laxLog(t)
	if _, err := db.ExecContext(t.Context(), `WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
		INSERT INTO audit_entries SELECT i, 'id' || i, i, 'task.started', 'urn:x:y', 's', CAST('{}' AS BLOB), zeroblob(32) FROM n`); err != nil {
		t.Fatal(err)
	}
	for _, stopAt := range []int{1, 127, 128, 129, 1000} {
		n := 0
		if err := s.ReadAudit(t.Context(), func(v auditlog.Snapshot) error {
			for _, err := range v.Entries(0, math.MaxInt64) {
				if err != nil {
					return err
				}
				if n++; n == stopAt {
					break
				}
			}
			return nil
		}); err != nil || n != stopAt {
			t.Errorf("stopped at %d of %d: %v", n, stopAt, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := s.ReadAudit(ctx, func(v auditlog.Snapshot) error {
		for _, err := range v.Entries(0, math.MaxInt64) {
			if err != nil {
				return err
			}
			if n++; n == 200 {
				cancel()
			}
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n > 200+pageRows {
		t.Errorf("%d rows, %v", n, err)
	}
}
