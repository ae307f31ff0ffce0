package audit

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"time"
	"unicode"

	"github.com/asap-protocol/asap-go/internal/canonicaljson"
)

// fields are the members of one entry, as slices of the text they were read
// from: nothing is copied on the way of verification.
type fields struct {
	seq                                     int64
	timestampUS                             int64
	id, eventType, actor                    []byte
	subject                                 []byte // between the quotes, escapes as written
	details                                 []byte
	previousHash, rowHash                   []byte // 64 hexadecimal digits
	hash                                    []byte // the same; only in an export line
	hashFrom, hashTo                        int    // where the hash member stands, with its comma, or would stand
	parties, partiesFrom, unknown           int
	sawSeq, sawSubject, sawDetails, sawTime bool
}

// parse reads octets, an entry without hash, or with withHash a line of an
// export, an entry that has one. All bytes are checked.
func (f *fields) parse(octets []byte, withHash bool) error {
	*f = fields{}
	limit := MaxOctets
	if withHash {
		limit += hashMemberLen
	}
	if len(octets) > limit {
		return &EntryError{LimitsExceeded, "more than 60000 bytes"}
	}
	if problem := f.scan(octets, withHash); problem != "" {
		return classify(octets, problem)
	}
	return nil
}

// hashMemberLen is the length of `"hash":"...",`.
const hashMemberLen = len(`"hash":"",`) + 64

// A member is an index into memberNames.
type member int

const (
	memberActor member = iota
	memberDetails
	memberEventType
	memberHash
	memberID
	memberParties
	memberPreviousHash
	memberRowHash
	memberSeq
	memberSubject
	memberTimestamp
	noMember member = -1
)

// memberNames are those of an entry, in the order of RFC 8785, as they are
// written.
var memberNames = [...]string{
	`"actor":`, `"details":`, `"event_type":`, `"hash":`, `"id":`, `"parties":`,
	`"previous_hash":`, `"row_hash":`, `"seq":`, `"subject":`, `"timestamp":`,
}

// known reads one of memberNames, from index passed on. One that was passed
// would stand out of order.
func (s *scanner) known(passed int) (name, member) {
	for i := passed; i < len(memberNames); i++ {
		if m := memberNames[i]; s.literal(m) {
			return name{s.b[s.i-len(m)+1 : s.i-2], true}, member(i)
		}
	}
	return name{}, noMember
}

var hashName = name{[]byte("hash"), true}

const notJCS = "not RFC 8785 JSON"

// scan does the work of parse in one pass; its result is "" or what is wrong,
// which is only used if the bytes are canonical JSON: see classify.
func (f *fields) scan(b []byte, withHash bool) string {
	s := scanner{b: b}
	if !s.byte('{') {
		return notJCS
	}
	var last name
	lastMember := noMember // unless the last name is in memberNames
	for passed, first := 0, true; ; first = false {
		at := s.i
		n, m := s.known(passed)
		ordered := first || (m != noMember && lastMember != noMember)
		if m != noMember {
			passed = int(m) + 1
		} else {
			var ok bool
			if n, ok = s.name(); !ok {
				return notJCS
			}
		}
		if !ordered && !last.before(n) {
			return notJCS
		}
		last, lastMember = n, m
		if !withHash && f.hashFrom == 0 && (m > memberHash || m == noMember && hashName.before(n)) {
			f.hashFrom = at
		}
		if problem := f.member(&s, m, at, withHash); problem != "" {
			return problem
		}
		if s.byte(',') {
			continue
		}
		break
	}
	if !s.byte('}') || s.i != len(b) {
		return notJCS
	}
	switch {
	case f.actor == nil, f.eventType == nil, f.id == nil, f.previousHash == nil,
		!f.sawSeq, !f.sawSubject, !f.sawDetails, !f.sawTime, withHash && f.hash == nil:
		return "a member is missing"
	}
	return ""
}

