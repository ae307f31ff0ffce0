package metering

import "time"

// Position is a place in the list of records ordered by (Timestamp, Sequence).
// The zero Position is before the first record.
type Position struct {
	TimestampUS int64 // microseconds since 1970
	Sequence    int64
}

// Position returns the place of the record itself; a page that continues after
// it starts with the next record.
func (r *Record) Position() Position {
	return Position{TimestampUS: r.Timestamp.UnixMicro(), Sequence: r.Sequence}
}

// IsZero tells whether p is before the first record.
func (p Position) IsZero() bool { return p == Position{} }

// Page selects a part of the list of records ordered by (Timestamp, Sequence).
type Page struct {
	After  Position // continue behind this one
	Offset int      // then leave out so many
	Limit  int      // and return at most so many, at least 1
}

// Stats describe what a store holds.
type Stats struct {
	Records   int64         // stored records, corrections included
	Oldest    time.Time     // smallest Timestamp; zero if there is none
	Retention time.Duration // how long records are kept; 0 means for ever
	// PurgedBefore is the time before which records were purged; zero if none
	// were. Their totals are still in the rollups.
	PurgedBefore time.Time
}

// Receipt proves that a fact is in the ledger: the audit entry that carries it.
type Receipt struct {
	Seq     int64    // position of the audit entry
	EntryID string   // its id
	Hash    [32]byte // its hash
}

// Recorded says what became of one record handed to the ledger.
type Recorded struct {
	Record  Record  // as stored: id, cost, sequence and received_at filled in
	Receipt Receipt // of the usage.recorded entry
	// Duplicate tells that the same record was stored before; Record and
	// Receipt are the first ones.
	Duplicate bool
	// Err is why this one was refused, when records are taken one by one.
	// ErrConflict: the id is taken by other content.
	Err error
}
