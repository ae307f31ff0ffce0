package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// answer writes the result of a command to standard output: value as JSON under
// --json, else what text writes.
func (a *app) answer(value any, text func(w io.Writer) error) error {
	if a.json {
		return writeJSON(a.out, value)
	}
	return text(a.out)
}

// writeJSON writes value indented by two blanks and ended by a line feed.
// Members of maps are sorted, so equal values give equal bytes.
func writeJSON(w io.Writer, value any) error {
	err := json.MarshalWrite(w, value, json.Deterministic(true), jsontext.WithIndent("  "), jsontext.EscapeForHTML(false))
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	_, err = io.WriteString(w, "\n")
	return err
}

// terminal tells whether w is a terminal, where output is for people.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// coloured tells whether w may be written to in colour: a terminal, and NO_COLOR
// (no-color.org) is unset or empty.
func (a *app) coloured(w io.Writer) bool {
	return terminal(w) && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}

// The escape sequences in use.
const (
	ansiBold  = "\x1b[1m"
	ansiRed   = "\x1b[31m"
	ansiGreen = "\x1b[32m"
	ansiReset = "\x1b[0m"
)

// paint wraps text in an escape sequence where standard output takes colour.
func (a *app) paint(sequence, text string) string {
	if !a.coloured(a.out) {
		return text
	}
	return sequence + text + ansiReset
}

// table writes rows under header: aligned columns on a terminal; in a pipe one
// line per row, cells separated by tabs, for cut and awk. Tabs and line feeds
// within a cell become blanks, so a row stays a row; what else would move the
// cursor is replaced, since cells come from other people.
func (a *app) table(header []string, rows [][]string) error {
	clean := strings.NewReplacer("\t", " ", "\n", " ", "\r", " ")
	w := a.out
	var aligned *tabwriter.Writer
	if terminal(a.out) {
		aligned = tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		w = aligned
	}
	for _, row := range append([][]string{header}, rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = plain(clean.Replace(cell))
		}
		if _, err := fmt.Fprintln(w, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	if aligned != nil {
		return aligned.Flush()
	}
	return nil
}