// member reads the value of m, whose name begins at offset at.
func (f *fields) member(s *scanner, m member, at int, withHash bool) string {
	switch m {
	case memberActor:
		if f.actor = s.ascii(); f.actor == nil || !isPlainURN(f.actor) {
			return "actor is not a URN in ASCII"
		}
	case memberDetails:
		from := s.i
		if s.peek() != '{' || !s.value(detailsDepth) {
			return "details are not an object"
		}
		f.details, f.sawDetails = s.b[from:s.i:s.i], true
	case memberEventType:
		if f.eventType = s.ascii(); f.eventType == nil || !isEventType(f.eventType) {
			return "event_type"
		}
	case memberHash:
		if !withHash {
			return "the preimage holds a hash"
		}
		if f.hash = s.ascii(); len(f.hash) != 64 || !s.byte(',') {
			return "hash is not 64 hexadecimal digits"
		}
		s.i-- // the caller reads the comma
		f.hashFrom, f.hashTo = at, s.i+1
	case memberID:
		if f.id = s.ascii(); f.id == nil {
			return "id is not text"
		}
	case memberParties:
		f.partiesFrom = s.i
		return f.readParties(s)
	case memberPreviousHash:
		if f.previousHash = s.ascii(); len(f.previousHash) != 64 {
			return "previous_hash is not 64 hexadecimal digits"
		}
	case memberRowHash:
		if f.rowHash = s.ascii(); len(f.rowHash) != 64 || !isHex(f.rowHash) {
			return "row_hash is not 64 hexadecimal digits"
		}
	case memberSeq:
		if f.seq, f.sawSeq = s.integer(); !f.sawSeq {
			return "seq is not an integer"
		}
	case memberSubject:
		if s.peek() != '"' {
			return "subject is not text"
		}
		if f.subject, _, f.sawSubject = s.text(); !f.sawSubject {
			return notJCS
		}
	case memberTimestamp:
		if f.timestampUS, f.sawTime = parseTimestamp(s.ascii()); !f.sawTime {
			return "timestamp is not YYYY-MM-DDTHH:MM:SS.ffffffZ"
		}
	default:
		f.unknown++
		if !s.value(2) {
			return notJCS
		}
	}
	return ""
}

func (f *fields) readParties(s *scanner) string {
	if !s.byte('[') {
		return "parties are not a list"
	}
	var last []byte
	for {
		p := s.ascii()
		if p == nil || !isPlainURN(p) || (f.parties > 0 && bytes.Compare(last, p) >= 0) {
			return "parties are not sorted unique URNs"
		}
		last = p
		f.parties++
		if s.byte(',') {
			continue
		}
		if !s.byte(']') {
			return notJCS
		}
		return ""
	}
}

func (f *fields) partyList(b []byte) []string {
	list := make([]string, 0, f.parties)
	s := scanner{b: b, i: f.partiesFrom}
	for range f.parties {
		s.i++ // [ or ,
		list = append(list, string(s.ascii()))
	}
	return list
}

func (f *fields) unknownNames(b []byte) []string {
	s, list := scanner{b: b, i: 1}, make([]string, 0, f.unknown)
	for {
		n, ok := s.name()
		if !ok {
			return list
		}
		switch string(n.raw) {
		case "actor", "details", "event_type", "hash", "id", "parties", "previous_hash", "row_hash", "seq", "subject", "timestamp":
		default:
			list = append(list, unescape(n.raw))
		}
		s.value(2)
		s.byte(',')
	}
}

// ascii reads a string of ASCII without escapes; nil is anything else.
func (s *scanner) ascii() []byte {
	if s.peek() != '"' {
		return nil
	}
	raw, plain, ok := s.text()
	if !ok || !plain {
		return nil
	}
	return raw[:len(raw):len(raw)]
}

// classify says what octets that scan refused are: over a limit, not strict
// JSON, strict JSON in another spelling, or canonical with a wrong member.
func classify(octets []byte, problem string) error {
	err := canonicaljson.Check(octets, canonicaljson.Options{MaxDepth: maxDepth})
	switch {
	case errors.Is(err, canonicaljson.ErrDepth):
		return &EntryError{LimitsExceeded, "nested more than 32 levels"}
	case err != nil:
		return &EntryError{Malformed, err.Error()}
	case !isCanonical(octets, 1):
		return &EntryError{NotCanonical, notJCS}
	}
	return &EntryError{Malformed, problem}
}

