package asap

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// MaxJSONDepth is how deep a JSON document from outside may be nested.
	MaxJSONDepth = 512
	// MaxNumberLength is the longest number token accepted, in bytes; v1.3.0
	// stops at the same number of digits.
	MaxNumberLength = 4300
)

// checkJSON reports whether b is exactly one JSON value without duplicate
// member names, lone surrogates or invalid UTF-8, within the limits above. The
// error is a *ValidationError with one issue that names the byte offset and
// repeats nothing of b.
//
// Everything below this line in the file works on checked bytes only: it finds
// its way by quotes and brackets, and looks at each byte once.
func checkJSON(b []byte) error {
	if !jsontext.Value(b).IsValid() {
		return jsonIssue(explainInvalid(b))
	}
	if len(b) <= MaxJSONDepth || (len(b) <= MaxNumberLength && bytes.Count(b, []byte{'{'})+bytes.Count(b, []byte{'['}) <= MaxJSONDepth) {
		return nil
	}
	depth, digits := 0, 0
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			i = skipString(b, i) - 1
			digits = 0
		case c == '{' || c == '[':
			depth++
			digits = 0
			if depth > MaxJSONDepth {
				return jsonIssue("nested deeper than " + strconv.Itoa(MaxJSONDepth) + " levels")
			}
		case c == '}' || c == ']':
			depth--
			digits = 0
		case c == ',' || c == ':' || isSpace(c):
			digits = 0
		default:
			digits++
			if digits > MaxNumberLength {
				return jsonIssue("a number of more than " + strconv.Itoa(MaxNumberLength) + " characters")
			}
		}
	}
	return nil
}

func jsonIssue(msg string) error {
	return &ValidationError{Issues: []Issue{{Type: "json_invalid", Msg: "Invalid JSON: " + msg}}}
}

// explainInvalid says what is wrong with b, which is not valid.
func explainInvalid(b []byte) string {
	d := jsontext.NewDecoder(bytes.NewReader(b))
	_, err := d.ReadValue()
	if err == nil {
		return "data after the value at byte " + strconv.FormatInt(d.InputOffset(), 10)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return "empty document"
	}
	what := "syntax error"
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		what = "duplicate member name"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "unexpected end of the document"
	case errors.As(err, &syntactic) && syntactic.Err != nil && strings.Contains(syntactic.Err.Error(), "UTF-8"):
		what = "invalid UTF-8"
	}
	if errors.As(err, &syntactic) {
		return what + " at byte " + strconv.FormatInt(syntactic.ByteOffset, 10)
	}
	return what
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func skipSpace(b []byte, i int) int {
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	return i
}

// skipString returns the index after the string that opens at b[i].
func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return len(b)
}

// skipValue returns the index after the value that begins at b[i].
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return len(b)
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				i = skipString(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
				if depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return len(b)
	default:
		for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && !isSpace(b[i]) {
			i++
		}
		return i
	}
}

// A walker steps through the members of an object or the elements of an array
// in checked bytes.
type walker struct {
	b     []byte
	i     int
	close byte
	name  []byte // of the member, unescaped; nil in an array
	value jsontext.Value
}

func walkObject(v jsontext.Value) walker {
	i := skipSpace(v, 0)
	if i >= len(v) || v[i] != '{' {
		return walker{}
	}
	return walker{b: v, i: i + 1, close: '}'}
}

func walkArray(v jsontext.Value) walker {
	i := skipSpace(v, 0)
	if i >= len(v) || v[i] != '[' {
		return walker{}
	}
	return walker{b: v, i: i + 1, close: ']'}
}

// next moves to the next member or element and reports whether there is one.
func (w *walker) next() bool {
	i := skipSpace(w.b, w.i)
	if i < len(w.b) && w.b[i] == ',' {
		i = skipSpace(w.b, i+1)
	}
	if i >= len(w.b) || w.b[i] == w.close {
		return false
	}
	if w.close == '}' {
		end := skipString(w.b, i)
		w.name = unquote(w.b[i:end])
		i = skipSpace(w.b, end)
		i = skipSpace(w.b, i+1) // the colon
	}
	end := skipValue(w.b, i)
	if end <= i {
		return false
	}
	w.value, w.i = jsontext.Value(w.b[i:end:end]), end
	return true
}

// unquote returns the text of a JSON string; it shares memory with quoted
// unless there are escapes.
func unquote(quoted []byte) []byte {
	if len(quoted) < 2 {
		return nil
	}
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	text, _ := jsontext.AppendUnquote(nil, quoted) // checked before
	return text
}

// kindOf is the kind of a value: { [ " 0 t f n, or 0 for no value. '-' counts
// as '0'.
func kindOf(v jsontext.Value) byte {
	if len(v) == 0 {
		return 0
	}
	if c := v[0]; c != '-' && (c < '0' || c > '9') {
		return c
	}
	return '0'
}

// trimValue cuts the blanks around a value.
func trimValue(v jsontext.Value) jsontext.Value { return bytes.Trim(v, " \n\r\t") }

// appendString appends s as a JSON string with the escapes of RFC 8785. Invalid
// UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}

func appendOptString(dst []byte, s *string) []byte {
	if s == nil {
		return append(dst, "null"...)
	}
	return appendString(dst, *s)
}

func appendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, s)
	}
	return append(dst, ']')
}

// appendObject appends a required object: {} if there is none.
func appendObject(dst []byte, v jsontext.Value) []byte {
	if len(v) == 0 {
		return append(dst, "{}"...)
	}
	return append(dst, v...)
}

// appendOptObject appends an optional object: null if there is none.
func appendOptObject(dst []byte, v jsontext.Value) []byte {
	if len(v) == 0 {
		return append(dst, "null"...)
	}
	return append(dst, v...)
}
