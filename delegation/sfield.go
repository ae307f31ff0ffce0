package delegation

import (
	"encoding/base64"
	"errors"
	"strings"
)

// The part of RFC 8941 structured fields that HTTP message signatures use, in
// the one spelling the serializer of that RFC gives: what is read can therefore
// be signed over as it stands.

var errField = errors.New("not a structured field in canonical form")

// member is one key of a dictionary: an inner list with parameters, or a byte
// sequence.
type member struct {
	key    string
	raw    string // the value as it stands
	items  []component
	params []param
	bytes  []byte
}

// component is an item of an inner list, with its parameters unread.
type component struct {
	name   string
	params string
}

// param is one parameter; its value is a string, or the text of another item.
type param struct {
	key, value string
	isString   bool
}

func (m *member) param(key string) (param, bool) {
	for _, p := range m.params {
		if p.key == key {
			return p, true
		}
	}
	return param{}, false
}

type fieldReader struct {
	s string
	i int
}

// parseDictionary reads a dictionary whose values are inner lists or byte
// sequences. A key that comes twice is an error.
func parseDictionary(text string) ([]member, error) {
	f := fieldReader{s: strings.Trim(text, " ")}
	var out []member
	for f.i < len(f.s) {
		m, err := f.member()
		if err != nil {
			return nil, err
		}
		for i := range out {
			if out[i].key == m.key {
				return nil, errField
			}
		}
		out = append(out, m)
		f.space()
		if f.i == len(f.s) {
			return out, nil
		}
		if !f.take(',') {
			return nil, errField
		}
		if f.space(); f.i == len(f.s) {
			return nil, errField
		}
	}
	return out, nil
}

func (f *fieldReader) space() {
	for f.i < len(f.s) && (f.s[f.i] == ' ' || f.s[f.i] == '\t') {
		f.i++
	}
}

func (f *fieldReader) take(c byte) bool {
	if f.i < len(f.s) && f.s[f.i] == c {
		f.i++
		return true
	}
	return false
}

func (f *fieldReader) key() (string, error) {
	from := f.i
	for ; f.i < len(f.s); f.i++ {
		c := f.s[f.i]
		lower := (c >= 'a' && c <= 'z') || c == '*'
		if !lower && (f.i == from || !(c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.')) {
			break
		}
	}
	if f.i == from {
		return "", errField
	}
	return f.s[from:f.i], nil
}

func (f *fieldReader) member() (m member, err error) {
	if m.key, err = f.key(); err != nil {
		return m, err
	}
	if !f.take('=') {
		return m, errField
	}
	from := f.i
	switch {
	case f.take('('):
		for n := 0; !f.take(')'); n++ {
			if n > 0 && !f.take(' ') {
				return m, errField
			}
			var c component
			if c.name, err = f.str(); err != nil {
				return m, err
			}
			at := f.i
			if _, err = f.params(); err != nil {
				return m, err
			}
			c.params = f.s[at:f.i]
			m.items = append(m.items, c)
		}
	case f.i < len(f.s) && f.s[f.i] == ':':
		if m.bytes, err = f.byteSequence(); err != nil {
			return m, err
		}
	default:
		return m, errField
	}
	m.params, err = f.params()
	m.raw = f.s[from:f.i]
	return m, err
}

func (f *fieldReader) params() (out []param, err error) {
	for f.take(';') {
		var p param
		if p.key, err = f.key(); err != nil {
			return nil, err
		}
		for _, have := range out {
			if have.key == p.key {
				return nil, errField
			}
		}
		if f.take('=') {
			if f.i < len(f.s) && f.s[f.i] == '"' {
				p.isString = true
				p.value, err = f.str()
			} else {
				p.value, err = f.bare()
			}
			if err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// bare reads an item that is no string, as text.
func (f *fieldReader) bare() (string, error) {
	from := f.i
	for f.i < len(f.s) && f.s[f.i] > ' ' && f.s[f.i] < 0x7f && strings.IndexByte(`;,()"`, f.s[f.i]) < 0 {
		f.i++
	}
	if f.i == from {
		return "", errField
	}
	return f.s[from:f.i], nil
}

func (f *fieldReader) str() (string, error) {
	if !f.take('"') {
		return "", errField
	}
	var b strings.Builder
	for f.i < len(f.s) {
		c := f.s[f.i]
		f.i++
		switch {
		case c == '"':
			return b.String(), nil
		case c == '\\':
			if f.i == len(f.s) || (f.s[f.i] != '"' && f.s[f.i] != '\\') {
				return "", errField
			}
			c = f.s[f.i]
			f.i++
		case c < ' ' || c > '~':
			return "", errField
		}
		b.WriteByte(c)
	}
	return "", errField
}

func (f *fieldReader) byteSequence() ([]byte, error) {
	f.i++ // the colon
	text, _, ok := strings.Cut(f.s[f.i:], ":")
	if !ok || strings.ContainsAny(text, "\r\n") {
		return nil, errField
	}
	f.i += len(text) + 1
	out, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errField
	}
	return out, nil
}

// quote writes an sf-string. The text holds printable ASCII only.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
