package audit

import (
	"errors"
	"time"
)

// ErrNoEntry reports an id that no entry of the log has.
var ErrNoEntry = errors.New("no such audit entry")

// Filter selects entries. Zero members do not restrict. The time range is
// half-open, [Start, End), on Timestamp.
type Filter struct {
	Actor   string
	Subject string
	Type    string
	// Party restricts to entries that concern it: as actor, as subject or as one
	// of the parties.
	Party string
	// Agent is a second Party: both must hold.
	Agent      string
	Start, End time.Time
}
