package delegation

import (
	"errors"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxJSONDepth is how deep headers and claims may nest; the outer object is 1.
const MaxJSONDepth = 4

var (
	errJSONSyntax    = errors.New("not strict JSON")
	errJSONDuplicate = errors.New("a member name appears twice")
	errJSONDepth     = errors.New("JSON is nested deeper than 4")
	errJSONTrailing  = errors.New("data after the JSON object")
	errJSONObject    = errors.New("not a JSON object")
)

// reader reads one JSON text strictly: exact grammar of RFC 8259, valid UTF-8,
// no lone surrogates, no duplicate names at any level, bounded nesting. It
// accepts exactly what jsontext accepts within the nesting (a fuzz test holds
// the two together) and exists because a string without escapes comes out as a
// part of the text, without an allocation.
type reader struct {
	s     string
	i     int
	depth int
}

// nameSet notices a name that comes twice.
type nameSet struct {
	few  [16]string
	n    int
	many map[string]struct{}
}

func (n *nameSet) add(name string) bool {
	if n.n < len(n.few) {
		for _, have := range n.few[:n.n] {
			if have == name {
				return false
			}
		}
		n.few[n.n] = name
		n.n++
		return true
	}
	if n.many == nil {
		n.many = make(map[string]struct{}, 4*len(n.few))
		for _, have := range n.few {
			n.many[have] = struct{}{}
		}
	}
	if _, ok := n.many[name]; ok {
		return false
	}
	n.many[name] = struct{}{}
	return true
}

// peek skips white space and returns the next byte, or 0 at the end.
func (r *reader) peek() byte {
	for r.i < len(r.s) {
		switch c := r.s[r.i]; c {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return c
		}
	}
	return 0
}

// open goes into the object or array whose opener has been peeked at.
func (r *reader) open() error {
	if r.depth++; r.depth > MaxJSONDepth {
		return errJSONDepth
	}
	r.i++
	return nil
}

// more is called before each element with the number of elements read so far.
// It reports whether another one follows, and consumes the comma or the closer.
func (r *reader) more(n int, closer byte) (bool, error) {
	c := r.peek()
	if c == closer {
		r.i++
		r.depth--
		return false, nil
	}
	if n == 0 {
		return true, nil
	}
	if c != ',' {
		return false, errJSONSyntax
	}
	r.i++
	return true, nil
}

// name reads a member name and the colon after it.
func (r *reader) name(seen *nameSet) (string, error) {
	name, err := r.str()
	if err != nil {
		return "", err
	}
	if !seen.add(name) {
		return "", errJSONDuplicate
	}
	if r.peek() != ':' {
		return "", errJSONSyntax
	}
	r.i++
	return name, nil
}

func (r *reader) end() error {
	if r.peek() != 0 || r.i != len(r.s) {
		return errJSONTrailing
	}
	return nil
}

func (r *reader) str() (string, error) {
	if r.peek() != '"' {
		return "", errJSONSyntax
	}
	start := r.i + 1
	ascii := true
	for j := start; j < len(r.s); j++ {
		switch c := r.s[j]; {
		case c == '"':
			text := r.s[start:j]
			if !ascii && !utf8.ValidString(text) {
				return "", errJSONSyntax
			}
			r.i = j + 1
			return text, nil
		case c == '\\':
			return r.escaped(start)
		case c < 0x20:
			return "", errJSONSyntax
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return "", errJSONSyntax
}

// escaped reads a string that holds escapes; start is after its opening quote.
func (r *reader) escaped(start int) (string, error) {
	var out []byte
	for j := start; j < len(r.s); {
		c := r.s[j]
		switch {
		case c == '"':
			if !utf8.Valid(out) {
				return "", errJSONSyntax
			}
			r.i = j + 1
			return string(out), nil
		case c < 0x20:
			return "", errJSONSyntax
		case c != '\\':
			out = append(out, c)
			j++
			continue
		}
		if j+1 >= len(r.s) {
			return "", errJSONSyntax
		}
		j += 2
		switch e := r.s[j-1]; e {
		case '"', '\\', '/':
			out = append(out, e)
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
			u, ok := hex4(r.s, j)
			if !ok {
				return "", errJSONSyntax
			}
			j += 4
			if utf16.IsSurrogate(u) {
				if j+1 >= len(r.s) || r.s[j] != '\\' || r.s[j+1] != 'u' {
					return "", errJSONSyntax
				}
				low, ok := hex4(r.s, j+2)
				if u = utf16.DecodeRune(u, low); !ok || u == utf8.RuneError {
					return "", errJSONSyntax
				}
				j += 6
			}
			out = utf8.AppendRune(out, u)
		default:
			return "", errJSONSyntax
		}
	}
	return "", errJSONSyntax
}

func hex4(s string, at int) (rune, bool) {
	if at+4 > len(s) {
		return 0, false
	}
	var v rune
	for _, c := range []byte(s[at : at+4]) {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			v = v<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return v, true
}

// number returns the text of a number as it stands.
func (r *reader) number() (string, error) {
	r.peek()
	s, i := r.s, r.i
	digits := func() bool {
		from := i
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(s) && s[i] == '-' {
		i++
	}
	if i < len(s) && s[i] == '0' {
		i++
	} else if !digits() {
		return "", errJSONSyntax
	}
	if i < len(s) && s[i] == '.' {
		if i++; !digits() {
			return "", errJSONSyntax
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		if i++; i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		if !digits() {
			return "", errJSONSyntax
		}
	}
	text := s[r.i:i]
	r.i = i
	return text, nil
}

// skip reads a value of any kind with the same strictness and drops it.
func (r *reader) skip() error {
	switch r.peek() {
	case '"':
		_, err := r.str()
		return err
	case '{':
		if err := r.open(); err != nil {
			return err
		}
		var seen nameSet
		for n := 0; ; n++ {
			more, err := r.more(n, '}')
			if err != nil || !more {
				return err
			}
			if _, err := r.name(&seen); err != nil {
				return err
			}
			if err := r.skip(); err != nil {
				return err
			}
		}
	case '[':
		if err := r.open(); err != nil {
			return err
		}
		for n := 0; ; n++ {
			more, err := r.more(n, ']')
			if err != nil || !more {
				return err
			}
			if err := r.skip(); err != nil {
				return err
			}
		}
	case 't':
		return r.literal("true")
	case 'f':
		return r.literal("false")
	case 'n':
		return r.literal("null")
	default:
		_, err := r.number()
		return err
	}
}

func (r *reader) literal(text string) error {
	if len(r.s)-r.i < len(text) || r.s[r.i:r.i+len(text)] != text {
		return errJSONSyntax
	}
	r.i += len(text)
	return nil
}
