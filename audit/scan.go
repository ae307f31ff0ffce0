package audit

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth is the nesting allowed in an entry; the entry itself is level 1.
const maxDepth = 32

const (
	maxSafeInteger       = 1<<53 - 1
	maxSafeIntegerDigits = "9007199254740991"
)

// A scanner walks bytes that should be RFC 8785 JSON and stops at the first one
// that is not: white space, an escape JCS would not write, a member out of
// order or twice, a number in another spelling or beyond ±(2^53-1) if it is an
// integer. It reads every byte once and allocates only for rare shapes
// (fractions, escaped or non-ASCII member names).
type scanner struct {
	b []byte
	i int
}

// isCanonical tells whether b is exactly one RFC 8785 value whose nesting, when
// it starts at level depth, stays within maxDepth.
func isCanonical(b []byte, depth int) bool {
	s := scanner{b: b}
	return s.value(depth) && s.i == len(b)
}

func (s *scanner) byte(c byte) bool {
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) literal(text string) bool {
	if len(s.b)-s.i >= len(text) && string(s.b[s.i:s.i+len(text)]) == text {
		s.i += len(text)
		return true
	}
	return false
}

// value reads one value; a container opened here is at level depth.
func (s *scanner) value(depth int) bool {
	switch s.peek() {
	case '"':
		_, _, ok := s.text()
		return ok
	case '{':
		return s.object(depth)
	case '[':
		return s.array(depth)
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		return s.number()
	}
}

func (s *scanner) object(depth int) bool {
	if depth > maxDepth {
		return false
	}
	s.i++ // {
	if s.byte('}') {
		return true
	}
	var last name
	for first := true; ; first = false {
		n, ok := s.name()
		if !ok || (!first && !last.before(n)) {
			return false
		}
		last = n
		if !s.value(depth + 1) {
			return false
		}
		if s.byte(',') {
			continue
		}
		return s.byte('}')
	}
}

func (s *scanner) array(depth int) bool {
	if depth > maxDepth {
		return false
	}
	s.i++ // [
	if s.byte(']') {
		return true
	}
	for {
		if !s.value(depth + 1) {
			return false
		}
		if s.byte(',') {
			continue
		}
		return s.byte(']')
	}
}

// A name is a member name: raw is what stands between the quotes, plain means
// that it is ASCII without escapes and so sorts by its bytes.
type name struct {
	raw   []byte
	plain bool
}

// name reads a member name and its colon.
func (s *scanner) name() (name, bool) {
	if s.peek() != '"' {
		return name{}, false
	}
	raw, plain, ok := s.text()
	return name{raw, plain}, ok && s.byte(':')
}

// before tells whether a sorts strictly before b, by UTF-16 code units.
func (a name) before(b name) bool {
	if a.plain && b.plain {
		return bytes.Compare(a.raw, b.raw) < 0
	}
	x, y := utf16.Encode([]rune(unescape(a.raw))), utf16.Encode([]rune(unescape(b.raw)))
	for i := 0; i < len(x) && i < len(y); i++ {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return len(x) < len(y)
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special has the high bit set in each byte of w that is a control character, a
// quote, a backslash or not ASCII; lower bytes are exact up to the first one.
func special(w uint64) uint64 {
	quote, slash := w^(ones*'"'), w^(ones*'\\')
	return ((w - ones*0x20) | (quote - ones) | (slash - ones) | w) & highs
}

// text reads a string and returns what stands between its quotes, and whether
// that is ASCII without escapes.
func (s *scanner) text() (raw []byte, plain, ok bool) {
	s.i++ // opening quote
	start, plain, ascii := s.i, true, true
	b, i := s.b, s.i
	for {
		for i+8 <= len(b) {
			w := special(binary.LittleEndian.Uint64(b[i:]))
			if w == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(w) / 8
			break
		}
		for i < len(b) && b[i] >= 0x20 && b[i] < 0x80 && b[i] != '"' && b[i] != '\\' {
			i++
		}
		if i >= len(b) {
			return nil, false, false
		}
		switch c := b[i]; {
		case c == '"':
			raw = b[start:i]
			s.i = i + 1
			return raw, plain, ascii || utf8.Valid(raw)
		case c == '\\':
			plain = false
			n := escape(b[i:])
			if n == 0 {
				return nil, false, false
			}
			i += n
		case c >= 0x80:
			plain, ascii = false, false
			i++
			for i < len(b) && b[i] >= 0x80 {
				i++
			}
		default: // control character
			return nil, false, false
		}
	}
}

// escape returns the length of the escape b begins with, 0 if JCS would not
// have written it.
func escape(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(b) < 6 || b[2] != '0' || b[3] != '0' || (b[4] != '0' && b[4] != '1') {
			return 0
		}
		switch c := b[5]; {
		case b[4] == '0' && (c == '8' || c == '9' || c == 'a' || c == 'c' || c == 'd'):
			return 0 // has a short form
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
			return 6
		}
	}
	return 0
}

// unescape returns the value of a string body that text accepted.
func unescape(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c != '\\' {
			out = append(out, c)
			continue
		}
		i++
		switch raw[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			n, _ := strconv.ParseUint(string(raw[i+1:i+5]), 16, 8)
			out = append(out, byte(n))
			i += 4
		default:
			out = append(out, raw[i])
		}
	}
	return string(out)
}

// number reads a number in the spelling of RFC 8785.
func (s *scanner) number() bool {
	start := s.i
	s.byte('-')
	digits := s.i
	for s.i < len(s.b) && s.b[s.i]-'0' <= 9 {
		s.i++
	}
	n := s.i - digits
	if n == 0 || (n > 1 && s.b[digits] == '0') {
		return false
	}
	if c := s.peek(); c != '.' && c != 'e' && c != 'E' {
		switch {
		case s.b[digits] == '0':
			return digits == start // -0 is written 0
		case n < len(maxSafeIntegerDigits):
			return true
		case n == len(maxSafeIntegerDigits):
			return string(s.b[digits:s.i]) <= maxSafeIntegerDigits
		}
		return false
	}
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c-'0' <= 9, c == '.', c == 'e', c == 'E', c == '+', c == '-':
			s.i++
			continue
		}
		break
	}
	token := s.b[start:s.i]
	f, err := strconv.ParseFloat(string(token), 64)
	if err != nil {
		return false
	}
	var buf [32]byte
	return bytes.Equal(jsontext.AppendFloat(buf[:0], f, 64), token)
}

// integer reads a non-negative integer of at most 2^53-1.
func (s *scanner) integer() (int64, bool) {
	start := s.i
	if s.peek() == '-' || !s.number() {
		return 0, false
	}
	var n int64
	for _, c := range s.b[start:s.i] {
		if c-'0' > 9 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
