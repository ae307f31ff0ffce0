package audit

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go/internal/canonicaljson"
)

// MaxOctets is the largest entry, in bytes of its preimage.
const MaxOctets = 60_000

// Event types. The first seven are the billable ones: each such fact has exactly
// one entry, in the same transaction. The others are the operator's own acts.
const (
	TaskStarted       = "task.started"       // actor: the consumer; subject: the task
	TaskCompleted     = "task.completed"     // actor: the agent; subject: the task
	TaskFailed        = "task.failed"        // actor: the agent; subject: the task
	UsageRecorded     = "usage.recorded"     // actor: the agent; subject: the task
	DelegationCreated = "delegation.created" // actor: the issuer; subject: the token id
	DelegationRevoked = "delegation.revoked" // actor: who revoked; subject: the token id
	SLABreach         = "sla.breach"         // actor: the agent; subject: the breach id

	TaskRefused      = "task.refused"      // only if the node is told to log refusals
	UsageCorrected   = "usage.corrected"   // a manual correction of a record
	UsagePurged      = "usage.purged"      // records removed from the usage store
	AuditPruned      = "audit.pruned"      // a prefix of this log was removed; see [Prune]
	AuditRedacted    = "audit.redacted"    // a committed value was erased
	RetentionChanged = "retention.changed" // how long things are kept
	KeyRotated       = "key.rotated"       // another signing key from here on
	ConfigChanged    = "config.changed"    // the node runs with other settings
)

// ErrEvent is wrapped by every refusal of [Append]: the event breaks a rule of
// the entry format. The head is unchanged, other events can follow.
var ErrEvent = errors.New("audit event refused")

// Event is what happened, as its author says it; [Append] makes an [Entry] of it.
type Event struct {
	// Type is one of the constants above or another name of a-z, 0-9, '.', '_'
	// and '-', up to 64 bytes.
	Type string
	// Actor is the URN of who acted: printable ASCII, at most 256 bytes.
	Actor string
	// Subject is the id of what was acted on. Any valid UTF-8.
	Subject string
	// Parties are the URNs of those concerned, sorted and without repetition;
	// empty leaves the member out.
	Parties []string
	// RowHash is the digest of the business row the entry stands for, if any.
	RowHash *[32]byte
	// Details is a JSON object; nil stands for {}. It need not be canonical;
	// if it is, it is copied after one check.
	Details jsontext.Value
}

// Head is the end of a log: everything the next entry depends on.
type Head struct {
	Size        int64    // entries so far, which is the seq of the next one
	Hash        [32]byte // hash of the last entry, or of the genesis text
	TimestampUS int64    // timestamp of the last entry, Unix microseconds
	LastID      string   // id of the last entry, "" if there is none
}

// GenesisHash is the previous_hash of entry 0 of the log named origin:
// SHA-256("asap.audit.v1\n" + origin + "\n").
func GenesisHash(origin string) [32]byte {
	return sha256.Sum256([]byte("asap.audit.v1\n" + origin + "\n"))
}

// GenesisHead is the head of the empty log named origin. [CheckOrigin] says
// which names are allowed.
func GenesisHead(origin string) Head { return Head{Hash: GenesisHash(origin)} }

// CheckOrigin reports whether origin can name a log: valid UTF-8, neither empty
// nor with white space, control characters or '+' (the rules for the name of a
// signed-note key), at most 256 bytes.
func CheckOrigin(origin string) error {
	if origin == "" || len(origin) > 256 || !utf8.ValidString(origin) {
		return errors.New("log origin must be 1 to 256 bytes of UTF-8")
	}
	for _, r := range origin {
		if r <= ' ' || r == '+' || r == 0x7f || isSpace(r) {
			return fmt.Errorf("log origin %q holds white space, a control character or '+'", origin)
		}
	}
	return nil
}

