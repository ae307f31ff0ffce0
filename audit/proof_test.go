package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

const (
	goldenVKey = "audit.example.com/asap/main+5dd51406+AUZ5a9/+hXdy63XQwQzuoMeL8kEPWs402AyvSyUgL9Bv"
	goldenNote = "audit.example.com/asap/main\n3\nn/V9YuIUdGMe9Y5cIrbdGHE49Y2DS7oq78hvsh2sAvE=\n\n" +
		"— audit.example.com/asap/main XdUUBgOUikf5ZoJTBVXWzZrl9Ulp9MZWYN0q/gceQQmMs52NkLjZ1jYuUwoZGCjS9kdBY30YvH682ArqO7Fz4xwkHQs=\n"
)

func goldenHashes(t *testing.T) [][32]byte {
	var list [][32]byte
	for _, g := range golden {
		e, err := ParseEntry([]byte(g.octets))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e.Hash)
	}
	return list
}

func each(list [][32]byte) iter.Seq2[[32]byte, error] {
	return func(yield func([32]byte, error) bool) {
		for _, h := range list {
			if !yield(h, nil) {
				return
			}
		}
	}
}

func TestGoldenTree(t *testing.T) {
	hashes := goldenHashes(t)
	var tree CompactRange
	for i, want := range []string{"c6Li1BJ5+0N8l9CT/KU89+sjiCK4BnoBilkqj0lq2cI=", "r8E5Da0/7gc23981aoYp4O4klBEucBDUyLg0gy2mYOo=", "n/V9YuIUdGMe9Y5cIrbdGHE49Y2DS7oq78hvsh2sAvE="} {
		tree.Add(LeafHash(hashes[i]))
		if got := tree.Root().String(); got != want {
			t.Errorf("root of %d: %s, want %s", i+1, got, want)
		}
	}
	need, err := InclusionHashes(3, 1)
	if err != nil {
		t.Fatal(err)
	}
	more, err := ConsistencyHashes(2, 3)
	if err != nil {
		t.Fatal(err)
	}
	r, err := CollectHashes(CompactRange{}, each(hashes), append(need, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	inclusion, err := ProveInclusion(3, 1, r)
	if err != nil || fmt.Sprint(inclusion) != "[c6Li1BJ5+0N8l9CT/KU89+sjiCK4BnoBilkqj0lq2cI= 91g/elACtOJbtuMPU16gtHZqWCAcnedjUrXQEITVqvw=]" {
		t.Errorf("inclusion of 1 in 3: %v %v", inclusion, err)
	}
	consistency, err := ProveConsistency(2, 3, r)
	if err != nil || fmt.Sprint(consistency) != "[91g/elACtOJbtuMPU16gtHZqWCAcnedjUrXQEITVqvw=]" {
		t.Errorf("consistency of 2 and 3: %v %v", consistency, err)
	}
}

func TestGoldenKeyAndCheckpoint(t *testing.T) {
	private := testKey(1)
	vkey, err := FormatVKey(goldenOrigin, private.Public().(ed25519.PublicKey))
	if err != nil || vkey != goldenVKey {
		t.Errorf("vkey %s %v", vkey, err)
	}
	origin, public, err := ParseVKey(goldenVKey)
	if err != nil || origin != goldenOrigin || !public.Equal(private.Public()) {
		t.Errorf("%s %v", origin, err)
	}
	skey, err := FormatSKey(goldenOrigin, private)
	if err != nil {
		t.Fatal(err)
	}
	origin, back, err := ParseSKey(skey)
	if err != nil || origin != goldenOrigin || !back.Equal(private) {
		t.Errorf("%s %v", origin, err)
	}
	sign, err := NewSigner(goldenOrigin, private)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys(goldenVKey, goldenVKey)
	if err != nil || len(keys.verifiers) != 1 {
		t.Fatal(keys, err)
	}
	c, err := keys.Open([]byte(goldenNote))
	if err != nil || c.Size != 3 {
		t.Fatal(c, err)
	}
	again, err := c.Sign(sign)
	if err != nil || string(again) != goldenNote {
		t.Errorf("signed again:\n%s%v", again, err)
	}
}

func TestKeysRefuse(t *testing.T) {
	private := testKey(1)
	skey, _ := FormatSKey("o", private)
	for _, s := range []string{"", "x", "a+b", "a+b+c", goldenVKey + "\n", strings.Replace(goldenVKey, "5dd51406", "5DD51406", 1), strings.Replace(goldenVKey, "main", "main ", 1),
		strings.Replace(goldenVKey, "+AUZ5", "+AkZ5", 1), "o+00000000+AUZ5"} {
		if _, _, err := ParseVKey(s); err == nil {
			t.Errorf("vkey %q passes", s)
		}
		if _, err := ParseKeys(goldenVKey, s); err == nil {
			t.Errorf("keys %q pass", s)
		}
	}
	for _, s := range []string{"", "x", "PRIVATE+KEY+o+00000000+AAAA", skey + "\n", strings.Replace(skey, "+o+", "+p+", 1), strings.Replace(skey, "+o+", "+ +", 1), goldenVKey} {
		if _, _, err := ParseSKey(s); err == nil {
			t.Errorf("skey %q passes", s)
		}
	}
	if _, err := FormatVKey("", private.Public().(ed25519.PublicKey)); err == nil {
		t.Error("a key without origin")
	}
	if _, err := FormatSKey("o", private[:5]); err == nil {
		t.Error("a short key")
	}
	if _, err := NewSigner("a b", private); err == nil {
		t.Error("a signer with a space")
	}
}

func TestCheckpointsRefuse(t *testing.T) {
	for _, c := range []struct{ what, note string }{
		{"nothing", ""},
		{"too long", goldenNote + strings.Repeat("— a AAAAAAAA\n", 4000)},
		{"no signature", strings.Split(goldenNote, "—")[0]},
		{"size with zero", strings.Replace(goldenNote, "\n3\n", "\n03\n", 1)},
		{"negative size", strings.Replace(goldenNote, "\n3\n", "\n-3\n", 1)},
		{"enormous size", strings.Replace(goldenNote, "\n3\n", "\n9223372036854775807\n", 1)},
		{"no size", strings.Replace(goldenNote, "\n3\n", "\n\n", 1)},
		{"two lines", strings.Replace(goldenNote, "3\n", "", 1)},
		{"bad root", strings.Replace(goldenNote, "n/V9", "n/V", 1)},
		{"slack bits in the root", strings.Replace(goldenNote, "AvE=", "AvF=", 1)},
		{"slack bits in the signature", strings.Replace(goldenNote, "HQs=", "HQt=", 1)},
		{"bad origin", strings.Replace(goldenNote, "audit.", "audit .", 1)},
		{"signature twice", goldenNote + goldenNote[strings.Index(goldenNote, "—"):]},
		{"two signatures of one key", goldenNote + strings.Replace(goldenNote[strings.Index(goldenNote, "—"):], "HQs=", "HAs=", 1)},
		{"signature shorter than its hash", strings.Split(goldenNote, "—")[0] + "— a AAA=\n"},
	} {
		if _, err := ParseCheckpoint([]byte(c.note)); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	keys, _ := ParseKeys(goldenVKey)
	if _, err := (Keys{}).Open([]byte(goldenNote)); !errors.Is(err, ErrUnknownKey) {
		t.Error(err)
	}
	if _, err := keys.Open([]byte(strings.Replace(goldenNote, "\n3\n", "\n4\n", 1))); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	// A trusted key of another log says nothing about this one.
	sign, _ := NewSigner(goldenOrigin, testKey(1))
	foreign, err := note.Sign(&note.Note{Text: "elsewhere\n3\nn/V9YuIUdGMe9Y5cIrbdGHE49Y2DS7oq78hvsh2sAvE=\n"}, sign)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Open(foreign); !errors.Is(err, ErrUnknownKey) {
		t.Error(err)
	}
	for _, c := range []Checkpoint{{}, {Origin: "o", Size: -1}} {
		if _, err := c.Sign(sign); err == nil {
			t.Errorf("%+v was signed", c)
		}
	}
	if _, err := (Checkpoint{Origin: "o"}).Sign(); err == nil {
		t.Error("signed by nobody")
	}
	x := Checkpoint{Origin: goldenOrigin, Size: 1, Extensions: []string{"one", "two"}}
	signed, err := x.Sign(sign)
	if err != nil {
		t.Fatal(err)
	}
	back, err := keys.Open(signed)
	if diff := cmp.Diff(x, back); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

// The tree agrees with the public library at every size, and every proof made
// of collected hashes holds, also after a prune.
func TestProofs(t *testing.T) {
	const n = 70
	var hashes [][32]byte
	var stored []Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]Hash, error) {
		var out []Hash
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	})
	ranges := []CompactRange{{}}
	for i := range n {
		h := GenesisHash(fmt.Sprint(i))
		hashes = append(hashes, h)
		s, err := tlog.StoredHashes(int64(i), h[:], reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, s...)
		r := ranges[i].clone()
		r.Add(LeafHash(h))
		ranges = append(ranges, r)
		want, err := tlog.TreeHash(int64(i+1), reader)
		if err != nil || r.Root() != want || r.Size() != int64(i+1) {
			t.Fatalf("root of %d: %v, want %v, %v", i+1, r.Root(), want, err)
		}
		if again, err := NewCompactRange(r.Size(), r.Hashes()); err != nil || again.Root() != want {
			t.Fatal(err)
		}
	}
	if empty, _ := tlog.TreeHash(0, reader); ranges[0].Root() != empty {
		t.Error("root of the empty tree")
	}
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, n).Draw(t, "size")
		seq := rapid.Int64Range(0, size-1).Draw(t, "seq")
		old := rapid.Int64Range(0, size).Draw(t, "old")
		start := rapid.Int64Range(0, min(seq, old)).Draw(t, "min index")
		start = start &^ 7 // a whole subtree stays provable
		need, err := InclusionHashes(size, seq)
		if err != nil {
			t.Fatal(err)
		}
		more, err := ConsistencyHashes(old, size)
		if err != nil {
			t.Fatal(err)
		}
		r, err := CollectHashes(ranges[start], each(hashes[start:]), append(need, more...)...)
		if errors.Is(err, ErrPruned) {
			return // the node lies inside the pruned part
		}
		if err != nil {
			t.Fatal(err)
		}
		p, err := ProveInclusion(size, seq, r)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckInclusion(p, size, ranges[size].Root(), seq, hashes[seq]); err != nil {
			t.Fatal(err)
		}
		if err := CheckInclusion(p, size, ranges[size].Root(), seq, hashes[(seq+1)%n]); !errors.Is(err, ErrProof) {
			t.Fatal("another entry passes")
		}
		c, err := ProveConsistency(old, size, r)
		if err != nil {
			t.Fatal(err)
		}
		a, b := Checkpoint{Origin: "o", Size: old, Root: ranges[old].Root()}, Checkpoint{Origin: "o", Size: size, Root: ranges[size].Root()}
		if err := CheckConsistency(c, a, b); err != nil {
			t.Fatal(err)
		}
		a.Root[0] ^= 1
		if err := CheckConsistency(c, a, b); !errors.Is(err, ErrProof) {
			t.Fatal("another history passes")
		}
	})

	// What a prune at a checkpointed size leaves is enough for all later sizes.
	for _, start := range []int64{1, 32, 48, 63, 64} {
		for size := start + 1; size <= n; size++ {
			for _, seq := range []int64{start, size - 1} {
				need, _ := InclusionHashes(size, seq)
				more, _ := ConsistencyHashes(start, size)
				if _, err := CollectHashes(ranges[start], each(hashes[start:]), append(need, more...)...); err != nil {
					t.Fatalf("pruned to %d, entry %d in %d: %v", start, seq, size, err)
				}
			}
		}
	}
	need, _ := InclusionHashes(n, 3)
	if _, err := CollectHashes(ranges[40], each(hashes[40:]), need...); !errors.Is(err, ErrPruned) {
		t.Error(err)
	}
	if _, err := CollectHashes(ranges[0], each(hashes[:10]), need...); err == nil {
		t.Error("proof from a log that is too short")
	}
	broken := errors.New("disk on fire")
	if _, err := CollectHashes(ranges[0], failing(each(hashes), 3, broken), need...); !errors.Is(err, broken) {
		t.Error(err)
	}
	r, _ := CollectHashes(ranges[0], each(hashes), need...)
	if _, err := r.ReadHashes([]int64{0, 99}); err == nil {
		t.Error("a hash that was not collected")
	}
	a, b := Checkpoint{Origin: "o"}, Checkpoint{Origin: "p"}
	if CheckConsistency(nil, a, b) == nil || CheckConsistency(nil, Checkpoint{Origin: "o", Size: 2}, a) == nil || CheckConsistency(nil, a, a) == nil {
		t.Error("checkpoints that say nothing about each other")
	}
	if _, err := NewCompactRange(-1, nil); err == nil {
		t.Error("negative size")
	}
	if _, err := NewCompactRange(3, make([]Hash, 1)); err == nil {
		t.Error("too few hashes")
	}
}

