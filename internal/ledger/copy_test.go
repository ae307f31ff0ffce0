package ledger

import "testing"

// Equal rows have equal digests, whatever store spells them; others have not.
func TestCopyDigest(t *testing.T) {
	sum := func(table string, rows ...[]any) [32]byte {
		t.Helper()
		d := NewCopyDigest(table)
		for _, row := range rows {
			if err := d.Add([]string{"above", "b", "c"}, row); err != nil {
				t.Fatal(err)
			}
		}
		return d.Sum()
	}
	base := sum("delegations", []any{`[["a","b"]]`, int64(1), nil})
	if base != sum("delegations", []any{`[ ["a", "b"] ]`, true, nil}) {
		t.Error("JSON and booleans differ by their spelling")
	}
	seen := map[[32]byte]int{base: -1}
	for i, rows := range [][][]any{
		{}, {{`[["a","c"]]`, int64(1), nil}}, {{`[["a","b"]]`, int64(2), nil}}, {{`[["a","b"]]`, int64(1), ""}}, {{`[["a","b"]]`, int64(1), []byte{}}},
		{{`[["a","b"]]`, 1.0, nil}}, {{`[["a","b"]]`, int64(1), nil}, {`[["a","b"]]`, int64(1), nil}}, {{`[["a","b"]]`, false, nil}},
	} {
		s := sum("delegations", rows...)
		if other, twice := seen[s]; twice {
			t.Errorf("rows %d have the digest of %d", i, other)
		}
		seen[s] = i
	}
	if sum("x", []any{"ab", "c", nil}) == sum("x", []any{"a", "bc", nil}) {
		t.Error("columns run into each other")
	}
	d := NewCopyDigest("delegations")
	if err := d.Add([]string{"above"}, []any{"{"}); err == nil {
		t.Error("what is no JSON has a digest")
	}
	if err := d.Add([]string{"x"}, []any{3}); err == nil {
		t.Error("an int has a digest")
	}
}
