package audit

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

func TestControl(t *testing.T) {
	l := thousand(t)
	src := l.source()
	src.GuardsMissing = []string{"audit_entries_no_update"}
	var progress []int64
	o := l.pinned()
	o.Progress = func(n int64) { progress = append(progress, n) }
	v, err := Verify(src, o)
	if err != nil {
		t.Fatal(err)
	}
	if !v.Valid || v.Assurance != Sealed || v.SealedThrough != 1000 || v.EntriesChecked != 1000 || v.UnsealedTail != 0 || v.Size != 1000 || len(v.Guards.Missing) != 1 {
		t.Errorf("%+v", v)
	}
	if len(progress) != 0 {
		t.Errorf("progress %v of 1000 entries", progress)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"valid":true,"assurance":"sealed","first_bad_seq":null,"reason":null,"entries_checked":1000,"size":1000,"min_index":0,"sealed_through":1000,"unsealed_tail":0,` +
		`"head_hash":"` + v.HeadHash + `","root_hash":"` + v.RootHash + `","guards":{"missing":["audit_entries_no_update"]},"reconciliation":null}`
	if string(b) != want {
		t.Errorf("verdict is written\n%s, want\n%s", b, want)
	}
	var back Verdict
	if err := json.Unmarshal(b, &back); err != nil || back.Reason != "" || !back.Valid {
		t.Errorf("%+v %v", back, err)
	}
}

// Everything that can be done to the tables of a database.
func TestTamperedDatabase(t *testing.T) {
	f := thousand(t)
	for _, c := range []struct {
		what string
		do   func(*testing.T, *log)
		want
	}{
		{"nothing", func(*testing.T, *log) {}, want{"", -1, 0}},
		{"change one digit in the details of 41", func(t *testing.T, l *log) { l.edit(t, 41, "1000041", "1000042") }, want{HashMismatch, 41, 0}},
		{"change the hash of 41", func(t *testing.T, l *log) { l.rows[41].Hash[0] ^= 1 }, want{HashMismatch, 41, 0}},
		{"shorten the hash of 41", func(t *testing.T, l *log) { l.rows[41].Hash = l.rows[41].Hash[:31] }, want{HashMismatch, 41, 0}},
		{"column actor of 100", func(t *testing.T, l *log) { l.rows[100].Columns.Actor = "urn:asap:agent:mallory" }, want{ColumnMismatch, 100, 0}},
		{"column subject of 100", func(t *testing.T, l *log) { l.rows[100].Columns.Subject = "task_9" }, want{ColumnMismatch, 100, 0}},
		{"column id of 100", func(t *testing.T, l *log) { l.rows[100].Columns.ID = "x" }, want{ColumnMismatch, 100, 0}},
		{"column event_type of 100", func(t *testing.T, l *log) { l.rows[100].Columns.EventType = "x" }, want{ColumnMismatch, 100, 0}},
		{"column timestamp_us of 100", func(t *testing.T, l *log) { l.rows[100].Columns.TimestampUS++ }, want{ColumnMismatch, 100, 0}},
		{"delete 500", func(t *testing.T, l *log) { l.rows = slices.Delete(l.rows, 500, 501) }, want{SeqGap, 500, 0}},
		{"delete 0", func(t *testing.T, l *log) { l.rows = l.rows[1:] }, want{SeqGap, 0, 0}},
		{"delete 990 to 999", func(t *testing.T, l *log) { l.rows = l.rows[:990] }, want{Truncated, 990, 0}},
		{"the same with a new head", func(t *testing.T, l *log) {
			l.rows = l.rows[:990]
			l.head = HeadRow{990, [32]byte(l.rows[989].Hash)}
		}, want{Truncated, 990, 0}},
		{"the same without the last checkpoint: only the signer knows", func(t *testing.T, l *log) {
			l.rows, l.notes = l.rows[:990], l.notes[:3]
			l.head = HeadRow{990, [32]byte(l.rows[989].Hash)}
		}, want{RolledBack, 990, 0}},
		{"delete all but the checkpoints", func(t *testing.T, l *log) { l.rows = nil; l.head = HeadRow{0, GenesisHash(l.origin)} }, want{Truncated, 0, 0}},
		{"delete everything", func(t *testing.T, l *log) { l.rows, l.notes, l.head = nil, nil, HeadRow{0, GenesisHash(l.origin)} }, want{RolledBack, 0, 0}},
		{"swap the contents of 300 and 301", func(t *testing.T, l *log) {
			a, b := &l.rows[300], &l.rows[301]
			a.Octets, a.Hash, a.Columns, b.Octets, b.Hash, b.Columns = b.Octets, b.Hash, b.Columns, a.Octets, a.Hash, a.Columns
		}, want{ColumnMismatch, 300, 0}},
		{"edit 41 and rehash it alone", func(t *testing.T, l *log) {
			l.edit(t, 41, "1000041", "1000042")
			h := sha256.Sum256(l.rows[41].Octets)
			l.rows[41].Hash = h[:]
		}, want{LinkMismatch, 42, 0}},
		{"edit 41 and rewrite all that follows", func(t *testing.T, l *log) { l.edit(t, 41, "1000041", "1000042"); l.rehash(t, 41) }, want{CheckpointMismatch, 0, 256}},
		{"edit 600 and rewrite all that follows", func(t *testing.T, l *log) { l.edit(t, 600, "1000600", "1000601"); l.rehash(t, 600) }, want{CheckpointMismatch, 512, 768}},
		{"the same without checkpoints", func(t *testing.T, l *log) {
			l.edit(t, 600, "1000600", "1000601")
			l.rehash(t, 600)
			l.notes = nil
		}, want{Forked, 0, 1000}},
		{"rewrite 0 with another genesis", func(t *testing.T, l *log) {
			l.edit(t, 0, "f1020d", "f1020e")
			l.rehash(t, 0)
		}, want{GenesisMismatch, 0, 0}},
		{"previous_hash of 41 in capitals", func(t *testing.T, l *log) {
			e, _ := ParseEntry(l.rows[41].Octets)
			h := hexOf(e.PreviousHash)
			l.edit(t, 41, h, strings.ToUpper(h))
			x := sha256.Sum256(l.rows[41].Octets)
			l.rows[41].Hash = x[:]
			l.rehash(t, 42)
		}, want{Malformed, 41, 0}},
		{"octets of 41 are no JSON", func(t *testing.T, l *log) { l.rows[41].Octets = []byte("{") }, want{Malformed, 41, 0}},
		{"a space in 41, rehashed", func(t *testing.T, l *log) {
			l.edit(t, 41, `"seq":41`, `"seq": 41`)
			x := sha256.Sum256(l.rows[41].Octets)
			l.rows[41].Hash = x[:]
		}, want{NotCanonical, 41, 0}},
		{"41 grows beyond the limit", func(t *testing.T, l *log) { l.edit(t, 41, "summarize", strings.Repeat("x", MaxOctets)) }, want{LimitsExceeded, 41, 0}},
		{"the id of 41 again in 42, rewritten", func(t *testing.T, l *log) {
			l.edit(t, 42, l.rows[42].Columns.ID, l.rows[41].Columns.ID)
			l.rows[42].Columns.ID = l.rows[41].Columns.ID
			l.rehash(t, 42)
		}, want{IDDuplicate, 42, 0}},
		{"the id of 40 again in 42, rewritten", func(t *testing.T, l *log) {
			l.edit(t, 42, l.rows[42].Columns.ID, l.rows[40].Columns.ID)
			l.rows[42].Columns.ID = l.rows[40].Columns.ID
			l.rehash(t, 42)
		}, want{IDInvalid, 42, 0}},
		{"an id that is none, rewritten", func(t *testing.T, l *log) {
			l.edit(t, 42, l.rows[42].Columns.ID, "zzz")
			l.rows[42].Columns.ID = "zzz"
			l.rehash(t, 42)
		}, want{IDInvalid, 42, 0}},
		{"an id with a letter ULIDs lack, rewritten", func(t *testing.T, l *log) {
			id := l.rows[42].Columns.ID[:25] + "U"
			l.edit(t, 42, l.rows[42].Columns.ID, id)
			l.rows[42].Columns.ID = id
			l.rehash(t, 42)
		}, want{IDInvalid, 42, 0}},
		{"time goes back in 42, rewritten", func(t *testing.T, l *log) {
			l.edit(t, 42, "2026-02-01T12", "2026-02-01T11")
			l.rows[42].Columns.TimestampUS -= 3_600_000_000
			l.rehash(t, 42)
		}, want{TimeRegression, 42, 0}},
		{"a row twice", func(t *testing.T, l *log) { l.rows = slices.Insert(l.rows, 42, l.rows[41]) }, want{SeqDuplicate, 41, 0}},
		{"a negative seq", func(t *testing.T, l *log) { l.rows[41].Seq = -1 }, want{Malformed, 0, 0}},
		{"a huge seq", func(t *testing.T, l *log) { l.rows[41].Seq = 1 << 62 }, want{Malformed, 41, 0}},
		{"the head has another hash", func(t *testing.T, l *log) { l.head.Hash[0] ^= 1 }, want{HeadMismatch, 1000, 0}},
		{"the head lags", func(t *testing.T, l *log) { l.head.Size = 999 }, want{HeadMismatch, 1000, 0}},
		{"the head is ahead", func(t *testing.T, l *log) { l.head.Size = 1001 }, want{Truncated, 1000, 0}},
		{"the older checkpoints are deleted", func(t *testing.T, l *log) { l.notes = l.notes[3:] }, want{"", -1, 0}},
		{"all checkpoints are deleted", func(t *testing.T, l *log) { l.notes = nil }, want{CheckpointMissing, -1, 0}},
		{"the root column of a checkpoint", func(t *testing.T, l *log) { l.notes[1].Root[0] ^= 1 }, want{CheckpointMismatch, -1, 0}},
		{"the size column of a checkpoint", func(t *testing.T, l *log) { l.notes[1].Size-- }, want{CheckpointMismatch, -1, 0}},
		{"checkpoints in another order", func(t *testing.T, l *log) { l.notes[1], l.notes[2] = l.notes[2], l.notes[1] }, want{Malformed, -1, 0}},
		{"a checkpoint that is none", func(t *testing.T, l *log) { l.notes[1].Note = []byte("x") }, want{Malformed, -1, 0}},
		{"a checkpoint with the signature of another", func(t *testing.T, l *log) {
			text, _, _ := strings.Cut(string(l.notes[1].Note), "\n\n")
			_, sig, _ := strings.Cut(string(l.notes[2].Note), "\n\n")
			l.notes[1].Note = []byte(text + "\n\n" + sig)
		}, want{CheckpointSignature, -1, 0}},
		{"a checkpoint of another key", func(t *testing.T, l *log) {
			c, _ := ParseCheckpoint(l.notes[1].Note)
			l.notes[1].Note, _ = c.Sign(newLog(t, l.origin, 2).sign)
		}, want{UnknownKey, -1, 0}},
		{"a checkpoint of another log", func(t *testing.T, l *log) {
			c, _ := ParseCheckpoint(l.notes[1].Note)
			c.Origin = "elsewhere"
			l.notes[1].Note, _ = c.Sign(newLog(t, "elsewhere", 1).sign)
		}, want{UnknownKey, -1, 0}},
		{"two faults: the smaller is named", func(t *testing.T, l *log) {
			l.rows[700].Columns.Actor = "urn:asap:agent:mallory"
			l.edit(t, 41, "1000041", "1000042")
			l.rows = slices.Delete(l.rows, 500, 501)
		}, want{HashMismatch, 41, 0}},
	} {
		t.Run(c.what, func(t *testing.T) {
			l := f.clone()
			c.do(t, l)
			o := f.pinned()
			o.Signer = &f.signer
			c.check(t, verifyLog(t, l, o))
		})
	}
}

func hexOf(h [32]byte) string { return string(appendHex(nil, &h)) }

// Everything that can be done to the lines of an export.
func TestTamperedExport(t *testing.T) {
	f := thousand(t)
	jsonl := f.export(t, JSONL)
	lines := func() [][]byte { return bytes.SplitAfter(bytes.TrimSuffix(jsonl, nil), []byte("\n")) }
	join := func(l [][]byte) []byte { return bytes.Join(l, nil) }
	// entry n is line n+1, after the header
	on := func(n int, change func(line string) string) func() []byte {
		return func() []byte {
			l := lines()
			l[n+1] = []byte(change(string(l[n+1])))
			return join(l)
		}
	}
	replace := func(old, new string) func(string) string {
		return func(line string) string {
			if !strings.Contains(line, old) {
				t.Fatalf("no %s in %s", old, line)
			}
			return strings.Replace(line, old, new, 1)
		}
	}
	details := func(line string) string {
		i := strings.Index(line, `"details":`)
		return line[i : strings.Index(line, `,"event_type"`)+1]
	}
	const last = 1000 // line of the last entry; 1001 to 1004 are checkpoints, 1005 the trailer
	for _, c := range []struct {
		what string
		do   func() []byte
		want
	}{
		{"nothing", func() []byte { return jsonl }, want{"", -1, 0}},
		{"remove the line of 41", func() []byte { return join(slices.Delete(lines(), 42, 43)) }, want{SeqGap, 41, 0}},
		{"remove the line of 0", func() []byte { return join(slices.Delete(lines(), 1, 2)) }, want{SeqGap, 0, 0}},
		{"cut after entry 699", func() []byte { return join(lines()[:701]) }, want{Truncated, 700, 0}},
		{"cut within entry 700", func() []byte { b := join(lines()[:702]); return b[:len(b)-9] }, want{Truncated, 700, 0}},
		{"cut after the entries", func() []byte { return join(lines()[:last+1]) }, want{TrailerMismatch, 1000, 0}},
		{"cut within the checkpoints", func() []byte { return join(lines()[:last+3]) }, want{TrailerMismatch, 1000, 0}},
		{"cut the last line feed", func() []byte { return jsonl[:len(jsonl)-1] }, want{TrailerMismatch, 1000, 0}},
		{"cut after the header", func() []byte { return lines()[0] }, want{Truncated, 0, 0}},
		{"cut within the header", func() []byte { return jsonl[:20] }, want{Malformed, -1, 0}},
		{"empty the file", func() []byte { return nil }, want{Truncated, 0, 0}},
		{"remove the last entry, keep the rest", func() []byte { return join(slices.Delete(lines(), last, last+1)) }, want{Truncated, 999, 0}},
		{"swap 300 and 301", func() []byte { l := lines(); l[301], l[302] = l[302], l[301]; return join(l) }, want{SeqGap, 300, 0}},
		{"41 twice", func() []byte { l := lines(); return join(slices.Insert(l, 43, l[42])) }, want{SeqDuplicate, 41, 0}},
		{"space in 41", on(41, replace(`"seq":41`, `"seq": 41`)), want{NotCanonical, 41, 0}},
		{"space after 41", on(41, replace("}\n", "} \n")), want{NotCanonical, 41, 0}},
		{"carriage return after 41", on(41, replace("}\n", "}\r\n")), want{NotCanonical, 41, 0}},
		{"empty line before 41", on(41, func(l string) string { return "\n" + l }), want{Malformed, 41, 0}},
		{"details of 41 twice, bad first", on(41, func(l string) string {
			return strings.Replace(l, `"details":`, `"details":{"cost_nano_usd":1},"details":`, 1)
		}), want{Malformed, 41, 0}},
		{"details of 41 twice, good first", on(41, func(l string) string {
			return strings.Replace(l, details(l), details(l)+`"details":{"cost_nano_usd":1},`, 1)
		}), want{Malformed, 41, 0}},
		{"hash of 41 twice", on(41, replace(`"hash":`, `"hash":"00","hash":`)), want{Malformed, 41, 0}},
		{"hash of 41 is not hexadecimal", on(41, func(l string) string { i := strings.Index(l, `"hash":"`) + 8; return l[:i] + "x" + l[i+1:] }), want{Malformed, 41, 0}},
		{"hash of 41 changed", on(41, func(l string) string {
			i := strings.Index(l, `"hash":"`) + 8
			return l[:i] + string("10"[min(1, int(l[i]-'0'))]) + l[i+1:]
		}), want{HashMismatch, 41, 0}},
		{"no hash in 41", on(41, func(l string) string { i := strings.Index(l, `"hash":"`); return l[:i] + l[i+hashMemberLen:] }), want{Malformed, 41, 0}},
		{"byte 0xff in 41", on(41, replace("summarize", "summ\xffrize")), want{Malformed, 41, 0}},
		{"lone surrogate in 41", on(41, replace("summarize", `\ud800`)), want{Malformed, 41, 0}},
		{"NUL in 41", on(41, replace("summarize", "summ\x00rize")), want{Malformed, 41, 0}},
		{"byte order mark", func() []byte { return append([]byte("\ufeff"), jsonl...) }, want{Malformed, -1, 0}},
		{"a number trick in 41", on(41, replace("1000041", "1000041.0")), want{NotCanonical, 41, 0}},
		{"a number beyond 2^53 in 41", on(41, replace("1000041", "9007199254740993")), want{Malformed, 41, 0}},
		{"nesting in 41", on(41, replace("1000041", strings.Repeat("[", 40)+strings.Repeat("]", 40))), want{LimitsExceeded, 41, 0}},
		{"a long line 41", on(41, replace("summarize", strings.Repeat("x", 300_000))), want{LimitsExceeded, 41, 0}},
		{"a line just over the limit", on(41, replace("summarize", strings.Repeat("x", MaxOctets))), want{LimitsExceeded, 41, 0}},
		{"seq of 41 changed", on(41, replace(`"seq":41`, `"seq":99`)), want{HashMismatch, 41, 0}},
		{"header: spelled otherwise", func() []byte { return bytes.Replace(jsonl, []byte(`"size":1000`), []byte(`"size":1e3`), 1) }, want{Malformed, -1, 0}},
		{"header: a space", func() []byte { return bytes.Replace(jsonl, []byte(`"size":1000`), []byte(`"size": 1000`), 1) }, want{NotCanonical, -1, 0}},
		{"header: an impossible size", func() []byte { return bytes.Replace(jsonl, []byte(`"size":1000`), []byte(`"size":-100`), 1) }, want{Malformed, -1, 0}},
		{"header: another member", func() []byte { return bytes.Replace(jsonl, []byte(`{`), []byte(`{"a":1,`), 1) }, want{Malformed, -1, 0}},
		{"header: smaller size", func() []byte { return bytes.Replace(jsonl, []byte(`"size":1000`), []byte(`"size":999`), 1) }, want{TrailerMismatch, 999, 0}},
		{"header: larger size", func() []byte { return bytes.Replace(jsonl, []byte(`"size":1000`), []byte(`"size":1001`), 1) }, want{Truncated, 1000, 0}},
		{"header: min_index", func() []byte { return bytes.Replace(jsonl, []byte(`"min_index":0`), []byte(`"min_index":1`), 1) }, want{SeqDuplicate, 0, 0}},
		{"header: origin", func() []byte { return bytes.Replace(jsonl, []byte(`audit.ex`), []byte(`audit.fx`), 1) }, want{GenesisMismatch, 0, 0}},
		{"header: previous_hash", func() []byte { return bytes.Replace(jsonl, []byte(`f1020d`), []byte(`f1020e`), 1) }, want{GenesisMismatch, 0, 0}},
		{"header: vkey is none", func() []byte { return bytes.Replace(jsonl, []byte(`5dd51406`), []byte(`5dd51407`), 1) }, want{UnknownKey, -1, 0}},
		{"trailer: count", func() []byte { return bytes.Replace(jsonl, []byte(`"count":1000`), []byte(`"count":999`), 1) }, want{TrailerMismatch, -1, 0}},
		{"trailer: last_seq", func() []byte { return bytes.Replace(jsonl, []byte(`"last_seq":999`), []byte(`"last_seq":998`), 1) }, want{TrailerMismatch, -1, 0}},
		{"trailer: more than there is", func() []byte { return bytes.Replace(jsonl, []byte(`"last_seq":999`), []byte(`"last_seq":1999`), 1) }, want{TrailerMismatch, 1000, 0}},
		{"trailer: damaged", func() []byte { return bytes.Replace(jsonl, []byte(`"last_seq":999`), []byte(`"last_seq": 999`), 1) }, want{TrailerMismatch, -1, 0}},
		{"something after the trailer", func() []byte { return append(bytes.Clone(jsonl), 'x') }, want{TrailerMismatch, -1, 0}},
		{"a line after the trailer", func() []byte { return append(bytes.Clone(jsonl), "x\n"...) }, want{TrailerMismatch, 1000, 0}},
		{"a checkpoint is removed", func() []byte { return join(slices.Delete(lines(), last+1, last+2)) }, want{"", -1, 0}},
		{"the newest checkpoint is removed", func() []byte { return join(slices.Delete(lines(), last+4, last+5)) }, want{"", -1, 0}},
		{"all checkpoints are removed", func() []byte { return join(slices.Delete(lines(), last+1, last+5)) }, want{AssuranceTooLow, -1, 0}},
		{"a checkpoint between entries", func() []byte { l := lines(); return join(slices.Insert(l, 42, l[last+1])) }, want{Truncated, 41, 0}},
		{"a checkpoint is no string", func() []byte { l := lines(); l[last+2] = []byte("{\"checkpoint\":1}\n"); return join(l) }, want{Malformed, -1, 0}},
		{"a checkpoint is no note", func() []byte { l := lines(); l[last+2] = []byte("{\"checkpoint\":\"x\"}\n"); return join(l) }, want{Malformed, -1, 0}},
		{"a line between the checkpoints", func() []byte { return join(slices.Insert(lines(), last+2, []byte("{}\n"))) }, want{Malformed, -1, 0}},
	} {
		t.Run(c.what, func(t *testing.T) { c.check(t, verifyBytes(t, c.do(), f.pinned())) })
	}

	t.Run("attacker rewrites and exports", func(t *testing.T) {
		l := f.clone()
		l.edit(t, 600, "1000600", "1000601")
		l.rehash(t, 600)
		want{CheckpointMismatch, 512, 768}.check(t, verifyBytes(t, l.export(t, JSONL), f.pinned()))
		want{CheckpointMismatch, 512, 768}.check(t, verifyBytes(t, l.export(t, JSON), Options{}))
	})
	t.Run("attacker signs with his own key", func(t *testing.T) {
		forged := newLog(t, goldenOrigin, 2)
		forged.grow(t, 50, 50)
		want{UnknownKey, -1, 0}.check(t, verifyBytes(t, forged.export(t, JSONL), f.pinned()))
	})
	t.Run("vkey of the header damaged, none pinned", func(t *testing.T) {
		b := bytes.Replace(jsonl, []byte(`5dd51406`), []byte(`5dd51407`), 1)
		want{Malformed, -1, 0}.check(t, verifyBytes(t, b, Options{}))
	})
	t.Run("a compact range without a prune", func(t *testing.T) {
		b := bytes.Replace(jsonl, []byte(`{"min`), []byte(`{"compact_range":["c6Li1BJ5+0N8l9CT/KU89+sjiCK4BnoBilkqj0lq2cI="],"min`), 1)
		want{PruneInvalid, -1, 0}.check(t, verifyBytes(t, b, f.pinned()))
	})
	t.Run("a tampered database is exported as it is", func(t *testing.T) {
		l := f.clone()
		l.rows[41].Octets = []byte("{\n}")
		want{Malformed, 41, 0}.check(t, verifyBytes(t, l.export(t, JSONL), f.pinned()))
		l = f.clone()
		l.edit(t, 41, "1000041", "1000042")
		want{HashMismatch, 41, 0}.check(t, verifyBytes(t, l.export(t, JSON), f.pinned()))
	})
}

