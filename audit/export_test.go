package audit

import (
	"bytes"
	"encoding/csv"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

// Any single byte of an export that is changed, dropped or added is found.
func TestEveryByteCounts(t *testing.T) {
	logs := []*log{pruned(t)}
	for _, n := range []int{0, 1, 9} {
		l := newLog(t, goldenOrigin, 1)
		l.grow(t, n, 5)
		l.seal(t)
		logs = append(logs, l)
	}
	for _, l := range logs {
		for _, format := range []Format{JSONL, JSON} {
			file := l.export(t, format)
			want{"", -1, 0}.check(t, verifyBytes(t, file, l.pinned()))
			check := func(what string, i int, changed []byte) {
				if v := verifyBytes(t, changed, l.pinned()); v.Valid || v.Reason == "" {
					t.Errorf("%s of %d entries: byte %d (%q in %q) %s: not found", format, len(l.rows), i, file[i], file[max(0, i-20):min(len(file), i+20)], what)
				}
			}
			step := max(1, len(file)/400)
			if len(l.rows) == 1 {
				step = 1
			}
			for i := rand.IntN(step); i < len(file); i += step {
				changed := bytes.Clone(file)
				changed[i] ^= 1 << (i % 8)
				check("changed", i, changed)
				changed[i] = byte(rand.IntN(256))
				if changed[i] != file[i] {
					check("changed", i, changed)
				}
				check("dropped", i, append(bytes.Clone(file[:i]), file[i+1:]...))
				if i%3 == 0 {
					check("doubled", i, append(bytes.Clone(file[:i+1]), file[i:]...))
				}
			}
		}
	}
}

func TestEveryByteCountsInALargeExport(t *testing.T) {
	l := thousand(t)
	file := l.export(t, JSONL)
	rapid.Check(t, func(rt *rapid.T) {
		i := rapid.IntRange(0, len(file)-1).Draw(rt, "at")
		b := rapid.Byte().Draw(rt, "byte")
		if b == file[i] {
			return
		}
		changed := bytes.Clone(file)
		changed[i] = b
		v := verifyBytes(t, changed, l.pinned())
		if v.Valid {
			rt.Fatalf("byte %d from %q to %q", i, file[i], b)
		}
		if line := bytes.Count(file[:i], []byte("\n")); line > 0 && line <= 1000 && (v.FirstBadSeq == nil || *v.FirstBadSeq != int64(line-1)) {
			rt.Fatalf("byte %d in entry %d: %s at %v", i, line-1, v.Reason, v.FirstBadSeq)
		}
	})
}

func TestCSV(t *testing.T) {
	l := newLog(t, goldenOrigin, 1)
	ev := event(2)
	ev.Subject = "=1+1"
	l.append(t, GenesisHead(goldenOrigin), ev, &zeros{})
	l.rows = append(l.rows, Row{Seq: 1, Octets: []byte("-{"), Hash: make([]byte, 32)})
	rows, err := csv.NewReader(bytes.NewReader(l.export(t, CSV))).ReadAll()
	if err != nil || len(rows) != 3 {
		t.Fatal(rows, err)
	}
	e, _ := ParseEntry(l.rows[0].Octets)
	got := strings.Join(rows[1], "|")
	want := strings.Join([]string{"0", e.ID, "2026-02-01T12:00:00.123456Z", UsageRecorded, "urn:asap:agent:alice", "'=1+1", "urn:asap:agent:alice urn:asap:agent:bob", string(e.Details), hexOf(*e.RowHash), hexOf(e.PreviousHash), hexOf(e.Hash)}, "|")
	if got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
	if rows[2][0] != "1" || !strings.HasSuffix(rows[2][7], "LXs=") {
		t.Errorf("%q", rows[2])
	}
	var b bytes.Buffer
	x, _ := NewExporter(&b, CSV, NewHeader("o", "", 0, nil))
	if err := x.Checkpoint(nil); err != nil {
		t.Error(err)
	}
}

func TestExporterErrors(t *testing.T) {
	if _, err := NewExporter(&bytes.Buffer{}, "xml", Header{}); err == nil {
		t.Error("a format that there is not")
	}
	var b bytes.Buffer
	x, _ := NewExporter(&b, JSONL, NewHeader("o", "", 0, nil))
	if err := x.Checkpoint([]byte("x")); err != nil {
		t.Error(err)
	}
	if x.Entry(0, nil, [32]byte{}) == nil {
		t.Error("an entry after a checkpoint")
	}
	for _, f := range []Format{JSONL, JSON, CSV} {
		full := &fullDisk{}
		x, err := NewExporter(full, f, NewHeader("o", "", 0, nil))
		if err != nil {
			t.Fatal(err)
		}
		l := newLog(t, "o", 1)
		l.grow(t, 200)
		for _, r := range l.rows {
			if err = x.Entry(r.Seq, r.Octets, [32]byte(r.Hash)); err != nil {
				break
			}
		}
		if !errors.Is(x.Close(), errFull) {
			t.Errorf("%s: a full disk is not seen: %v", f, err)
		}
	}
	if _, err := AppendLine(nil, []byte("x"), [32]byte{}); err == nil {
		t.Error("a line of no entry")
	}
	line, err := AppendLine(nil, []byte(golden[0].octets), goldenHashes(t)[0])
	v := jsontext.Value(bytes.Clone(line))
	if cErr := v.Canonicalize(); err != nil || cErr != nil || !bytes.Equal(v, line) || !strings.Contains(string(line), `,"hash":"`+golden[0].hash+`","id":`) {
		t.Errorf("%s %v %v", line, err, cErr)
	}
}

var errFull = errors.New("disk full")

type fullDisk struct{}

func (*fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestNames(t *testing.T) {
	for in, want := range map[string]Format{"json": JSON, "jsonl": JSONL, "ndjson": JSONL, "csv": CSV, "xml": ""} {
		got, err := ParseFormat(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %s %v", in, got, err)
		}
		if want != "" && !strings.Contains(got.ContentType(), "/") {
			t.Error(got.ContentType())
		}
	}
	for _, a := range assuranceOrder {
		if got, err := ParseAssurance(string(a)); got != a || err != nil {
			t.Error(a, err)
		}
	}
	if _, err := ParseAssurance("sealed "); err == nil {
		t.Error("a level that there is not")
	}
	if !Sealed.AtLeast(Chain) || Chain.AtLeast(Sealed) || !Chain.AtLeast("") || Assurance("x").AtLeast(Chain) {
		t.Error("order of assurance")
	}
	if b, err := json.Marshal(HashMismatch); err != nil || string(b) != `"hash_mismatch"` {
		t.Error(string(b), err)
	}
}

// Verification needs the same memory for one entry and for a hundred thousand.
func TestConstantMemory(t *testing.T) {
	const n = 100_000
	src := func(yield func(Row, error) bool) {
		h, z := GenesisHead("o"), &zeros{}
		ev := event(0)
		for range n {
			e, next, err := Append(h, at, ev, z)
			if !yield(Row{Seq: e.Seq, Octets: e.Octets, Hash: e.Hash[:]}, err) {
				return
			}
			h = next
		}
	}
	var most uint64
	o := Options{Progress: func(int64) {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapAlloc)
	}}
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	v, err := Verify(Source{Origin: "o", Rows: src}, o)
	if err != nil || !v.Valid || v.EntriesChecked != n {
		t.Fatal(v, err)
	}
	if most > before.HeapAlloc+256<<10 {
		t.Errorf("the heap grew from %d to %d bytes", before.HeapAlloc, most)
	}

	l := newLog(t, "o", 1)
	l.grow(t, 2000, 2000)
	allocations := func(entries int) float64 {
		c := l.clone()
		c.rows, c.notes = c.rows[:entries], nil
		c.head = HeadRow{int64(entries), [32]byte(c.rows[entries-1].Hash)}
		file := c.export(t, JSONL)
		return testing.AllocsPerRun(5, func() { verifyBytes(t, file, Options{}) })
	}
	if few, many := allocations(10), allocations(2000); many > few+10 {
		t.Errorf("%v allocations for 10 entries, %v for 2000", few, many)
	}
}
