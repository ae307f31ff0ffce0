package audit

import "github.com/go-json-experiment/json/jsontext"

// Reason is the code of what is wrong with a log; "" is nothing.
type Reason string

// The reasons. Checks of one entry run in the order LimitsExceeded, Malformed,
// NotCanonical, HashMismatch, ColumnMismatch, Seq..., LinkMismatch (or
// GenesisMismatch), ID..., TimeRegression; an entry reports the first.
const (
	LimitsExceeded Reason = "limits_exceeded" // larger or deeper than an entry may be
	Malformed      Reason = "malformed"       // not strict JSON, or a member is wrong or missing
	NotCanonical   Reason = "not_canonical"   // JSON in another spelling than RFC 8785
	HashMismatch   Reason = "hash_mismatch"   // the octets do not have the stored hash
	ColumnMismatch Reason = "column_mismatch" // an index column contradicts the octets

	SeqGap          Reason = "seq_gap"          // an entry is missing
	SeqDuplicate    Reason = "seq_duplicate"    // a position is taken twice
	LinkMismatch    Reason = "link_mismatch"    // previous_hash is not the hash of the entry before
	GenesisMismatch Reason = "genesis_mismatch" // entry 0 does not begin this log
	IDDuplicate     Reason = "id_duplicate"     // the id of the entry before, again
	IDInvalid       Reason = "id_invalid"       // not a ULID, or not after the one before
	TimeRegression  Reason = "time_regression"  // earlier than the entry before

	Truncated           Reason = "truncated"            // entries at the end are missing
	CheckpointMismatch  Reason = "checkpoint_mismatch"  // the tree has another root than was signed
	CheckpointMissing   Reason = "checkpoint_missing"   // a checkpoint that was signed is not there
	CheckpointSignature Reason = "checkpoint_signature" // a known key's signature is wrong
	UnknownKey          Reason = "unknown_key"          // signed by no key that is trusted
	RolledBack          Reason = "rolled_back"          // shorter than what somebody remembers
	Forked              Reason = "forked"               // another history than somebody remembers
	HeadMismatch        Reason = "head_mismatch"        // the head row contradicts the last entry
	PruneInvalid        Reason = "prune_invalid"        // what is said about the removed prefix is wrong
	PruneMissing        Reason = "prune_missing"        // a prefix was removed without its record
	TrailerMismatch     Reason = "trailer_mismatch"     // header or trailer of an export contradict its lines
	AssuranceTooLow     Reason = "assurance_too_low"    // less than was required
	GuardMissing        Reason = "guard_missing"        // a trigger of the store is gone; a warning

	// Found by comparing the log with the tables it describes.
	IndexMismatch Reason = "index_mismatch" // an index of the log is out of step
	RowMissing    Reason = "row_missing"    // an entry without its business row
	EntryMissing  Reason = "entry_missing"  // a business row or a receipt without its entry
	RowMismatch   Reason = "row_mismatch"   // a business row that is not what was logged
)

// MarshalJSON writes the code, and no reason as null.
func (r Reason) MarshalJSON() ([]byte, error) {
	if r == "" {
		return []byte("null"), nil
	}
	return jsontext.AppendQuote(nil, string(r))
}