func TestTamperedJSONExport(t *testing.T) {
	f := thousand(t)
	doc := f.export(t, JSON)
	lines := func() [][]byte { return bytes.SplitAfter(bytes.Clone(doc), []byte("\n")) }
	for _, c := range []struct {
		what string
		do   func() [][]byte
		want
	}{
		{"nothing", lines, want{"", -1, 0}},
		{"remove 41", func() [][]byte { return slices.Delete(lines(), 42, 43) }, want{SeqGap, 41, 0}},
		{"remove the last entry", func() [][]byte { return slices.Delete(lines(), 1000, 1001) }, want{Truncated, 999, 0}},
		{"cut after entry 699", func() [][]byte { return lines()[:701] }, want{Truncated, 700, 0}},
		{"cut after the entries", func() [][]byte { return lines()[:1001] }, want{TrailerMismatch, 1000, 0}},
		{"cut in the checkpoints", func() [][]byte { return lines()[:1003] }, want{TrailerMismatch, 1000, 0}},
		{"no comma after 41", func() [][]byte {
			l := lines()
			l[42] = bytes.Replace(l[42], []byte("},\n"), []byte("}\n"), 1)
			return l
		}, want{Malformed, 42, 0}},
		{"a comma after the last", func() [][]byte {
			l := lines()
			l[1000] = bytes.Replace(l[1000], []byte("}\n"), []byte("},\n"), 1)
			return l
		}, want{Malformed, -1, 0}},
		{"no separator", func() [][]byte { return slices.Delete(lines(), 1001, 1002) }, want{Malformed, -1, 0}},
		{"no comma after a checkpoint", func() [][]byte {
			l := lines()
			l[1002] = bytes.Replace(l[1002], []byte("\",\n"), []byte("\"\n"), 1)
			return l
		}, want{Malformed, -1, 0}},
	} {
		t.Run(c.what, func(t *testing.T) { c.check(t, verifyBytes(t, bytes.Join(c.do(), nil), f.pinned())) })
	}
	var whole struct {
		Origin      string        `json:"origin"`
		VKey        string        `json:"vkey"`
		Entries     []interface{} `json:"entries"`
		Checkpoints []string      `json:"checkpoints"`
		Trailer     struct {
			Count int `json:"count"`
		} `json:"trailer"`
	}
	if err := json.Unmarshal(doc, &whole); err != nil {
		t.Fatal(err)
	}
	if whole.Origin != goldenOrigin || whole.VKey != f.vkey || len(whole.Entries) != 1000 || len(whole.Checkpoints) != 4 || whole.Trailer.Count != 1000 {
		t.Errorf("the document reads %d entries, %d checkpoints", len(whole.Entries), len(whole.Checkpoints))
	}
}

