package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json"
)

// addRow checks a row of a database.
func (v *verifier) addRow(row *Row) error {
	if err := v.advance(); err != nil {
		return err
	}
	seq := row.Seq
	if seq < 0 || seq > maxSafeInteger {
		v.checked++
		v.report(Malformed, max(min(seq, v.next), 0), "an entry with an impossible seq")
		return nil
	}
	v.gapTo(seq)
	duplicate := seq < v.next

	var digits [64]byte
	var leaf [32]byte
	known := len(row.Hash) == 32
	if known {
		leaf = [32]byte(row.Hash)
		encodeHex(&digits, &leaf)
	}
	r, message := v.checkRow(row, leaf, known)
	if r == "" && duplicate {
		r, message = SeqDuplicate, "the position is taken twice"
	}
	if r == "" {
		r, message = v.checkSequence()
	}
	v.settle(seq, r, message, duplicate, known, &leaf, &digits)
	return nil
}

// checkRow runs the checks of a row that need no neighbour.
func (v *verifier) checkRow(row *Row, stored [32]byte, known bool) (Reason, string) {
	f := &v.f
	if err := f.parse(row.Octets, false); err != nil {
		return entryReason(err)
	}
	sum := sha256.Sum256(row.Octets)
	if !known || sum != stored {
		return HashMismatch, "the stored hash is not that of the octets"
	}
	if f.seq != row.Seq {
		return ColumnMismatch, "column seq says " + strconv.FormatInt(row.Seq, 10) + ", the entry " + strconv.FormatInt(f.seq, 10)
	}
	c := row.Columns
	if c == nil {
		return "", ""
	}
	var name string
	switch {
	case string(f.id) != c.ID:
		name = "id"
	case f.timestampUS != c.TimestampUS:
		name = "timestamp_us"
	case string(f.eventType) != c.EventType:
		name = "event_type"
	case string(f.actor) != c.Actor:
		name = "actor"
	case !sameText(f.subject, c.Subject):
		name = "subject"
	default:
		return "", ""
	}
	return ColumnMismatch, "column " + name + " is not what the entry says"
}

func sameText(raw []byte, text string) bool {
	return string(raw) == text && bytes.IndexByte(raw, '\\') < 0 || unescape(raw) == text
}

func entryReason(err error) (Reason, string) {
	var e *EntryError
	if errors.As(err, &e) {
		return e.Reason, e.Message
	}
	return Malformed, err.Error()
}

// addLine checks a line of an export, an entry with its hash. buf is scratch
// space; it is returned to be used again.
func (v *verifier) addLine(line, buf []byte) ([]byte, error) {
	if err := v.advance(); err != nil {
		return buf, err
	}
	f := &v.f
	if err := f.parse(line, true); err != nil {
		r, message := entryReason(err)
		v.settle(v.next, r, message, false, false, nil, nil)
		return buf, nil
	}
	// The preimage is the line without the hash member.
	buf = append(buf[:0], line[:f.hashFrom]...)
	buf = append(buf, line[f.hashTo:]...)
	sum := sha256.Sum256(buf)
	var digits [64]byte
	encodeHex(&digits, &sum)
	if string(digits[:]) != string(f.hash) {
		if !isHex(f.hash) {
			v.settle(v.next, Malformed, "hash is not 64 hexadecimal digits", false, false, nil, nil)
			return buf, nil
		}
		_, _ = hex.Decode(sum[:], f.hash)
		digits = [64]byte(f.hash)
		v.settle(v.next, HashMismatch, "the hash is not that of the entry", false, true, &sum, &digits)
		return buf, nil
	}
	seq := f.seq
	v.gapTo(seq)
	var r Reason
	var message string
	duplicate := seq < v.next
	if duplicate {
		r, message = SeqDuplicate, "the position is taken twice, or the entry stands too late"
	} else {
		r, message = v.checkSequence()
	}
	v.settle(seq, r, message, duplicate, true, &sum, &digits)
	return buf, nil
}

// checkSequence compares the parsed entry with the one before.
func (v *verifier) checkSequence() (Reason, string) {
	f := &v.f
	if v.linked && string(f.previousHash) != string(v.previous[:]) {
		switch {
		case !isHex(f.previousHash):
			return Malformed, "previous_hash is not 64 hexadecimal digits"
		case f.seq == 0:
			return GenesisMismatch, "entry 0 does not begin the log named " + clip(v.origin)
		}
		return LinkMismatch, "previous_hash is not the hash of the entry before"
	}
	if !v.linked && !isHex(f.previousHash) {
		return Malformed, "previous_hash is not 64 hexadecimal digits"
	}
	if !isULID(f.id) {
		return IDInvalid, "the id is not a ULID"
	}
	if v.hasLast {
		switch c := bytes.Compare(f.id, v.lastID[:]); {
		case c == 0:
			return IDDuplicate, "the id is that of the entry before"
		case c < 0:
			return IDInvalid, "the id sorts before that of the entry before"
		}
		if f.timestampUS < v.lastUS {
			return TimeRegression, "the timestamp is earlier than that of the entry before"
		}
	}
	return "", ""
}

// gapTo reports what is missing between the next entry and seq.
func (v *verifier) gapTo(seq int64) {
	if seq <= v.next {
		return
	}
	v.report(SeqGap, v.next, fmt.Sprintf("entries %d to %d are missing", v.next, seq-1))
	if v.next == 0 {
		v.firstGap = seq
	}
	v.next, v.linked, v.broken = seq, false, true
}

// settle takes the entry at seq over, with what was found about it. leaf and
// digits are its stored hash, nil if that is unknown.
func (v *verifier) settle(seq int64, r Reason, message string, duplicate, known bool, leaf *[32]byte, digits *[64]byte) {
	v.checked++
	if v.o.Progress != nil && v.checked%10_000 == 0 {
		v.o.Progress(v.checked)
	}
	if r != "" {
		v.report(r, seq, message)
	}
	if duplicate {
		v.broken = true
		return
	}
	v.next = seq + 1
	if v.linked = known; known {
		v.previous = *digits
		if !v.broken {
			v.grow(LeafHash(*leaf))
		}
	} else {
		v.broken = true
	}
	if r == "" || r == LinkMismatch || r == GenesisMismatch {
		copy(v.lastID[:], v.f.id)
		v.hasLast, v.lastUS = true, v.f.timestampUS
		if string(v.f.eventType) == AuditPruned {
			v.seePrune()
		}
	}
	if x := v.o.Receipt; x != nil && x.Seq == seq && r == "" {
		v.receipt = *leaf == x.Hash && string(v.f.id) == x.ID
	}
}

// seePrune notes what an audit.pruned entry records.
func (v *verifier) seePrune() {
	var d pruneDetails
	if json.Unmarshal(v.f.details, &d) != nil {
		return
	}
	v.prunedTo = max(v.prunedTo, d.To)
	if v.prune != nil && d.To == v.prune.MinIndex && d.HeadHash == hex.EncodeToString(v.prune.HeadHash[:]) {
		root := v.prune.root()
		v.pruneOK = d.Root == root.String()
	}
}
