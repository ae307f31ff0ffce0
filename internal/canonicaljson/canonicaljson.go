// Package canonicaljson reads outside JSON strictly and writes RFC 8785 (JCS).
//
// The model: bytes that are hashed or signed have exactly one reading. Invalid
// UTF-8, lone surrogates, duplicate member names, trailing data, nesting beyond
// a limit, and numbers that a double cannot hold are refused before any byte is
// produced, so canonicalising never changes what a text says.
package canonicaljson

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// DefaultMaxDepth is the nesting allowed unless Options say otherwise.
const DefaultMaxDepth = 32

var (
	// ErrDepth reports nesting beyond the limit.
	ErrDepth = errors.New("JSON is nested too deeply")
	// ErrNumber reports a number that does not survive a double: one beyond its
	// range, or an integer beyond ±(2^53-1) written digit by digit, or one in
	// exponent form whose digits a double does not keep.
	ErrNumber = errors.New("number does not survive a double")
	// ErrTrailing reports bytes after the value.
	ErrTrailing = errors.New("data after the JSON value")
)

// Options choose how strict a reading is.
type Options struct {
	// MaxDepth limits nesting; 0 means DefaultMaxDepth.
	MaxDepth int
	// LossyNumbers lets integers through that a double rounds, as the Python
	// release signs them (9007199254740993 as 9007199254740992). For verifying
	// foreign manifests only; never for signing or evidence.
	LossyNumbers bool
}

// Canonical returns the RFC 8785 form of the single JSON value src. src is not
// modified. Errors are ErrDepth, ErrNumber, ErrTrailing or a syntax error of
// jsontext.
func Canonical(src []byte, o Options) ([]byte, error) {
	if err := check(src, o); err != nil {
		return nil, err
	}
	v := jsontext.Value(bytes.Clone(src))
	if err := v.Canonicalize(); err != nil {
		return nil, err
	}
	return v, nil
}

// Check reports whether src is one JSON value that Canonical accepts.
func Check(src []byte, o Options) error { return check(src, o) }

func check(src []byte, o Options) error {
	limit := o.MaxDepth
	if limit == 0 {
		limit = DefaultMaxDepth
	}
	d := jsontext.NewDecoder(bytes.NewReader(src))
	for {
		tok, err := d.ReadToken()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if d.StackDepth() > limit {
			return fmt.Errorf("%w: more than %d levels", ErrDepth, limit)
		}
		if tok.Kind() == '0' && !survives(tok.String(), o.LossyNumbers) {
			return fmt.Errorf("%w: %.40s", ErrNumber, tok.String())
		}
		if d.StackDepth() == 0 {
			break
		}
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return ErrTrailing
	}
	return nil
}

const maxSafeInteger = 1<<53 - 1

// survives tells whether the number text keeps its value through a double.
// Within ±(2^53-1) every number does that a double can approach: a fraction is
// meant as its double. Beyond, an integer written digit by digit may have been
// rounded already; one in exponent form, as RFC 8785 writes it, is meant as a
// double if the double's shortest form has the same digits.
func survives(text string, lossy bool) bool {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil { // out of range
		return false
	}
	if lossy || (f >= -maxSafeInteger && f <= maxSafeInteger) {
		return true
	}
	mantissa, _, exponent := strings.Cut(strings.ToLower(text), "e")
	if !exponent {
		return false
	}
	shortest, _, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	return significant(mantissa) == significant(shortest)
}

// significant returns the digits of a mantissa without sign, point and the zeros
// at both ends.
func significant(mantissa string) string {
	return strings.Trim(strings.NewReplacer("-", "", ".", "").Replace(mantissa), "0")
}
