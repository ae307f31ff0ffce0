package asap

import (
	"crypto/rand"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// Ids are free text on the wire: v1.3.0 never checks their form, so any string
// is accepted, and what this project generates is a ULID, with a prefix where
// the table in the specification (core.md, section 2) shows one.
type (
	// EnvelopeID identifies one envelope; retries carry the same one.
	EnvelopeID string
	// TaskID identifies one task; generated as "task_" and a ULID.
	TaskID string
	// ConversationID groups tasks.
	ConversationID string
)

// IDSource makes ULIDs that strictly increase within the source, also within
// one millisecond. It is safe for concurrent use. The zero value is not usable;
// call [NewIDSource].
type IDSource struct {
	mu      sync.Mutex
	entropy *ulid.MonotonicEntropy
	last    uint64
}

// NewIDSource returns a source that draws from the system's secure randomness.
func NewIDSource() *IDSource {
	return &IDSource{entropy: ulid.Monotonic(rand.Reader, 0)}
}

// New returns the ULID of the instant now: 26 characters of upper-case
// Crockford base32. If now is before an id already given, the time of that id
// is used, so ids never go backwards.
func (s *IDSource) New(now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ms := max(ulid.Timestamp(now), s.last)
	id, err := ulid.New(ms, s.entropy)
	if err != nil { // the 80 random bits of one millisecond are used up
		ms++
		id = ulid.MustNew(ms, s.entropy)
	}
	s.last = ms
	return id.String()
}

// NewTaskID returns a fresh task id.
func (s *IDSource) NewTaskID(now time.Time) TaskID { return TaskID("task_" + s.New(now)) }

// NewEnvelopeID returns a fresh envelope id.
func (s *IDSource) NewEnvelopeID(now time.Time) EnvelopeID { return EnvelopeID(s.New(now)) }
