package sqlite

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/asap-protocol/asap-go/audit"
)

func TestVerifyAudit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "asap.db")
	s, l := running(t, path)
	verify := func() audit.Verdict {
		t.Helper()
		v, err := s.VerifyAudit(t.Context(), "files.example/log", audit.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := verify(); !v.Valid || v.EntriesChecked != 0 {
		t.Errorf("an empty log: %+v", v)
	}
	for i := range 10 {
		if err := post(t, l, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if v := verify(); !v.Valid || v.EntriesChecked != 30 || len(v.Guards.Missing) != 0 {
		t.Errorf("a whole log: %+v", v)
	}
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range []string{`DROP TRIGGER audit_entries_no_update`, `UPDATE audit_entries SET actor = 'urn:asap:agent:liar' WHERE seq = 7`} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	v := verify()
	if v.Valid || v.Reason != audit.ColumnMismatch || v.FirstBadSeq == nil || *v.FirstBadSeq != 7 || len(v.Guards.Missing) != 1 {
		t.Errorf("an edited column: %+v", v)
	}
}