func TestOptions(t *testing.T) {
	f := newLog(t, goldenOrigin, 1)
	f.grow(t, 100, 40, 80)
	old, newer := f.notes[0].Note, f.notes[1].Note
	short := f.clone()
	short.rows, short.notes = short.rows[:60], short.notes[:1]
	short.head = HeadRow{60, [32]byte(short.rows[59].Hash)}
	forked := f.clone()
	forked.rows, forked.notes = forked.rows[:50], forked.notes[:1]
	forked.grow(t, 10)
	forked.edit(t, 55, "1000055", "1000056")
	forked.rehash(t, 55)
	forked.grow(t, 40)
	forked.signer = SignerState{}
	ten, twenty := int64(10), int64(20)
	elsewhere := newLog(t, "elsewhere", 1)
	elsewhere.grow(t, 1, 1)
	sealed0 := newLog(t, goldenOrigin, 1)
	sealed0.seal(t)

	for _, c := range []struct {
		what string
		log  *log
		o    Options
		want
		assurance Assurance
	}{
		{"no key", f, Options{}, want{"", -1, 0}, Chain},
		{"no key, sealed required", f, Options{Require: Sealed}, want{AssuranceTooLow, -1, 0}, Chain},
		{"no key, a remembered checkpoint", f, Options{Remembered: [][]byte{old}}, want{"", -1, 0}, Chain},
		{"pinned", f, f.pinned(), want{"", -1, 0}, Sealed},
		{"older checkpoint", f, Options{Keys: f.keys, Remembered: [][]byte{old}}, want{"", -1, 0}, Consistent},
		{"both checkpoints", f, Options{Keys: f.keys, Remembered: [][]byte{newer, old}, Require: Consistent}, want{"", -1, 0}, Consistent},
		{"consistent required, nothing remembered", f, Options{Keys: f.keys, Require: Consistent}, want{AssuranceTooLow, -1, 0}, Sealed},
		{"witnessed required", f, Options{Keys: f.keys, Remembered: [][]byte{old}, Require: Witnessed}, want{AssuranceTooLow, -1, 0}, Consistent},
		{"unsealed tail in bounds", f, Options{Keys: f.keys, MaxUnsealed: &twenty}, want{"", -1, 0}, Sealed},
		{"unsealed tail too long", f, Options{Keys: f.keys, MaxUnsealed: &ten}, want{AssuranceTooLow, -1, 0}, Sealed},
		{"min size", f, Options{MinSize: 101}, want{RolledBack, 100, 0}, None},
		{"older copy, remembered newer", short, Options{Keys: f.keys, Remembered: [][]byte{newer}}, want{RolledBack, 60, 0}, None},
		{"older copy, the signer knows", short, Options{Keys: f.keys, Signer: &f.signer}, want{RolledBack, 60, 0}, None},
		{"older copy, nobody knows", short, f.pinned(), want{"", -1, 0}, Sealed},
		{"other history, remembered", forked, Options{Keys: f.keys, Remembered: [][]byte{newer}}, want{Forked, 40, 56}, None},
		{"other history, the signer knows", forked, Options{Keys: f.keys, Signer: &f.signer}, want{Forked, 40, 56}, None},
		{"another log", f, Options{Origin: "elsewhere"}, want{GenesisMismatch, 0, 0}, None},
		{"a checkpoint of another log", f, Options{Remembered: [][]byte{elsewhere.notes[0].Note}}, want{Forked, 0, 0}, None},
		{"empty, no key", newLog(t, goldenOrigin, 1), Options{}, want{"", -1, 0}, None},
		{"empty, pinned", newLog(t, goldenOrigin, 1), f.pinned(), want{AssuranceTooLow, -1, 0}, None},
		{"empty and sealed so", sealed0, f.pinned(), want{"", -1, 0}, Sealed},
		{"receipt", f, Options{Keys: f.keys, Receipt: receiptOf(f, 41)}, want{"", -1, 0}, Sealed},
		{"receipt of a missing entry", f, Options{Keys: f.keys, Receipt: &Receipt{Seq: 100}}, want{EntryMissing, 100, 0}, None},
		{"receipt of another entry", f, Options{Keys: f.keys, Receipt: &Receipt{Seq: 41}}, want{EntryMissing, 41, 0}, None},
	} {
		t.Run(c.what, func(t *testing.T) {
			v := verifyLog(t, c.log, c.o)
			c.check(t, v)
			if v.Assurance != c.assurance {
				t.Errorf("database: assurance %s, want %s", v.Assurance, c.assurance)
			}
			for _, f := range []Format{JSON, JSONL} {
				e := verifyBytes(t, c.log.export(t, f), c.o)
				c.check(t, e)
				if e.Assurance != c.assurance || e.RootHash != v.RootHash || e.HeadHash != v.HeadHash || e.SealedThrough != v.SealedThrough || e.UnsealedTail != v.UnsealedTail {
					t.Errorf("%s: assurance %s, sealed through %d, head %s; database %s, %d, %s", f, e.Assurance, e.SealedThrough, e.HeadHash, v.Assurance, v.SealedThrough, v.HeadHash)
				}
			}
		})
	}
}

