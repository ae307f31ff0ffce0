package audit

import (
	"errors"
	"fmt"
	"slices"
)

// advance compares all checkpoints of the size the log has reached, stored and
// remembered ones.
func (v *verifier) advance() error {
	for len(v.remembered) > 0 && v.remembered[0].Size <= v.next {
		v.recall(v.remembered[0])
		v.remembered = v.remembered[1:]
	}
	for v.pull != nil {
		if v.pending == nil {
			row, ok, err := v.pull()
			if err != nil {
				return fmt.Errorf("read checkpoints: %w", err)
			}
			if !ok {
				v.pull = nil
				return nil
			}
			row.Note = slices.Clone(row.Note)
			v.pending = &row
		}
		if v.pending.Size > v.next {
			return nil
		}
		v.checkpoint(v.pending)
		v.pending = nil
	}
	return nil
}

// drain looks at the checkpoints beyond the end of the log.
func (v *verifier) drain() error {
	if err := v.advance(); err != nil {
		return err
	}
	for v.pending != nil || v.pull != nil {
		if v.pending != nil {
			v.checkpoint(v.pending)
			v.pending = nil
			continue
		}
		row, ok, err := v.pull()
		if err != nil {
			return fmt.Errorf("read checkpoints: %w", err)
		}
		if !ok {
			v.pull = nil
			break
		}
		v.checkpoint(&row)
	}
	for _, m := range v.remembered {
		v.recall(m)
	}
	v.remembered = nil
	return nil
}

// checkpoint checks a stored checkpoint when the log has its size, or at the end.
func (v *verifier) checkpoint(row *CheckpointRow) {
	keys, pinned := v.o.Keys, true
	if keys.Empty() {
		keys, pinned = v.selfKeys, false
	}
	c, err := ParseCheckpoint(row.Note)
	if err == nil && !keys.Empty() {
		c, err = keys.Open(row.Note)
	}
	switch {
	case errors.Is(err, ErrUnknownKey):
		v.complain(UnknownKey, fmt.Sprintf("checkpoint of size %d: %v", row.Size, err))
		return
	case errors.Is(err, ErrSignature):
		v.complain(CheckpointSignature, fmt.Sprintf("checkpoint of size %d: %v", row.Size, err))
		return
	case err != nil:
		v.complain(Malformed, fmt.Sprintf("checkpoint of size %d: %v", row.Size, err))
		return
	case c.Origin != v.origin:
		v.complain(CheckpointMismatch, fmt.Sprintf("checkpoint of size %d is of the log %s", c.Size, clip(c.Origin)))
		return
	case c.Size != row.Size || c.Root != row.Root:
		v.complain(CheckpointMismatch, fmt.Sprintf("checkpoint stored for size %d: its columns are not what its note says", row.Size))
		return
	case c.Size < v.lastSize:
		v.complain(Malformed, fmt.Sprintf("checkpoint of size %d stands after one of size %d", c.Size, v.lastSize))
		return
	}
	v.lastSize = c.Size
	v.newest = c.Size
	if c.Size > v.next {
		v.report(Truncated, v.next, fmt.Sprintf("a checkpoint says %d entries, there are %d", c.Size, v.next))
		return
	}
	if !v.compare(c, CheckpointMismatch) {
		return
	}
	if pinned {
		v.sealed = c.Size
	}
}

// recall checks a checkpoint from outside the log.
func (v *verifier) recall(m memory) {
	who := "a remembered checkpoint"
	if m.signer {
		who = "the signer"
	}
	switch {
	case m.Origin != v.origin:
		v.report(Forked, 0, who+" is of the log "+clip(m.Origin))
	case m.Size > v.next:
		v.report(RolledBack, v.next, fmt.Sprintf("%s knows %d entries, there are %d", who, m.Size, v.next))
	case v.compare(m.Checkpoint, Forked) && !m.signer && m.Size > 0:
		v.recalled = true
	}
}

// compare tells whether the tree has the checkpoint's root, as far as that can
// be known: entries of this size must have been read last.
func (v *verifier) compare(c Checkpoint, otherwise Reason) bool {
	if v.broken || c.Size != v.tree.size {
		return false
	}
	if v.tree.Root() == c.Root {
		v.agreed = max(v.agreed, c.Size)
		return true
	}
	if v.mismatch < 0 {
		v.mismatch = c.Size
		v.disagreed = finding{otherwise, v.agreed, fmt.Sprintf("the tree of %d entries has another root; the last that fits has %d", c.Size, v.agreed)}
		if c.Size == v.min && v.min > 0 {
			v.disagreed = finding{PruneInvalid, v.min, "what is kept of the pruned entries does not fit the checkpoint at their end"}
		}
	}
	return false
}

// checkHead compares the head row with the last entry.
func (v *verifier) checkHead(h HeadRow) {
	switch {
	case h.Size > v.next:
		v.report(Truncated, v.next, fmt.Sprintf("the head says %d entries, there are %d", h.Size, v.next))
	case h.Size < v.next:
		v.report(HeadMismatch, v.next, fmt.Sprintf("the head says %d entries, there are %d", h.Size, v.next))
	case v.linked:
		var digits [64]byte
		encodeHex(&digits, &h.Hash)
		if digits != v.previous {
			v.report(HeadMismatch, v.next, "the head has another hash than the last entry")
		}
	}
}

