package sqlite

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// Nothing of the schema is left behind by a copy: every column of every table is
// in it, and a table that is not known stops it.
func TestCopyOutHasEverything(t *testing.T) {
	// What other columns say, or nobody reads.
	// The digests of records are in usage_ids.
	derived := []string{"usage_records.digest", "tasks.links", "task_links.task_seq", "task_links.link", "ledger_counters.id",
		"sla_agent.registered_ms", "sla_agent.removed_ms", "sla_agent.sla_json"}
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "asap.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	err = s.writer.query(`SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c
		WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name <> 'schema_migrations'`, func(r *row) error {
		table, column := r.text(0), r.text(1)
		found := slices.Contains(derived, table+"."+column)
		for _, c := range copied {
			if c.name != table && !slices.Contains(strings.Fields(c.source), table) {
				continue
			}
			words := strings.FieldsFunc(c.columns+" "+c.from, func(r rune) bool { return !(r == '_' || r >= 'a' && r <= 'z') })
			found = found || slices.Contains(words, column)
		}
		if !found {
			t.Errorf("%s.%s is not copied", table, column)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	tables := 0
	if err := s.CopyOut(t.Context(), func(table ledger.CopyTable) error {
		tables++
		for row, err := range table.Rows {
			if err != nil || len(row) != len(table.Columns) {
				t.Errorf("%s: %v %v", table.Name, row, err)
			}
		}
		return nil
	}); err != nil || tables != len(copied) {
		t.Errorf("%d tables, %v", tables, err)
	}
	if err := s.writer.script(`CREATE TABLE another (x)`); err != nil {
		t.Fatal(err)
	}
	if err := s.CopyOut(t.Context(), func(ledger.CopyTable) error { return nil }); err == nil || !strings.Contains(err.Error(), "another") {
		t.Errorf("a table that nobody knows: %v", err)
	}
}