func isEventType[T string | []byte](t T) bool {
	if len(t) == 0 || len(t) > 64 {
		return false
	}
	for i := 0; i < len(t); i++ {
		switch c := t[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// isURN tells whether u is a URN as far as the log cares: "urn:" and printable
// ASCII that needs no JSON escape.
func isURN(u string) bool {
	if len(u) < 5 || len(u) > 256 || u[:4] != "urn:" {
		return false
	}
	for i := 4; i < len(u); i++ {
		if c := u[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func isSpace(r rune) bool { return unicode.IsSpace(r) }

// isPlainURN is isURN for what ascii has read.
func isPlainURN(u []byte) bool {
	return len(u) >= 5 && len(u) <= 256 && string(u[:4]) == "urn:" && bytes.IndexByte(u, ' ') < 0 && bytes.IndexByte(u, 0x7f) < 0
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

func appendHex(b []byte, h *[32]byte) []byte {
	var digits [64]byte
	encodeHex(&digits, h)
	return append(b, digits[:]...)
}

// encodeHex writes the digits of h, four bytes at a time: their eight nibbles
// are spread over a word, and those above 9 moved on to the letters.
func encodeHex(digits *[64]byte, h *[32]byte) {
	for i := 0; i < len(h); i += 4 {
		x := uint64(binary.BigEndian.Uint32(h[i:]))
		x = (x | x<<16) & 0x0000ffff0000ffff
		x = (x | x<<8) & 0x00ff00ff00ff00ff
		x = (x | x<<4) & 0x0f0f0f0f0f0f0f0f
		letters := (x + ones*6) >> 4 & ones
		binary.BigEndian.PutUint64(digits[2*i:], x+ones*'0'+letters*('a'-'9'-1))
	}
}

// isHex tells whether b, whose length is a multiple of 8, holds lower-case
// hexadecimal digits only. Adding moves the high bit of a byte across the
// bounds of '0' to '9' and of 'a' to 'f'.
func isHex(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		w := binary.LittleEndian.Uint64(b)
		low := w &^ highs
		digit := (low + ones*(0x80-'0')) &^ (low + ones*(0x80-'9'-1))
		letter := (low + ones*(0x80-'a')) &^ (low + ones*(0x80-'f'-1))
		if (digit|letter)&^w&highs != highs {
			return false
		}
	}
	return len(b) == 0
}

// unhex decodes 64 digits that were checked.
func unhex(b []byte) (h [32]byte) {
	_, _ = hex.Decode(h[:], b)
	return h
}

// maxTimestampUS is 9999-12-31T23:59:59.999999Z.
const maxTimestampUS = 253402300799999999

// appendTimestamp writes RFC 3339 UTC with six fractional digits.
func appendTimestamp(b []byte, us int64) []byte {
	t := time.UnixMicro(us).UTC()
	y, m, d := t.Date()
	hh, mm, ss := t.Clock()
	two := func(b []byte, n int) []byte { return append(b, '0'+byte(n/10), '0'+byte(n%10)) }
	b = two(two(b, y/100), y%100)
	b = two(append(b, '-'), int(m))
	b = two(append(b, '-'), d)
	b = two(append(b, 'T'), hh)
	b = two(append(b, ':'), mm)
	b = two(append(b, ':'), ss)
	f := t.Nanosecond() / 1000
	b = two(append(b, '.'), f/10000)
	b = two(two(b, f/100%100), f%100)
	return append(b, 'Z')
}

// parseTimestamp reads what appendTimestamp writes and nothing else.
func parseTimestamp(b []byte) (us int64, ok bool) {
	const layout = "0000-00-00T00:00:00.000000Z"
	if len(b) != len(layout) || b[4] != '-' || b[7] != '-' || b[10] != 'T' || b[13] != ':' || b[16] != ':' || b[19] != '.' || b[26] != 'Z' {
		return 0, false
	}
	_ = b[26]
	for i := range len(layout) {
		if layout[i] == '0' && b[i]-'0' > 9 {
			return 0, false
		}
	}
	two := func(i int) int { return int(b[i]-'0')*10 + int(b[i+1]-'0') }
	y, m, d := two(0)*100+two(2), two(5), two(8)
	hh, mm, ss := two(11), two(14), two(17)
	if y < 1970 || m < 1 || m > 12 || d < 1 || d > daysIn(y, m) || hh > 23 || mm > 59 || ss > 59 {
		return 0, false
	}
	seconds := daysSinceEpoch(y, m, d)*86400 + int64(hh*3600+mm*60+ss)
	return seconds*1_000_000 + int64(two(20)*10000+two(22)*100+two(24)), true
}

func daysIn(y, m int) int {
	switch m {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if y%4 == 0 && (y%100 != 0 || y%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysSinceEpoch counts days from 1970-01-01, with years that start in March.
func daysSinceEpoch(y, m, d int) int64 {
	if m <= 2 {
		y--
		m += 12
	}
	return int64(365*y+y/4-y/100+y/400+(153*(m-3)+2)/5+d) - 719469
}
