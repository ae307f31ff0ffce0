package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"iter"
	"math"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// CopyTable is a part of a store on its way into another one. Two stores that
// hold the same give the same rows in the same order.
type CopyTable struct {
	Name    string
	Columns []string
	// Key are the columns by which the rows are ordered, with commas; rows that are
	// equal in them stay in the order in which they were stored. Empty if there is
	// at most one row.
	Key string
	// Rows yields values that are nil, int64, float64, string or []byte, in the
	// order of the key. A slice is used again for the next row.
	Rows iter.Seq2[[]any, error]
}

// isJSON tells whether a column holds JSON, which a store may spell in its own way.
func isJSON(table, column string) bool {
	switch table + "." + column {
	case "tasks.links", "delegations.above", "delegations.scopes", "delegations.resources":
		return true
	}
	return false
}

// CopyDigest sums up the rows of a table: equal digests are equal rows in equal
// order, whatever store they come from.
type CopyDigest struct {
	table string
	sum   hash.Hash
	Rows  int64
}

// NewCopyDigest begins the digest of a table.
func NewCopyDigest(table string) *CopyDigest { return &CopyDigest{table: table, sum: sha256.New()} }

// Add adds a row. Booleans count as 0 and 1, JSON in its canonical form.
func (d *CopyDigest) Add(columns []string, row []any) error {
	d.Rows++
	var b []byte
	for i, v := range row {
		switch v := v.(type) {
		case nil:
			b = append(b, 'n')
		case bool:
			n := byte(0)
			if v {
				n = 1
			}
			b = append(b, 'i', 0, 0, 0, 0, 0, 0, 0, n)
		case int64:
			b = binary.BigEndian.AppendUint64(append(b, 'i'), uint64(v)) //nolint:gosec // its bits
		case float64:
			b = binary.BigEndian.AppendUint64(append(b, 'f'), math.Float64bits(v))
		case string:
			if isJSON(d.table, columns[i]) {
				text := jsontext.Value(strings.Clone(v))
				if err := text.Canonicalize(); err != nil {
					return fmt.Errorf("%s.%s: %w", d.table, columns[i], err)
				}
				v = string(text)
			}
			b = append(binary.BigEndian.AppendUint64(append(b, 't'), uint64(len(v))), v...)
		case []byte:
			b = append(binary.BigEndian.AppendUint64(append(b, 'b'), uint64(len(v))), v...)
		default:
			return fmt.Errorf("%s.%s: a %T cannot be copied", d.table, columns[i], v)
		}
	}
	d.sum.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
	d.sum.Write(b)
	return nil
}

// Sum is the digest of the rows so far.
func (d *CopyDigest) Sum() (out [32]byte) {
	copy(out[:], d.sum.Sum(nil))
	return out
}