func TestProofText(t *testing.T) {
	hashes := goldenHashes(t)
	keys, _ := ParseKeys(goldenVKey)
	need, _ := InclusionHashes(3, 1)
	r, err := CollectHashes(CompactRange{}, each(hashes), need...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := ProveInclusion(3, 1, r)
	if err != nil {
		t.Fatal(err)
	}
	p := Proof{Seq: 1, Hashes: list, Checkpoint: []byte(goldenNote)}
	text := p.Format()
	want := "c2sp.org/tlog-proof@v1\nindex 1\nc6Li1BJ5+0N8l9CT/KU89+sjiCK4BnoBilkqj0lq2cI=\n91g/elACtOJbtuMPU16gtHZqWCAcnedjUrXQEITVqvw=\n\n" + goldenNote
	if string(text) != want {
		t.Fatalf("%s", text)
	}
	back, err := ParseProof(text)
	if diff := cmp.Diff(p, back); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	receipt := Receipt{ID: "01KGB7ZK00000000000000000B", Seq: 1, Hash: hashes[1]}
	if c, err := back.Check(keys, receipt); err != nil || c.Size != 3 {
		t.Error(c, err)
	}
	if _, err := back.Check(Keys{}, receipt); !errors.Is(err, ErrUnknownKey) {
		t.Error(err)
	}
	receipt.Hash[0] ^= 1
	if _, err := back.Check(keys, receipt); !errors.Is(err, ErrProof) {
		t.Error(err)
	}
	receipt.Seq = 2
	if _, err := back.Check(keys, receipt); !errors.Is(err, ErrProof) {
		t.Error(err)
	}
	// Every byte of a proof counts.
	for i := range text {
		changed := bytes.Clone(text)
		changed[i] ^= 1
		p, err := ParseProof(changed)
		if err == nil {
			_, err = p.Check(keys, Receipt{Seq: 1, Hash: hashes[1]})
		}
		if err == nil {
			t.Errorf("byte %d changed from %q to %q is not seen", i, text[i], changed[i])
		}
	}
	for _, bad := range []string{"", "x\n\n", strings.Replace(want, "index 1", "index 01", 1), strings.Replace(want, "index", "extra eA==\nindex", 1), strings.Replace(want, "2cI=", "2cJ=", 1), strings.Replace(want, "AvE=", "AvF=", 1),
		"c2sp.org/tlog-proof@v1\nindex 1\n" + strings.Repeat(base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n", 64) + "\n" + goldenNote} {
		if _, err := ParseProof([]byte(bad)); !errors.Is(err, ErrProof) && !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
