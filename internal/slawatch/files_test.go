package slawatch_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// copyStore copies the files of a database while it is in use: what a process
// leaves that is killed now.
func copyStore(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(from + suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(to+suffix, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
