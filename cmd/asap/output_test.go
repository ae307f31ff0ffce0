package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func testApp(t *testing.T, env map[string]string) (a *app, out, errOut *bytes.Buffer) {
	t.Helper()
	out, errOut = new(bytes.Buffer), new(bytes.Buffer)
	return newApp(strings.NewReader(""), out, errOut, func(name string) string { return env[name] }), out, errOut
}

func TestTableInAPipeIsOneLinePerRow(t *testing.T) {
	a, out, _ := testApp(t, nil)
	err := a.table([]string{"NAME", "COUNT"}, [][]string{{"first\tpart\nsecond", "1"}, {"", "22"}, {"\x1b[2Jgone\u202e", "3"}})
	if err != nil {
		t.Fatal(err)
	}
	const want = "NAME\tCOUNT\nfirst part second\t1\n\t22\n\ufffd[2Jgone\ufffd\t3\n"
	if got := out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestColourIsForTerminals(t *testing.T) {
	a, _, _ := testApp(t, nil)
	if got := a.paint(ansiRed, "text"); got != "text" {
		t.Errorf("painted %q in a pipe", got)
	}
}

func TestWriteFileAtomicLeavesTheOldFileOnFailure(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	for _, data := range []string{"old", "new"} {
		if err := writeFileAtomic(name, []byte(data), 0o600, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeFileAtomic(name, []byte("third"), 0o600, false); !errors.Is(err, errExists) {
		t.Errorf("without replacing: error %v, want %v", err, errExists)
	}
	if err := writeFileAtomic(filepath.Join(name, "below"), nil, 0o600, true); err == nil {
		t.Error("wrote below a file")
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "new" {
		t.Errorf("file holds %q (%v), want %q", got, err, "new")
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("mode %o, want 600", mode)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("left %d files in the folder, want the one written", len(entries))
	}
}

func TestReadInputIsBounded(t *testing.T) {
	a, _, _ := testApp(t, nil)
	a.in = endless{}
	if _, err := a.readInput("Manifest file", "-"); err == nil || !strings.Contains(err.Error(), "larger than 64 MiB") {
		t.Errorf("reading without end: error %v", err)
	}
}

// endless is a reader that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