// Entry is one sealed line of the log. Octets is the truth, the other fields
// say the same.
type Entry struct {
	Seq          int64     // position, from 0; the index of its Merkle leaf
	ID           string    // ULID, strictly increasing along the log
	Timestamp    time.Time // UTC, microseconds, never before the entry ahead of it
	Type         string
	Actor        string
	Subject      string
	Parties      []string
	RowHash      *[32]byte
	Details      jsontext.Value // canonical; shares memory with Octets
	PreviousHash [32]byte
	Hash         [32]byte // SHA-256 of Octets; not part of them
	Octets       []byte   // the preimage: RFC 8785 form of every member but hash
	// Unknown names members this version has no meaning for. They are hashed
	// like all others.
	Unknown []string
}

// Append makes the entry that follows h and returns it with the new head. It is
// pure: it stores nothing, and an event it refuses (ErrEvent) leaves the log as
// it was. The timestamp is now, or that of the last entry if the clock is
// behind it, cut to microseconds. The id is a ULID of the same instant, made of
// entropy, which is read once per millisecond (10 bytes); within one
// millisecond ids count up.
func Append(h Head, now time.Time, ev Event, entropy io.Reader) (Entry, Head, error) {
	details, err := ev.check()
	if err != nil {
		return Entry{}, h, err
	}
	us := max(now.UnixMicro(), h.TimestampUS)
	if us > maxTimestampUS {
		return Entry{}, h, fmt.Errorf("%w: time %s is after the year 9999", ErrEvent, now.UTC().Format(time.RFC3339))
	}
	if h.Size < 0 || h.Size > maxSafeInteger-1 {
		return Entry{}, h, fmt.Errorf("%w: log size %d", ErrEvent, h.Size)
	}
	id, err := nextID(h.LastID, us, entropy)
	if err != nil {
		return Entry{}, h, err
	}

	b := make([]byte, 0, 320+len(ev.Actor)+len(ev.Subject)+len(details)+len(ev.Type)+64*len(ev.Parties))
	b = append(b, `{"actor":"`...)
	b = append(b, ev.Actor...)
	b = append(b, `","details":`...)
	from := len(b)
	b = append(b, details...)
	to := len(b)
	b = append(b, `,"event_type":"`...)
	b = append(b, ev.Type...)
	b = append(b, `","id":"`...)
	b = append(b, id[:]...)
	b = append(b, '"')
	if len(ev.Parties) > 0 {
		b = append(b, `,"parties":[`...)
		for i, p := range ev.Parties {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(append(append(b, '"'), p...), '"')
		}
		b = append(b, ']')
	}
	b = append(b, `,"previous_hash":"`...)
	b = appendHex(b, &h.Hash)
	if ev.RowHash != nil {
		b = append(b, `","row_hash":"`...)
		b = appendHex(b, ev.RowHash)
	}
	b = append(b, `","seq":`...)
	b = strconv.AppendInt(b, h.Size, 10)
	b = append(b, `,"subject":`...)
	b, err = jsontext.AppendQuote(b, ev.Subject)
	if err != nil {
		return Entry{}, h, fmt.Errorf("%w: subject: %w", ErrEvent, err)
	}
	b = append(b, `,"timestamp":"`...)
	b = appendTimestamp(b, us)
	b = append(b, '"', '}')
	if len(b) > MaxOctets {
		return Entry{}, h, fmt.Errorf("%w: %d bytes, more than %d", ErrEvent, len(b), MaxOctets)
	}

	e := Entry{
		Seq:          h.Size,
		ID:           string(id[:]),
		Timestamp:    time.UnixMicro(us).UTC(),
		Type:         ev.Type,
		Actor:        ev.Actor,
		Subject:      ev.Subject,
		Parties:      ev.Parties,
		RowHash:      ev.RowHash,
		Details:      jsontext.Value(b[from:to:to]),
		PreviousHash: h.Hash,
		Hash:         sha256.Sum256(b),
		Octets:       b,
	}
	return e, Head{Size: h.Size + 1, Hash: e.Hash, TimestampUS: us, LastID: e.ID}, nil
}

