package node

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// What a test cannot do to the disk it says of it.
func TestDoctorNamesDisks(t *testing.T) {
	elsewhere := t.TempDir()
	for _, c := range []struct {
		name     string
		free     uint64
		freeErr  error
		readOnly bool
		store    string
		want     []Finding
	}{
		{"room enough", 1 << 40, nil, false, "", []Finding{{"disk", OK, "1048576 MiB free"}}},
		{"almost full", 100 << 20, nil, false, "", []Finding{{"disk", Fail, "100 MiB are free; without room the ledger takes no task"}}},
		{"full", 0, nil, false, "", []Finding{{"disk", Fail, "0 MiB are free"}}},
		{"read-only", 1 << 40, nil, true, "", []Finding{{"disk", Fail, "mounted read-only"}}},
		{"a ledger elsewhere", 1 << 40, nil, true, "sqlite:" + filepath.Join(elsewhere, "x.db"), []Finding{{"disk", Fail, "mounted read-only"}, {"disk", Fail, elsewhere}}},
		{"nobody knows", 0, errors.ErrUnsupported, false, "", []Finding{{"disk", Warn, "not known"}}},
		{"no directory", 0, fs.ErrNotExist, false, "", nil},
	} {
		d := &doctor{config: testConfig(t.TempDir()), on: disk{
			free:     func(string) (uint64, error) { return c.free, c.freeErr },
			readOnly: func(string) (bool, error) { return c.readOnly, nil },
		}}
		d.config.Store = c.store
		d.room()
		ok := len(d.findings) == len(c.want)
		for i := range c.want {
			ok = ok && d.findings[i].Check == c.want[i].Check && d.findings[i].Severity == c.want[i].Severity && strings.Contains(d.findings[i].Text, c.want[i].Text)
		}
		if !ok {
			t.Errorf("%s: %v, want %v", c.name, d.findings, c.want)
		}
	}
}
