package audit

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/note"
)

// FuzzCheckpoint: what is read as a checkpoint is one spelling of one statement,
// and only what the log's key signed opens with it - as the reference
// implementation of signed notes says too.
func FuzzCheckpoint(f *testing.F) {
	l := newLog(f, goldenOrigin, 1)
	l.grow(f, 4, 2, 4)
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))
	other, err := NewSigner(goldenOrigin, key)
	if err != nil {
		f.Fatal(err)
	}
	foreign, err := Checkpoint{Origin: goldenOrigin, Size: 7, Extensions: []string{"x"}}.Sign(other)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(foreign)
	texts := map[string]bool{}
	for _, row := range l.notes {
		c := row.Note
		f.Add(c)
		f.Add(append(bytes.Clone(c), foreign[bytes.Index(foreign, []byte("\n\n"))+2:]...))
		body, _, _ := bytes.Cut(c, []byte("\n\n"))
		texts[string(body)+"\n"] = true
	}
	if len(texts) == 0 {
		f.Fatal("a log without a checkpoint")
	}
	verifiers := note.VerifierList(l.keys.verifiers...)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCheckpoint(b)
		_, opened := l.keys.Open(b)
		if err != nil {
			if !errors.Is(err, ErrCheckpoint) || opened == nil {
				t.Fatalf("%v, opened: %v", err, opened)
			}
			return
		}
		if !bytes.HasPrefix(b, []byte(c.Text()+"\n")) || len(b) > maxNote || c.Size < 0 {
			t.Fatalf("%+v of %q", c, b)
		}
		if opened != nil {
			return
		}
		if _, err := note.Open(b, verifiers); err != nil {
			t.Fatalf("opened, but the reference says %v", err)
		}
		if !texts[c.Text()] {
			t.Fatalf("signed by nobody, and opened: %q", b)
		}
	})
}

// FuzzProof: a proof is read in its own spelling only, and is accepted for the
// entry it was made for alone.
func FuzzProof(f *testing.F) {
	l := newLog(f, goldenOrigin, 1)
	l.grow(f, 4, 4)
	size := int64(len(l.rows))
	hashes := make([][32]byte, size)
	for i, row := range l.rows {
		hashes[i] = [32]byte(row.Hash)
	}
	for seq := range size {
		need, err := InclusionHashes(size, seq)
		if err != nil {
			f.Fatal(err)
		}
		r, err := CollectHashes(CompactRange{}, each(hashes), need...)
		if err != nil {
			f.Fatal(err)
		}
		list, err := ProveInclusion(size, seq, r)
		if err != nil {
			f.Fatal(err)
		}
		p := Proof{Seq: seq, Hashes: list, Checkpoint: l.signer.Note}
		f.Add(p.Format(), seq)
		f.Add(p.Format(), (seq+1)%size)
	}
	f.Fuzz(func(t *testing.T, text []byte, seq int64) {
		p, err := ParseProof(text)
		if err != nil {
			if !errors.Is(err, ErrProof) && !errors.Is(err, ErrCheckpoint) {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		if !bytes.Equal(p.Format(), text) {
			t.Fatalf("%q is written as %q", text, p.Format())
		}
		if seq < 0 || seq >= size {
			return
		}
		r := Receipt{Seq: seq, Hash: [32]byte(l.rows[seq].Hash)}
		if _, err := p.Check(l.keys, r); err != nil {
			return
		}
		if p.Seq != seq {
			t.Fatalf("a proof of entry %d is taken for %d", p.Seq, seq)
		}
		r.Hash[0] ^= 1
		if _, err := p.Check(l.keys, r); err == nil {
			t.Fatal("a proof of two entries")
		}
	})
}

// FuzzLogKeys: a verifier key and a signer key have one spelling each.
func FuzzLogKeys(f *testing.F) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))
	secret, err := FormatSKey(goldenOrigin, key)
	if err != nil {
		f.Fatal(err)
	}
	public, err := FormatVKey(goldenOrigin, key.Public().(ed25519.PublicKey))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(secret)
	f.Add(public)
	f.Add(public + "=")
	f.Fuzz(func(t *testing.T, text string) {
		if origin, key, err := ParseVKey(text); err == nil {
			if again, err := FormatVKey(origin, key); err != nil || again != text {
				t.Fatalf("%q is written as %q, %v", text, again, err)
			}
			if _, err := note.NewVerifier(text); err != nil {
				t.Fatalf("%q: the reference says %v", text, err)
			}
		}
		if origin, key, err := ParseSKey(text); err == nil {
			if again, err := FormatSKey(origin, key); err != nil || again != text {
				t.Fatalf("another spelling of a signer key, %v", err)
			}
		}
	})
}

// FuzzSignerState: a signer's memory that is read is written to the same state,
// and agrees with the note in it.
func FuzzSignerState(f *testing.F) {
	l := newLog(f, goldenOrigin, 1)
	l.grow(f, 4, 4)
	text, err := json.Marshal(l.signer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(bytes.Replace(text, []byte(`"size":`), []byte(`"size":1`), 1))
	f.Add([]byte(`{"origin":"x","size":0,"compact_range":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s SignerState
		if json.Unmarshal(b, &s) != nil {
			return
		}
		once, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var again SignerState
		if err := json.Unmarshal(once, &again); err != nil {
			t.Fatalf("%v in %s", err, once)
		}
		if twice, err := json.Marshal(again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%v\n%s\n%s", err, once, twice)
		}
		if len(s.Note) > 0 {
			if c, err := ParseCheckpoint(s.Note); err != nil || c.Size != s.State.Tree.Size() {
				t.Fatalf("the note is of another state: %v", err)
			}
		}
	})
}