// check tells whether the event may be logged and returns its canonical details.
func (ev *Event) check() (jsontext.Value, error) {
	if !isEventType(ev.Type) {
		return nil, fmt.Errorf("%w: event type %q", ErrEvent, clip(ev.Type))
	}
	if !isURN(ev.Actor) {
		return nil, fmt.Errorf("%w: actor %q is not a URN in ASCII", ErrEvent, clip(ev.Actor))
	}
	for i, p := range ev.Parties {
		if !isURN(p) {
			return nil, fmt.Errorf("%w: party %q is not a URN in ASCII", ErrEvent, clip(p))
		}
		if i > 0 && ev.Parties[i-1] >= p {
			return nil, fmt.Errorf("%w: parties are not sorted or not unique at %q", ErrEvent, clip(p))
		}
	}
	return canonicalDetails(ev.Details)
}

// detailsDepth is the level of the details object within the entry.
const detailsDepth = 2

func canonicalDetails(v jsontext.Value) (jsontext.Value, error) {
	if len(v) == 0 {
		return jsontext.Value("{}"), nil
	}
	if v[0] == '{' && isCanonical(v, detailsDepth) {
		return v, nil
	}
	if len(v) > 8*MaxOctets { // escapes and white space shrink, but not by more
		return nil, fmt.Errorf("%w: details of %d bytes", ErrEvent, len(v))
	}
	c, err := canonicaljson.Canonical(v, canonicaljson.Options{MaxDepth: maxDepth - detailsDepth + 1})
	if err != nil {
		return nil, fmt.Errorf("%w: details: %w", ErrEvent, err)
	}
	if c[0] != '{' {
		return nil, fmt.Errorf("%w: details are not a JSON object", ErrEvent)
	}
	// An exponent form can turn into an integer beyond 2^53 (1e17), which a
	// reader of the canonical text would have to refuse.
	if !isCanonical(c, detailsDepth) {
		return nil, fmt.Errorf("%w: details: %w", ErrEvent, canonicaljson.ErrNumber)
	}
	return c, nil
}

// EntryError says which rule octets break that [ParseEntry] refuses.
type EntryError struct {
	Reason  Reason // LimitsExceeded, Malformed or NotCanonical
	Message string
}

// Error implements error.
func (e *EntryError) Error() string { return "audit entry: " + string(e.Reason) + ": " + e.Message }

// ParseEntry reads the preimage of an entry. It accepts what [Append] writes,
// and members that a later version adds; everything else is an *EntryError.
// The result shares memory with octets. Hash is computed, not compared: nothing
// here says that the entry belongs to a log.
func ParseEntry(octets []byte) (Entry, error) {
	var f fields
	if err := f.parse(octets, false); err != nil {
		return Entry{}, err
	}
	if !isHex(f.previousHash) {
		return Entry{}, &EntryError{Malformed, "previous_hash is not 64 hexadecimal digits"}
	}
	return f.entry(octets), nil
}

// entry builds the Entry of octets that were parsed into f.
func (f *fields) entry(octets []byte) Entry {
	e := Entry{
		Seq:          f.seq,
		ID:           string(f.id),
		Timestamp:    time.UnixMicro(f.timestampUS).UTC(),
		Type:         string(f.eventType),
		Actor:        string(f.actor),
		Subject:      unescape(f.subject),
		Details:      jsontext.Value(f.details),
		PreviousHash: unhex(f.previousHash),
		Hash:         sha256.Sum256(octets),
		Octets:       octets,
	}
	if f.rowHash != nil {
		h := unhex(f.rowHash)
		e.RowHash = &h
	}
	if f.parties > 0 {
		e.Parties = f.partyList(octets)
	}
	if f.unknown > 0 {
		e.Unknown = f.unknownNames(octets)
	}
	return e
}
