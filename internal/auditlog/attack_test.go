package auditlog_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
)

// expected is a verdict: valid if reason is empty; bad is -1 for no place, and the
// first of a range that ends before to.
type expected struct {
	reason  audit.Reason
	bad, to int64
}

var fine = expected{"", -1, 0}

func (w expected) check(t *testing.T, what string, v audit.Verdict) {
	t.Helper()
	bad := int64(-1)
	if v.FirstBadSeq != nil {
		bad = *v.FirstBadSeq
	}
	if v.Reason != w.reason || v.Valid != (w.reason == "") || bad < w.bad || bad > max(w.bad, w.to-1) {
		t.Errorf("%s: %q at %d (%s), want %+v", what, v.Reason, bad, v.Message, w)
	}
}

// rewrite replaces entries from a seq on by ones with a detail changed and fresh
// ids and hashes, as somebody does who owns the database but not the key.
func rewrite(t *testing.T, db *sql.DB, from int64, old, now string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT octets FROM audit_entries ORDER BY seq`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	head := audit.GenesisHead(origin)
	var entries []audit.Entry
	for rows.Next() {
		var octets []byte
		if err := rows.Scan(&octets); err != nil {
			t.Fatal(err)
		}
		e, err := audit.ParseEntry(octets)
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq < from {
			head = audit.Head{Size: e.Seq + 1, Hash: e.Hash, TimestampUS: e.Timestamp.UnixMicro(), LastID: e.ID}
			continue
		}
		ev := audit.Event{Type: e.Type, Actor: e.Actor, Subject: e.Subject, Parties: e.Parties, RowHash: e.RowHash,
			Details: bytes.Replace(e.Details, []byte(old), []byte(now), 1)}
		again, next, err := audit.Append(head, e.Timestamp, ev, strings.NewReader(strings.Repeat("entropy...", 200)))
		if err != nil {
			t.Fatal(err)
		}
		entries, head = append(entries, again), next
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := db.ExecContext(t.Context(), `UPDATE audit_entries SET id = ?, timestamp_us = ?, octets = ?, hash = ? WHERE seq = ?`,
			e.ID, e.Timestamp.UnixMicro(), e.Octets, e.Hash[:], e.Seq); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.ExecContext(t.Context(), `UPDATE audit_head SET hash = ?`, head.Hash[:]); err != nil {
		t.Fatal(err)
	}
}

// resign makes checkpoints of what is in a database with another key.
func resign(t *testing.T, db *sql.DB, key int) {
	t.Helper()
	sign, err := audit.NewSigner(origin, testKey(key))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := db.QueryContext(t.Context(), `SELECT hash FROM audit_entries ORDER BY seq`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var tree audit.CompactRange
	notes := map[int64][]byte{}
	roots := map[int64]audit.Hash{}
	for rows.Next() {
		var hash []byte
		if err := rows.Scan(&hash); err != nil {
			t.Fatal(err)
		}
		tree.Add(audit.LeafHash([32]byte(hash)))
		switch size := tree.Size(); size {
		case 256, 512, 768, 1000:
			roots[size] = tree.Root()
			if notes[size], err = (audit.Checkpoint{Origin: origin, Size: size, Root: tree.Root()}).Sign(sign); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for size, note := range notes {
		root := roots[size]
		if _, err := db.ExecContext(t.Context(), `UPDATE audit_checkpoints SET root = ?, note = ? WHERE size = ?`, root[:], string(note), size); err != nil {
			t.Fatal(err)
		}
	}
}

// Everything that issue and design list is done to a database, without its
// guards; the database and the export that is made of it are both verified. An
// auditor with an export does not see columns, the head row and the signer.
func TestAttacks(t *testing.T) {
	base := t.TempDir()
	guards := guardNames(t)
	older := thousand(t, base)
	set := func(seq int, column, value string) string {
		return fmt.Sprintf(`UPDATE audit_entries SET %s = %s WHERE seq = %d`, column, value, seq)
	}
	octets := func(seq int, old, now string) string {
		return set(seq, "octets", fmt.Sprintf(`CAST(replace(CAST(octets AS TEXT), '%s', '%s') AS BLOB)`, old, now))
	}
	for _, c := range []struct {
		what     string
		do       []string
		also     func(*testing.T, *sql.DB)
		database expected
		export   expected
	}{
		{"nothing", nil, nil, fine, fine},
		{"one digit of the details of 41", []string{octets(41, "1000041", "1000042")}, nil, expected{audit.HashMismatch, 41, 0}, expected{audit.HashMismatch, 41, 0}},
		{"actor inside 41", []string{octets(41, "agent:alice\",\"det", "agent:malice\",\"det")}, nil, expected{audit.HashMismatch, 41, 0}, expected{audit.HashMismatch, 41, 0}},
		{"type inside 41", []string{octets(41, "task.completed", "task.failed")}, nil, expected{audit.HashMismatch, 41, 0}, expected{audit.HashMismatch, 41, 0}},
		{"subject inside 41", []string{octets(41, "task_13", "task_14")}, nil, expected{audit.HashMismatch, 41, 0}, expected{audit.HashMismatch, 41, 0}},
		{"parties inside 41", []string{octets(41, "agent:bob", "agent:boc")}, nil, expected{audit.HashMismatch, 41, 0}, expected{audit.HashMismatch, 41, 0}},
		{"timestamp inside 41", []string{octets(41, "\"timestamp\":\"20", "\"timestamp\":\"19")}, nil, expected{audit.Malformed, 41, 0}, expected{audit.Malformed, 41, 0}},
		{"white space in 41", []string{octets(41, "\"details\":{", "\"details\": {")}, nil, expected{audit.NotCanonical, 41, 0}, expected{audit.Malformed, 41, 0}},
		{"a member twice in 41", []string{octets(41, "{\"n\":", "{\"n\":1,\"n\":")}, nil, expected{audit.Malformed, 41, 0}, expected{audit.Malformed, 41, 0}},
		{"a number beyond 2^53 in 41", []string{octets(41, "1000041", "9007199254740993")}, nil, expected{audit.Malformed, 41, 0}, expected{audit.Malformed, 41, 0}},
		{"1000041.0 in 41", []string{octets(41, "1000041", "1000041.0")}, nil, expected{audit.NotCanonical, 41, 0}, expected{audit.Malformed, 41, 0}},
		{"the hash of 41", []string{set(41, "hash", "zeroblob(32)")}, nil, expected{audit.HashMismatch, 41, 0}, expected{audit.HashMismatch, 41, 0}},
		{"no octets in 41", []string{set(41, "octets", "x''")}, nil, expected{audit.Malformed, 41, 0}, expected{audit.Malformed, 41, 0}},
		{"actor column of 100", []string{set(100, "actor", "'urn:asap:agent:mallory'")}, nil, expected{audit.ColumnMismatch, 100, 0}, fine},
		{"id column of 100", []string{set(100, "id", "'01KGB7ZK00000000000000000A'")}, nil, expected{audit.ColumnMismatch, 100, 0}, fine},
		{"time column of 100", []string{set(100, "timestamp_us", "timestamp_us - 1")}, nil, expected{audit.ColumnMismatch, 100, 0}, fine},
		{"type column of 100", []string{set(100, "event_type", "'task.failed'")}, nil, expected{audit.ColumnMismatch, 100, 0}, fine},
		{"subject column of 100", []string{set(100, "subject", "'task_0'")}, nil, expected{audit.ColumnMismatch, 100, 0}, fine},
		{"delete 500", []string{`DELETE FROM audit_entries WHERE seq = 500`}, nil, expected{audit.SeqGap, 500, 0}, expected{audit.SeqGap, 500, 0}},
		{"delete 0", []string{`DELETE FROM audit_entries WHERE seq = 0`}, nil, expected{audit.SeqGap, 0, 0}, expected{audit.SeqGap, 0, 0}},
		{"delete the tail", []string{`DELETE FROM audit_entries WHERE seq >= 990`}, nil, expected{audit.Truncated, 990, 0}, expected{audit.Truncated, 990, 0}},
		{"delete the tail and set the head", []string{`DELETE FROM audit_entries WHERE seq >= 990`,
			`UPDATE audit_head SET seq = 989, hash = (SELECT hash FROM audit_entries WHERE seq = 989)`}, nil, expected{audit.Truncated, 990, 0}, expected{audit.Truncated, 990, 0}},
		{"delete the tail, its checkpoint, and set the head", []string{`DELETE FROM audit_entries WHERE seq >= 990`, `DELETE FROM audit_checkpoints WHERE size = 1000`,
			`UPDATE audit_head SET seq = 989, hash = (SELECT hash FROM audit_entries WHERE seq = 989)`}, nil, expected{audit.RolledBack, 990, 0}, fine},
		{"delete everything but checkpoints", []string{`DELETE FROM audit_entries`}, nil, expected{audit.Truncated, 0, 0}, expected{audit.Truncated, 0, 0}},
		{"delete the head", []string{`DELETE FROM audit_head`}, nil, expected{audit.HeadMismatch, 1000, 0}, fine},
		{"another head", []string{`UPDATE audit_head SET hash = zeroblob(32)`}, nil, expected{audit.HeadMismatch, 1000, 0}, fine},
		{"swap 300 and 301", []string{`UPDATE audit_entries SET seq = -1 WHERE seq = 300`, `UPDATE audit_entries SET seq = 300 WHERE seq = 301`,
			`UPDATE audit_entries SET seq = 301 WHERE seq = -1`}, nil, expected{audit.ColumnMismatch, 300, 0}, expected{audit.SeqGap, 300, 0}},
		{"insert one more at the end", []string{`INSERT INTO audit_entries SELECT 1000, id, timestamp_us, event_type, actor, subject, octets, hash FROM audit_entries WHERE seq = 999`},
			nil, expected{audit.ColumnMismatch, 1000, 0}, expected{audit.SeqDuplicate, 999, 0}},
		{"rewrite all from 41 on", nil, func(t *testing.T, db *sql.DB) { rewrite(t, db, 41, "1000041", "1000042") }, expected{audit.CheckpointMismatch, 0, 256}, expected{audit.CheckpointMismatch, 0, 256}},
		{"rewrite all from 600 on", nil, func(t *testing.T, db *sql.DB) { rewrite(t, db, 600, "1000600", "1") }, expected{audit.CheckpointMismatch, 512, 0}, expected{audit.CheckpointMismatch, 512, 0}},
		{"rewrite, signed by another key", nil, func(t *testing.T, db *sql.DB) { rewrite(t, db, 41, "1000041", "1"); resign(t, db, 2) },
			expected{audit.Forked, 0, 256}, expected{audit.UnknownKey, -1, 0}},
		{"rewrite, without checkpoints", []string{`DELETE FROM audit_checkpoints`}, func(t *testing.T, db *sql.DB) { rewrite(t, db, 41, "1000041", "1") },
			expected{audit.Forked, 0, 256}, expected{audit.AssuranceTooLow, -1, 0}},
		{"delete every checkpoint", []string{`DELETE FROM audit_checkpoints`}, nil, expected{audit.CheckpointMissing, -1, 0}, expected{audit.AssuranceTooLow, -1, 0}},
		{"root of a checkpoint", []string{`UPDATE audit_checkpoints SET root = zeroblob(32) WHERE size = 512`}, nil, expected{audit.CheckpointMismatch, -1, 0}, fine},
		{"note of a checkpoint", []string{`UPDATE audit_checkpoints SET note = replace(note, char(10) || '512' || char(10), char(10) || '513' || char(10)) WHERE size = 512`}, nil, expected{"", -1, 0}, expected{"", -1, 0}},
		{"a tree node", []string{`UPDATE audit_tree SET hash = zeroblob(32) WHERE position = 1`}, nil, expected{audit.IndexMismatch, 256, 0}, fine},
		{"no tree nodes", []string{`DELETE FROM audit_tree`}, nil, fine, fine},
		{"a prune that was none", []string{`INSERT INTO audit_prune SELECT 300, hash, x'', 512, 0 FROM audit_entries WHERE seq = 299`, `DELETE FROM audit_entries WHERE seq < 300`},
			nil, expected{audit.PruneInvalid, 300, 0}, expected{audit.PruneInvalid, 300, 0}},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			copyFile(t, database(base), database(dir))
			copyFile(t, filepath.Join(base, "audit-signer.json"), filepath.Join(dir, "audit-signer.json"))
			attack(t, database(dir), func(db *sql.DB) {
				dropGuards(t, db)
				exec(t, db, c.do...)
				if c.also != nil {
					c.also(t, db)
				}
			})
			log, _ := reader(t, dir)
			v, err := log.Verify(t.Context(), auditlog.Check{Keys: keysOf(t, 1)})
			if err != nil {
				t.Fatal(err)
			}
			if c.what != "note of a checkpoint" {
				c.database.check(t, "database", v)
			} else if v.Valid || v.Reason == "" {
				t.Errorf("database: a damaged note is not found")
			}
			if len(v.Guards.Missing) != len(guards) {
				t.Errorf("guards missing: %v", v.Guards.Missing)
			}
			var export bytes.Buffer
			if err := log.Export(t.Context(), &export, audit.JSONL); err != nil {
				t.Fatal(err)
			}
			file := export.Bytes()
			v, err = audit.VerifyExport(bytes.NewReader(file), int64(len(file)), audit.Options{Keys: keysOf(t, 1)})
			if err != nil {
				t.Fatal(err)
			}
			if c.what != "note of a checkpoint" {
				c.export.check(t, "export", v)
			} else if v.Valid || v.Reason == "" {
				t.Errorf("export: a damaged note is not found")
			}
		})
	}

	// What is wrong only for somebody who remembers something.
	newest := func() []byte {
		log, _ := reader(t, base)
		note, err := log.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return note
	}()
	t.Run("older copy", func(t *testing.T) {
		dir := t.TempDir()
		copyFile(t, older, database(dir))
		verify := func(what string, want expected, check auditlog.Check) {
			t.Helper()
			log, _ := reader(t, dir)
			check.Keys = keysOf(t, 1)
			v, err := log.Verify(t.Context(), check)
			if err != nil {
				t.Fatal(err)
			}
			want.check(t, what, v)
		}
		verify("nobody remembers", fine, auditlog.Check{})
		verify("the auditor remembers", expected{audit.RolledBack, 990, 0}, auditlog.Check{Remembered: [][]byte{newest}})
		verify("the auditor knows a size", expected{audit.RolledBack, 990, 0}, auditlog.Check{MinSize: 1000})
		copyFile(t, filepath.Join(base, "audit-signer.json"), filepath.Join(dir, "audit-signer.json"))
		verify("the signer remembers", expected{audit.RolledBack, 990, 0}, auditlog.Check{})

		// A second writer goes on from the copy: another history.
		w := open(t, dir)
		for i := range 30 {
			if _, err := w.ledger.Append(t.Context(), event(5000+i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.sealer.Seal(t.Context()); err == nil || w.sealer.Alarm() == nil {
			t.Errorf("the sealer signed another history: %v", err)
		}
		w.stop()
		verify("the signer remembers another history", expected{audit.Forked, 768, 0}, auditlog.Check{})
		verify("the auditor remembers another history", expected{audit.Forked, 768, 0}, auditlog.Check{Remembered: [][]byte{newest}})
	})

	t.Run("another key", func(t *testing.T) {
		log, _ := reader(t, base)
		v, err := log.Verify(t.Context(), auditlog.Check{Keys: keysOf(t, 2)})
		if err != nil {
			t.Fatal(err)
		}
		expected{audit.UnknownKey, -1, 0}.check(t, "database", v)
	})
}

func guardNames(t testing.TB) []string {
	t.Helper()
	var names []string
	dir := t.TempDir()
	w := open(t, dir)
	w.stop()
	attack(t, database(dir), func(db *sql.DB) {
		rows, err := db.QueryContext(t.Context(), `SELECT name FROM sqlite_schema WHERE type = 'trigger'`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	})
	return names
}

// With the guards in place no statement of SQL changes the log; a guard that is
// there by name only is missing.
func TestGuards(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	w.grow(10)
	w.stop()
	before, err := os.ReadFile(database(dir))
	if err != nil {
		t.Fatal(err)
	}
	attack(t, database(dir), func(db *sql.DB) {
		for _, s := range []string{
			`UPDATE audit_entries SET actor = 'urn:x:y' WHERE seq = 3`,
			`DELETE FROM audit_entries WHERE seq = 3`,
			`DELETE FROM audit_entries`,
			`REPLACE INTO audit_entries SELECT seq, id, timestamp_us, event_type, 'urn:x:y', subject, octets, hash FROM audit_entries WHERE seq = 3`,
			`INSERT INTO audit_entries SELECT seq, id, timestamp_us, event_type, 'urn:x:y', subject, octets, hash FROM audit_entries WHERE seq = 3
				ON CONFLICT (seq) DO UPDATE SET actor = excluded.actor`,
			`UPDATE audit_checkpoints SET size = 3`,
			`DELETE FROM audit_checkpoints`,
		} {
			if _, err := db.ExecContext(t.Context(), s); err == nil {
				t.Errorf("%s was done", s)
			}
		}
	})
	after, err := os.ReadFile(database(dir))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("the database has changed")
	}
	attack(t, database(dir), func(db *sql.DB) {
		exec(t, db, `DROP TRIGGER audit_entries_no_update`, `CREATE TRIGGER audit_entries_no_update BEFORE UPDATE ON audit_entries BEGIN SELECT 1; END`,
			`DROP TRIGGER audit_entries_no_delete`)
	})
	log, _ := reader(t, dir)
	v, err := log.Verify(t.Context(), auditlog.Check{Keys: keysOf(t, 1)})
	if err != nil || !v.Valid || fmt.Sprint(v.Guards.Missing) != "[audit_entries_no_delete audit_entries_no_update]" {
		t.Errorf("%v, missing %v, %v", v.Valid, v.Guards.Missing, err)
	}
}

// A part of the log is proven by the checkpoint at its end.
func TestRange(t *testing.T) {
	dir := t.TempDir()
	thousand(t, dir)
	for _, c := range []struct {
		from, to, checked, size int64
	}{{0, 10, 256, 256}, {300, 301, 212, 512}, {255, 256, 1, 256}, {990, 0, 10, 1000}, {0, 0, 1000, 1000}, {700, 5000, 300, 1000}} {
		log, _ := reader(t, dir)
		v, err := log.Verify(t.Context(), auditlog.Check{Keys: keysOf(t, 1), From: c.from, To: c.to})
		if err != nil || !v.Valid || v.Assurance != audit.Sealed || v.EntriesChecked != c.checked || v.Size != c.size {
			t.Errorf("%d to %d: %+v, %v", c.from, c.to, v, err)
		}
	}
	attack(t, database(dir), func(db *sql.DB) {
		dropGuards(t, db)
		exec(t, db, `UPDATE audit_entries SET octets = CAST(replace(CAST(octets AS TEXT), '1000400', '1000401') AS BLOB) WHERE seq = 400`,
			`UPDATE audit_entries SET hash = zeroblob(32) WHERE seq IN (100, 520)`)
	})
	log, _ := reader(t, dir)
	for _, c := range []struct {
		from, to int64
		want     expected
	}{
		{0, 50, expected{audit.HashMismatch, 100, 0}}, {300, 399, expected{audit.HashMismatch, 400, 0}}, {401, 402, fine}, // proven: it was another that was edited
		{600, 601, expected{audit.CheckpointMismatch, 600, 0}}, // the hashes before it are not those signed
	} {
		v, err := log.Verify(t.Context(), auditlog.Check{Keys: keysOf(t, 1), From: c.from, To: c.to})
		if err != nil {
			t.Fatal(err)
		}
		c.want.check(t, fmt.Sprintf("%d to %d", c.from, c.to), v)
	}
	if _, err := log.Verify(t.Context(), auditlog.Check{From: 2000}); err == nil {
		t.Error("a range behind the end was verified")
	}
}

// After a prune everything that is left is still proven.
func TestPrune(t *testing.T) {
	dir := t.TempDir()
	older := thousand(t, dir)
	if err := os.Remove(older); err != nil {
		t.Fatal(err)
	}
	w := open(t, dir)
	n, err := auditlog.Prune(t.Context(), w.log, keysOf(t, 1), w.ledger, time.Now().Add(time.Hour), "test")
	if err != nil || n != 1000 {
		t.Fatalf("pruned %d, %v", n, err)
	}
	verify := func(what string, min, size int64) {
		t.Helper()
		v, err := w.log.Verify(t.Context(), auditlog.Check{Keys: keysOf(t, 1)})
		if err != nil || !v.Valid || v.MinIndex != min || v.Size != size || v.Assurance != audit.Sealed {
			t.Fatalf("%s: %+v, %v", what, v, err)
		}
	}
	verify("all pruned", 1000, 1001)
	w.grow(1100)
	verify("grown", 1000, 1100)
	w.grow(1200)
	if n, err = auditlog.Prune(t.Context(), w.log, keysOf(t, 1), w.ledger, time.Now().Add(-time.Hour), "test"); err != nil || n != 0 {
		t.Errorf("pruned %d of what is young, %v", n, err)
	}
	p, err := w.log.ProveInclusion(t.Context(), 1050, 0)
	if err != nil || audit.CheckInclusion(p.Hashes, p.Size, p.Root, 1050, p.Hash) != nil || p.Size != 1200 {
		t.Errorf("inclusion: %+v, %v", p, err)
	}
	k, err := w.log.ProveConsistency(t.Context(), 1000, 1100)
	if err != nil || k.OldCheckpoint == nil || k.NewCheckpoint == nil {
		t.Errorf("consistency: %+v, %v", k, err)
	}
	if _, err := w.log.ProveInclusion(t.Context(), 5, 0); err == nil {
		t.Error("a pruned entry was proven")
	}
	var export bytes.Buffer
	if err := w.log.Export(t.Context(), &export, audit.JSONL); err != nil {
		t.Fatal(err)
	}
	v, err := audit.VerifyExport(bytes.NewReader(export.Bytes()), int64(export.Len()), audit.Options{Keys: keysOf(t, 1)})
	if err != nil || !v.Valid || v.MinIndex != 1000 {
		t.Errorf("export: %+v, %v", v, err)
	}
	w.stop()
	attack(t, database(dir), func(db *sql.DB) {
		if _, err := db.ExecContext(t.Context(), `DELETE FROM audit_entries WHERE seq = 1000`); err == nil {
			t.Error("an entry after the minimum index was deleted")
		}
		dropGuards(t, db)
		exec(t, db, `DELETE FROM audit_prune`)
	})
	log, _ := reader(t, dir)
	v, err = log.Verify(t.Context(), auditlog.Check{Keys: keysOf(t, 1)})
	if err != nil {
		t.Fatal(err)
	}
	expected{audit.PruneMissing, 0, 0}.check(t, "without its row", v)
}
