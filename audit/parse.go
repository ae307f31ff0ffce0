package audit

import (
	"bytes"
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
	for first := true; ; first = false {
		at := s.i
		n, ok := s.name()
		if !ok || (!first && !last.before(n)) {
			return notJCS
		}
		last = n
		if !withHash && f.hashFrom == 0 && hashName.before(n) {
			f.hashFrom = at
		}
		if problem := f.member(&s, n, at, withHash); problem != "" {
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

// member reads the value of the member called n, whose name begins at offset at.
func (f *fields) member(s *scanner, n name, at int, withHash bool) string {
	switch string(n.raw) {
	case "actor":
		if f.actor = s.ascii(); f.actor == nil || !isURN(f.actor) {
			return "actor is not a URN in ASCII"
		}
	case "details":
		from := s.i
		if s.peek() != '{' || !s.value(detailsDepth) {
			return "details are not an object"
		}
		f.details, f.sawDetails = s.b[from:s.i:s.i], true
	case "event_type":
		if f.eventType = s.ascii(); f.eventType == nil || !isEventType(f.eventType) {
			return "event_type"
		}
	case "hash":
		if !withHash {
			return "the preimage holds a hash"
		}
		if f.hash = s.ascii(); len(f.hash) != 64 || !s.byte(',') {
			return "hash is not 64 hexadecimal digits"
		}
		s.i-- // the caller reads the comma
		f.hashFrom, f.hashTo = at, s.i+1
	case "id":
		if f.id = s.ascii(); f.id == nil {
			return "id is not text"
		}
	case "parties":
		f.partiesFrom = s.i
		return f.readParties(s)
	case "previous_hash":
		if f.previousHash = s.ascii(); len(f.previousHash) != 64 {
			return "previous_hash is not 64 hexadecimal digits"
		}
	case "row_hash":
		if f.rowHash = s.ascii(); len(f.rowHash) != 64 || !isHex(f.rowHash) {
			return "row_hash is not 64 hexadecimal digits"
		}
	case "seq":
		if f.seq, f.sawSeq = s.integer(); !f.sawSeq {
			return "seq is not an integer"
		}
	case "subject":
		if s.peek() != '"' {
			return "subject is not text"
		}
		if f.subject, _, f.sawSubject = s.text(); !f.sawSubject {
			return notJCS
		}
	case "timestamp":
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
		if p == nil || !isURN(p) || (f.parties > 0 && bytes.Compare(last, p) >= 0) {
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
func isURN[T string | []byte](u T) bool {
	if len(u) < 5 || len(u) > 256 || string(u[:4]) != "urn:" {
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

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

const hexDigits = "0123456789abcdef"

func appendHex(b []byte, h *[32]byte) []byte {
	for _, c := range h {
		b = append(b, hexDigits[c>>4], hexDigits[c&15])
	}
	return b
}

func isHex(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
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
	if len(b) != len(layout) {
		return 0, false
	}
	for i := 0; i < len(layout); i++ {
		if layout[i] == '0' {
			if b[i]-'0' > 9 {
				return 0, false
			}
		} else if b[i] != layout[i] {
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
