package audit

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
)

// pruned is a log of 100 entries and more, pruned to 40 behind a checkpoint.
func pruned(t *testing.T) *log {
	l := newLog(t, goldenOrigin, 1)
	l.grow(t, 40, 40)
	kept := l.signer.State
	l.grow(t, 40, 80)
	p := NewPrune(kept, 40, at.UnixMicro())
	last, err := ParseEntry(l.rows[79].Octets)
	if err != nil {
		t.Fatal(err)
	}
	h := Head{Size: 80, Hash: last.Hash, TimestampUS: last.Timestamp.UnixMicro(), LastID: last.ID}
	l.append(t, h, p.Event("urn:asap:agent:node", "audit", 0, "older than 90 days", ""), &zeros{7})
	l.rows = l.rows[40:]
	l.prune = &p
	l.seal(t)
	l.grow(t, 19)
	return l
}

func TestPruned(t *testing.T) {
	f := pruned(t)
	for _, c := range []struct {
		what string
		do   func(*log)
		want
		exports bool // can be done to an export too
	}{
		{"nothing", func(*log) {}, want{"", -1, 0}, true},
		{"no checkpoint at the end of the prefix", func(l *log) { l.notes = l.notes[1:] }, want{"", -1, 0}, true},
		{"the record of the prune is lost", func(l *log) { l.prune = nil }, want{PruneMissing, 0, 0}, false},
		{"and its entry too", func(l *log) { l.prune = nil; l.rows = l.rows[:40] }, want{SeqGap, 0, 0}, false},
		{"another head hash", func(l *log) { l.prune.HeadHash[0] ^= 1 }, want{LinkMismatch, 40, 0}, true},
		{"another range", func(l *log) { l.prune.CompactRange[0][0] ^= 1 }, want{PruneInvalid, 40, 0}, true},
		{"another range, no checkpoint there", func(l *log) { l.prune.CompactRange[0][0] ^= 1; l.notes = l.notes[1:] }, want{PruneInvalid, 40, 0}, true},
		{"a range too short", func(l *log) { l.prune.CompactRange = l.prune.CompactRange[1:] }, want{PruneInvalid, 40, 0}, true},
		{"pruned further than was recorded", func(l *log) {
			l.prune.MinIndex, l.rows = 41, l.rows[1:]
			l.prune.CompactRange = append(l.prune.CompactRange, LeafHash([32]byte(f.rows[0].Hash)))
			l.prune.HeadHash = [32]byte(f.rows[0].Hash)
		}, want{PruneInvalid, 41, 0}, true},
		{"the entry of the prune is cut off", func(l *log) {
			l.rows = l.rows[:40]
			l.notes = l.notes[:2]
			l.head = HeadRow{80, [32]byte(l.rows[39].Hash)}
		}, want{PruneInvalid, 40, 0}, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			l := f.clone()
			c.do(l)
			v := verifyLog(t, l, f.pinned())
			c.check(t, v)
			if v.Valid && (v.MinIndex != 40 || v.EntriesChecked != 60 || v.Size != 100 || v.SealedThrough != 81) {
				t.Errorf("%+v", v)
			}
			if c.exports {
				c.check(t, verifyBytes(t, l.export(t, JSONL), f.pinned()))
				c.check(t, verifyBytes(t, l.export(t, JSON), f.pinned()))
			}
		})
	}
	want{EntryMissing, 39, 0}.check(t, verifyLog(t, f, Options{Receipt: &Receipt{Seq: 39}}))
	wide := f.clone()
	wide.edit(t, 40, `"to":40`, `"to":"40"`)
	wide.rehash(t, 1)
	if v := verifyLog(t, wide, Options{}); v.Valid {
		t.Error("an unreadable prune entry counts")
	}
}

// A verification can go on from where a trusted one ended.
func TestIncremental(t *testing.T) {
	f := newLog(t, goldenOrigin, 1)
	f.grow(t, 100, 50, 100)
	half := f.clone()
	half.rows, half.notes, half.head = half.rows[:60], half.notes[:1], HeadRow{60, [32]byte(half.rows[59].Hash)}
	first := verifyLog(t, half, f.pinned())
	if !first.Valid || first.End.Head.Size != 60 {
		t.Fatalf("%+v", first)
	}
	src := f.source()
	src.Rows = f.iterate(60)
	o := f.pinned()
	o.Start = &first.End
	rest, err := Verify(src, o)
	if err != nil || !rest.Valid || rest.EntriesChecked != 40 || rest.SealedThrough != 100 || rest.Assurance != Sealed {
		t.Errorf("%+v %v", rest, err)
	}
	whole := verifyLog(t, f, f.pinned())
	if diff := cmp.Diff(whole.End, rest.End, cmp.AllowUnexported(CompactRange{})); diff != "" {
		t.Error(diff)
	}
	// Without the tree the chain can still be checked.
	o = Options{Start: &State{Head: first.End.Head}}
	if v, err := Verify(src, o); err != nil || !v.Valid || v.Assurance != Chain || v.RootHash != "" {
		t.Errorf("%+v %v", v, err)
	}
}

