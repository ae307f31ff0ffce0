package asap

import (
	"math"
	"strconv"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
)

// The lenient input types of core.md section 5, as v1.3.0 reads them. Each
// function takes a checked value and returns, next to the result, the type of
// the issue or "".

const (
	issueBoolParsing = "bool_parsing"
	issueIntSize     = "int_parsing_size"
)

// laxBool reads a boolean, 0, 1, 0.0, 1.0, or one of the words.
func laxBool(v jsontext.Value) (b bool, issue string) {
	switch kindOf(v) {
	case 't':
		return true, ""
	case 'f':
		return false, ""
	case '"':
		switch lowerASCII(string(unquote(v))) {
		case "1", "true", "t", "yes", "y", "on":
			return true, ""
		case "0", "false", "f", "no", "n", "off":
			return false, ""
		}
		return false, issueBoolParsing
	case '0':
		switch f, err := strconv.ParseFloat(string(v), 64); {
		case err != nil || f != math.Trunc(f):
			return false, "bool_type"
		case f == 0 || f == 1:
			return f == 1, ""
		}
		return false, issueBoolParsing
	}
	return false, "bool_type"
}

// laxInt reads an integer, a number without a fraction, a numeric string or a
// boolean. Unlike v1.3.0 it stops at 64 bits.
func laxInt(v jsontext.Value) (n int64, issue string) {
	switch kindOf(v) {
	case 't':
		return 1, ""
	case 'f':
		return 0, ""
	case '0':
		text := string(v)
		if strings.ContainsAny(text, ".eE") {
			f, err := strconv.ParseFloat(text, 64)
			switch {
			case err != nil:
				return 0, "finite_number"
			case f != math.Trunc(f):
				return 0, "int_from_float"
			case f < -1<<63 || f >= 1<<63:
				return 0, issueIntSize
			}
			return int64(f), ""
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, issueIntSize
		}
		return n, ""
	case '"':
		return parseIntText(string(unquote(v)))
	}
	return 0, "int_type"
}

func intMessage(issue string) string {
	switch issue {
	case "int_parsing":
		return "Input should be a valid integer, unable to parse string as an integer"
	case "int_from_float":
		return "Input should be a valid integer, got a number with a fractional part"
	case issueIntSize:
		return "Input should be an integer of at most 64 bits"
	case "finite_number":
		return "Input should be a finite number"
	default:
		return "Input should be a valid integer"
	}
}

// parseIntText reads an integer written as text: blanks around it, one sign,
// single underscores between digits and a fraction of zeros are allowed.
func parseIntText(s string) (int64, string) {
	s = trimBlanks(s)
	if whole, fraction, ok := strings.Cut(s, "."); ok {
		if strings.Trim(fraction, "0") != "" {
			return 0, "int_parsing"
		}
		s = whole
	}
	digits := strings.TrimPrefix(s, "+")
	if digits == s {
		digits = strings.TrimPrefix(s, "-")
	}
	if digits == "" || digits[0] == '_' || digits[len(digits)-1] == '_' || strings.Contains(digits, "__") {
		return 0, "int_parsing"
	}
	clean := make([]byte, 0, len(s))
	if s[0] == '-' {
		clean = append(clean, '-')
	}
	for i := 0; i < len(digits); i++ {
		switch c := digits[i]; {
		case c == '_':
		case c >= '0' && c <= '9':
			clean = append(clean, c)
		default:
			return 0, "int_parsing"
		}
	}
	n, err := strconv.ParseInt(string(clean), 10, 64)
	if err != nil {
		return 0, issueIntSize
	}
	return n, ""
}

// trimBlanks cuts what Python's str.strip cuts.
func trimBlanks(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return unicode.IsSpace(r) || (r >= 0x1c && r <= 0x1f) })
}

// lowerASCII lowers A-Z and leaves everything else alone, so that no letter of
// another script turns into an ASCII one.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