func receiptOf(l *log, seq int) *Receipt {
	return &Receipt{ID: l.rows[seq].Columns.ID, Seq: int64(seq), Hash: [32]byte(l.rows[seq].Hash)}
}

func TestUnusableOptionsAndSources(t *testing.T) {
	f := newLog(t, goldenOrigin, 1)
	f.grow(t, 10, 5)
	other := newLog(t, goldenOrigin, 2)
	other.grow(t, 5, 5)
	for _, o := range []Options{
		{Remembered: [][]byte{[]byte("x")}},
		{Remembered: [][]byte{other.notes[0].Note}, Keys: f.keys},
		{Signer: &SignerState{Note: []byte("x")}},
	} {
		if _, err := Verify(f.source(), o); err == nil {
			t.Errorf("%+v is usable", o)
		}
		if _, err := VerifyExport(bytes.NewReader(nil), 0, o); err == nil {
			t.Errorf("%+v is usable for an export", o)
		}
	}
	src := f.source()
	src.Prune = &Prune{MinIndex: -1}
	if _, err := Verify(src, Options{}); err == nil {
		t.Error("a negative minimum index is usable")
	}
	broken := errors.New("disk on fire")
	for after := range 11 {
		src = f.source()
		src.Rows = failing(src.Rows, after, broken)
		if _, err := Verify(src, Options{}); !errors.Is(err, broken) {
			t.Errorf("rows fail after %d: %v", after, err)
		}
	}
	for after := range 2 {
		src = f.source()
		src.Checkpoints = failing(src.Checkpoints, after, broken)
		if _, err := Verify(src, Options{}); !errors.Is(err, broken) {
			t.Errorf("checkpoints fail after %d: %v", after, err)
		}
		src.Rows = nil
		if _, err := Verify(src, Options{}); !errors.Is(err, broken) {
			t.Errorf("checkpoints fail after %d, no rows: %v", after, err)
		}
	}
	b := f.export(t, JSONL)
	for limit := range len(b) {
		r := &failingFile{bytes.NewReader(b), int64(limit), broken}
		if _, err := VerifyExport(r, int64(len(b)), f.pinned()); !errors.Is(err, broken) {
			t.Fatalf("reading fails at %d: %v", limit, err)
		}
	}
}

func failing[T any](seq iter.Seq2[T, error], after int, err error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for x, fault := range seq {
			if after == 0 {
				break
			}
			after--
			if !yield(x, fault) {
				return
			}
		}
		var none T
		yield(none, err)
	}
}

// failingFile cannot be read beyond limit.
type failingFile struct {
	r     *bytes.Reader
	limit int64
	err   error
}

func (f *failingFile) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.limit {
		return 0, f.err
	}
	return f.r.ReadAt(b, off)
}