// verdict weighs what was found.
func (v *verifier) verdict() Verdict {
	v.final()
	out := Verdict{
		Assurance:      None,
		EntriesChecked: v.checked,
		Size:           v.next,
		MinIndex:       v.min,
		SealedThrough:  max(v.sealed, 0),
		HeadHash:       string(v.previous[:]),
		Guards:         Guards{Missing: []string{}},
	}
	out.UnsealedTail = out.Size - out.SealedThrough
	if !v.linked {
		out.HeadHash = ""
	}
	if !v.broken {
		root := v.tree.Root()
		out.RootHash = root.String()
	}
	bad := v.best
	// A root that differs because of an entry already found bad says nothing new.
	if v.mismatch >= 0 && (bad.reason == "" || bad.seq >= v.mismatch) {
		bad = v.disagreed
	}
	if bad.reason == "" {
		bad = v.soft
	}
	if bad.reason == "" {
		bad = v.stale
	}
	if bad.reason == "" {
		out.Assurance = v.assurance()
		bad = v.demand(out)
	}
	if bad.reason != "" {
		out.Reason, out.Message = bad.reason, bad.message
		if bad.seq >= 0 {
			out.FirstBadSeq = &bad.seq
		}
		return out
	}
	out.Valid = true
	out.End = State{
		Head: Head{Size: v.next, Hash: unhex(v.previous[:]), TimestampUS: v.lastUS},
		Tree: v.tree.clone(),
	}
	if v.hasLast {
		out.End.Head.LastID = string(v.lastID[:])
	}
	return out
}

// final makes the checks that need the whole log.
func (v *verifier) final() {
	if v.firstGap >= 0 && v.prunedTo == v.firstGap && v.best.seq == 0 && v.best.reason == SeqGap {
		v.best = finding{PruneMissing, 0, fmt.Sprintf("entries before %d were pruned, but what must be kept of them is gone", v.firstGap)}
	}
	if v.prune != nil && !v.pruneOK {
		v.report(PruneInvalid, v.min, "no audit.pruned entry records this prune")
	}
	if v.next < v.o.MinSize {
		v.report(RolledBack, v.next, fmt.Sprintf("the log has %d entries, at least %d are expected", v.next, v.o.MinSize))
	}
	if s := v.o.Signer; s != nil && s.StoredSize > 0 && v.newest < s.StoredSize && s.StoredSize <= v.next {
		v.complain(CheckpointMissing, fmt.Sprintf("the signer has sealed %d entries, the newest stored checkpoint is of %d", s.StoredSize, max(v.newest, 0)))
	}
	if x := v.o.Receipt; x != nil && !v.receipt {
		message := "the log has another entry at that place"
		switch {
		case x.Seq >= v.next:
			message = "the log ends before it"
		case x.Seq < v.min:
			message = "that part of the log was pruned"
		}
		v.report(EntryMissing, x.Seq, fmt.Sprintf("entry %s of the receipt is not in the log: %s", clip(x.ID), message))
	}
}

// assurance is the level of a log in which nothing bad was found.
func (v *verifier) assurance() Assurance {
	switch {
	case v.sealed >= 0 && v.sealed == v.newest && v.recalled:
		return Consistent
	case v.sealed >= 0 && v.sealed == v.newest:
		return Sealed
	case v.checked > 0 || v.next > 0:
		return Chain
	}
	return None
}

// demand compares with what the caller requires.
func (v *verifier) demand(out Verdict) finding {
	require := v.o.Require
	if require == "" && !v.o.Keys.Empty() {
		require = Sealed
	}
	if !out.Assurance.AtLeast(require) {
		return finding{AssuranceTooLow, -1, fmt.Sprintf("the assurance is %s, %s is required", out.Assurance, require)}
	}
	if v.o.MaxUnsealed != nil && out.UnsealedTail > *v.o.MaxUnsealed {
		return finding{AssuranceTooLow, -1, fmt.Sprintf("%d entries are not sealed, at most %d may be", out.UnsealedTail, *v.o.MaxUnsealed)}
	}
	return finding{}
}

// nodePage holds stored nodes of one level, as many as a subtree of NodeSpan
// levels has leaves.
type nodePage struct {
	first  int64
	hashes [1 << NodeSpan]Hash
	known  [1 << NodeSpan]bool
}

// grow adds a leaf and compares the stored nodes that it completes.
func (v *verifier) grow(leaf Hash) {
	if v.nodes == nil || (v.tree.size+1)%(1<<NodeSpan) != 0 {
		v.tree.Add(leaf)
		return
	}
	v.tree.add(leaf, func(level int, n int64, h Hash) {
		if level > 0 && level%NodeSpan == 0 && v.nodesErr == nil {
			v.compareNode(TreeNode{level, n, h})
		}
	})
}

func (v *verifier) compareNode(want TreeNode) {
	const width = 1 << NodeSpan
	at := want.Position % width
	p := v.nodePages[want.Level]
	if first := want.Position - at; p == nil || p.first != first {
		p = &nodePage{first: first}
		for have, err := range v.nodes(want.Level, first, first+width) {
			if err != nil {
				v.nodesErr = err
				return
			}
			if i := have.Position - first; i >= 0 && i < width {
				p.hashes[i], p.known[i] = have.Hash, true
			}
		}
		if v.nodePages == nil {
			v.nodePages = map[int]*nodePage{}
		}
		v.nodePages[want.Level] = p
	}
	if p.known[at] && p.hashes[at] != want.Hash && v.stale.reason == "" {
		v.stale = finding{IndexMismatch, want.Position << want.Level,
			fmt.Sprintf("the stored tree node of level %d, position %d is not that of the entries", want.Level, want.Position)}
	}
}