func TestSeal(t *testing.T) {
	f := newLog(t, goldenOrigin, 1)
	f.grow(t, 30, 10, 20)
	if f.signer.StoredSize != 10 {
		t.Errorf("stored size %d", f.signer.StoredSize)
	}
	again, err := Seal(f.signer, f.iterate(20), HeadRow{30, [32]byte(f.rows[29].Hash)}, f.sign)
	if err != nil || again.State.Head.Size != 30 || again.StoredSize != 20 {
		t.Fatal(again, err)
	}
	same, err := Seal(again, f.iterate(30), f.head, f.sign)
	if err != nil || string(same.Note) != string(again.Note) {
		t.Error("sealing nothing new", err)
	}

	bad := f.clone()
	bad.edit(t, 25, "1000025", "1000026")
	var integrity *IntegrityError
	if _, err := Seal(bad.signer, bad.iterate(20), bad.head, bad.sign); !errors.As(err, &integrity) || *integrity.Verdict.FirstBadSeq != 25 || !strings.Contains(err.Error(), "entry 25") {
		t.Error(err)
	}
	integrity = &IntegrityError{Verdict{Reason: Malformed}}
	if integrity.Error() == "" {
		t.Error("no text")
	}
	if _, err := Seal(f.signer, f.iterate(20), HeadRow{29, f.head.Hash}, f.sign); !errors.As(err, &integrity) {
		t.Error(err)
	}
	if _, err := Seal(f.signer, nil, HeadRow{Size: 19}, f.sign); !errors.Is(err, ErrRolledBack) {
		t.Error(err)
	}
	if _, err := Seal(f.signer, f.iterate(20), f.head); err == nil {
		t.Error("sealed by nobody")
	}
	broken := errors.New("disk on fire")
	if _, err := Seal(f.signer, failing(f.iterate(20), 2, broken), f.head, f.sign); !errors.Is(err, broken) {
		t.Error(err)
	}

	for _, c := range []struct {
		next SignerState
		want error
	}{
		{again, nil},
		{f.signer, nil},
		{NewSignerState(goldenOrigin), ErrRolledBack},
		{NewSignerState("elsewhere"), ErrForked},
		{SignerState{Origin: goldenOrigin, State: State{Head: Head{Size: 20}}}, ErrForked},
	} {
		if err := f.signer.Allows(c.next); !errors.Is(err, c.want) {
			t.Errorf("%v, want %v", err, c.want)
		}
	}
}

func TestSignerFile(t *testing.T) {
	l := newLog(t, goldenOrigin, 1)
	l.grow(t, 30, 10, 20)
	path := filepath.Join(t.TempDir(), "audit-signer.json")
	f := NewSignerFile(path)
	if _, err := f.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	first := NewSignerState(goldenOrigin)
	if err := f.Swap(first, l.signer); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := f.Create(first); err != nil {
		t.Fatal(err)
	}
	if err := f.Create(first); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if err := f.Swap(first, l.signer); err != nil {
		t.Fatal(err)
	}
	if err := f.Swap(first, l.signer); !errors.Is(err, ErrSignerState) {
		t.Error(err)
	}
	if err := f.Swap(l.signer, first); !errors.Is(err, ErrRolledBack) {
		t.Error(err)
	}
	s, err := f.Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l.signer, s, cmp.AllowUnexported(CompactRange{})); diff != "" {
		t.Error(diff)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("%v %v", left, err)
	}

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][2]string{
		{`"size": 20`, `"size": 21`}, {`"size": 20`, `"size": "20"`}, {`"origin"`, `"origins"`}, {`"head_hash": "`, `"head_hash": "x`}, {`"root": "`, `"root": "A`},
		{`"note": "`, `"note": "x`}, {`"stored_size"`, `"more": 1, "stored_size"`},
	} {
		changed := strings.Replace(string(text), bad[0], bad[1], 1)
		if changed == string(text) {
			t.Fatalf("no %s in %s", bad[0], text)
		}
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Load(); err == nil {
			t.Errorf("%s passes", bad[1])
		}
		if err := f.Swap(l.signer, l.signer); err == nil {
			t.Errorf("%s is overwritten", bad[1])
		}
	}
	other := l.signer
	other.Origin = "elsewhere"
	b, _ := json.Marshal(other)
	if json.Unmarshal(b, &other) == nil {
		t.Error("a note of another log passes")
	}
	other = l.signer
	other.State.Tree = CompactRange{size: 20, nodes: slices.Repeat([]Hash{{}}, 2)}
	b, _ = json.Marshal(other)
	b = []byte(strings.Replace(string(b), other.State.Tree.Root().String(), l.signer.State.Tree.Root().String(), 1))
	if json.Unmarshal(b, &other) == nil {
		t.Error("a root that is not that of the range passes")
	}
	if err := NewSignerFile(filepath.Join(path, "below a file")).Create(first); err == nil {
		t.Error("created below a file")
	}
	if err := NewSignerFile(filepath.Join(t.TempDir(), "no", "directory")).Create(first); err == nil {
		t.Error("created in no directory")
	}
}
