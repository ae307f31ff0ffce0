package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/mod/sumdb/note"
)

// log is a stored log in memory, shaped like the tables of a database.
type log struct {
	origin string
	rows   []Row
	notes  []CheckpointRow
	head   HeadRow
	prune  *Prune
	signer SignerState

	vkey string
	keys Keys
	sign note.Signer
}

func testKey(n int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "asap audit test key %d", n))
	return ed25519.NewKeyFromSeed(seed[:])
}

func newLog(t testing.TB, origin string, key int) *log {
	t.Helper()
	private := testKey(key)
	vkey, err := FormatVKey(origin, private.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys(vkey)
	if err != nil {
		t.Fatal(err)
	}
	sign, err := NewSigner(origin, private)
	if err != nil {
		t.Fatal(err)
	}
	return &log{origin: origin, vkey: vkey, keys: keys, sign: sign, signer: NewSignerState(origin), head: HeadRow{Hash: GenesisHash(origin)}}
}

var eventTypes = []string{TaskStarted, TaskCompleted, UsageRecorded, TaskFailed, DelegationCreated, DelegationRevoked, SLABreach, UsageCorrected, ConfigChanged}

// zeros is a cheap source of randomness that does not repeat within an entry.
type zeros struct{ n uint64 }

func (z *zeros) Read(b []byte) (int, error) {
	for i := range b {
		z.n = z.n*6364136223846793005 + 1442695040888963407
		b[i] = byte(z.n >> 56)
	}
	return len(b), nil
}

func event(i int) Event {
	ev := Event{
		Type:    eventTypes[i%len(eventTypes)],
		Actor:   "urn:asap:agent:alice",
		Subject: fmt.Sprintf("task_%d", i/3),
		Parties: []string{"urn:asap:agent:alice", "urn:asap:agent:bob"},
		Details: jsontext.Value(fmt.Sprintf(`{"cost_nano_usd":%d,"note":"héllo \u0007","skill":"summarize","tokens_in":1200,"tokens_out":340}`, 1_000_000+i)),
	}
	if ev.Type == UsageRecorded {
		h := sha256.Sum256([]byte(ev.Subject))
		ev.RowHash = &h
	}
	return ev
}

// grow appends n events and seals after each size of seals.
func (l *log) grow(t testing.TB, n int, seals ...int) {
	t.Helper()
	var h Head
	if len(l.rows) == 0 {
		h = GenesisHead(l.origin)
	} else {
		last, err := ParseEntry(l.rows[len(l.rows)-1].Octets)
		if err != nil {
			t.Fatal(err)
		}
		h = Head{Size: last.Seq + 1, Hash: last.Hash, TimestampUS: last.Timestamp.UnixMicro(), LastID: last.ID}
	}
	src := &zeros{uint64(h.Size)}
	for range n {
		h = l.append(t, h, event(int(h.Size)), src)
		if slices.Contains(seals, int(h.Size)) {
			l.seal(t)
		}
	}
}

func (l *log) append(t testing.TB, h Head, ev Event, src *zeros) Head {
	t.Helper()
	e, next, err := Append(h, at.Add(time.Duration(h.Size)*700*time.Microsecond), ev, src)
	if err != nil {
		t.Fatal(err)
	}
	l.rows = append(l.rows, rowOf(e))
	l.head = HeadRow{Size: next.Size, Hash: next.Hash}
	return next
}

func rowOf(e Entry) Row {
	return Row{Seq: e.Seq, Octets: e.Octets, Hash: e.Hash[:], Columns: &Columns{ID: e.ID, TimestampUS: e.Timestamp.UnixMicro(), EventType: e.Type, Actor: e.Actor, Subject: e.Subject}}
}

func (l *log) seal(t testing.TB) {
	t.Helper()
	next, err := Seal(l.signer, l.iterate(l.signer.State.Head.Size), l.head, l.sign)
	if err != nil {
		t.Fatal(err)
	}
	l.signer = next
	c, err := l.keys.Open(next.Note)
	if err != nil {
		t.Fatal(err)
	}
	l.notes = append(l.notes, CheckpointRow{Size: c.Size, Root: c.Root, Note: next.Note})
}

func (l *log) iterate(from int64) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for _, r := range l.rows {
			if (r.Seq >= from || r.Seq < 0) && !yield(r, nil) {
				return
			}
		}
	}
}

func (l *log) source() Source {
	return Source{
		Origin: l.origin,
		Rows:   l.iterate(0),
		Checkpoints: func(yield func(CheckpointRow, error) bool) {
			for _, c := range l.notes {
				if !yield(c, nil) {
					return
				}
			}
		},
		Head:  &l.head,
		Prune: l.prune,
	}
}

func (l *log) pinned() Options { return Options{Keys: l.keys} }

// clone copies everything a test may change.
func (l *log) clone() *log {
	c := *l
	c.rows = slices.Clone(l.rows)
	for i := range c.rows {
		r := &c.rows[i]
		r.Octets, r.Hash = bytes.Clone(r.Octets), bytes.Clone(r.Hash)
		columns := *r.Columns
		r.Columns = &columns
	}
	c.notes = slices.Clone(l.notes)
	if l.prune != nil {
		p := *l.prune
		p.CompactRange = slices.Clone(p.CompactRange)
		c.prune = &p
	}
	return &c
}

// rehash makes everything from seq on fit again, as an attacker with write
// access to the database would.
func (l *log) rehash(t testing.TB, seq int) {
	t.Helper()
	for i := seq; i < len(l.rows); i++ {
		r := &l.rows[i]
		if i > 0 {
			e, err := ParseEntry(r.Octets)
			if err != nil {
				t.Fatal(err)
			}
			old := fmt.Sprintf("%x", e.PreviousHash)
			r.Octets = bytes.Replace(r.Octets, []byte(old), fmt.Appendf(nil, "%x", l.rows[i-1].Hash), 1)
		}
		h := sha256.Sum256(r.Octets)
		r.Hash = h[:]
		l.head = HeadRow{Size: r.Seq + 1, Hash: h}
	}
}

// edit replaces text in the octets of an entry.
func (l *log) edit(t testing.TB, seq int, old, new string) {
	t.Helper()
	r := &l.rows[seq]
	if !bytes.Contains(r.Octets, []byte(old)) {
		t.Fatalf("entry %d has no %s: %s", seq, old, r.Octets)
	}
	r.Octets = bytes.Replace(r.Octets, []byte(old), []byte(new), 1)
}

func (l *log) export(t testing.TB, f Format) []byte {
	t.Helper()
	var b bytes.Buffer
	e, err := NewExporter(&b, f, NewHeader(l.origin, l.vkey, l.head.Size, l.prune))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range l.rows {
		if err := e.Entry(r.Seq, r.Octets, [32]byte(r.Hash)); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range l.notes {
		if err := e.Checkpoint(n.Note); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func verifyBytes(t testing.TB, b []byte, o Options) Verdict {
	t.Helper()
	v, err := VerifyExport(bytes.NewReader(b), int64(len(b)), o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func verifyLog(t testing.TB, l *log, o Options) Verdict {
	t.Helper()
	v, err := Verify(l.source(), o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// thousand is the published fixture: 1,000 entries of all event types,
// checkpoints at 256, 512, 768 and 1000.
func thousand(t testing.TB) *log {
	l := newLog(t, goldenOrigin, 1)
	l.grow(t, 1000, 256, 512, 768, 1000)
	return l
}

// want is what a verdict should say. bad is -1 for none, or the first of a
// range that ends before to.
type want struct {
	reason Reason
	bad    int64
	to     int64
}

func (w want) check(t *testing.T, v Verdict) {
	t.Helper()
	ok := v.Reason == w.reason && v.Valid == (w.reason == "")
	switch {
	case w.bad < 0:
		ok = ok && v.FirstBadSeq == nil
	case v.FirstBadSeq == nil:
		ok = false
	case w.to > w.bad:
		ok = ok && *v.FirstBadSeq >= w.bad && *v.FirstBadSeq < w.to
	default:
		ok = ok && *v.FirstBadSeq == w.bad
	}
	if !ok {
		bad := "none"
		if v.FirstBadSeq != nil {
			bad = fmt.Sprint(*v.FirstBadSeq)
		}
		t.Errorf("got %q at %s (%s), want %+v", v.Reason, bad, v.Message, w)
	}
}
