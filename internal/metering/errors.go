package metering

import (
	"errors"
	"fmt"
	"strings"

	asap "github.com/asap-protocol/asap-go"
)

// Codes of [Error], from the protocol's table of codes.
const (
	CodeInvalid      = asap.CodeRecordInvalid  // shape, type or range of a member
	CodeInFuture     = asap.CodeRecordInFuture // timestamp too far ahead
	CodeTooLate      = asap.CodeRecordTooLate  // timestamp too long ago
	CodeSignature    = asap.CodeSignature      // a signed report that does not verify
	CodeInvalidPrice = asap.CodeValidation     // a price list that cannot be used
	CodeInvalidGroup = asap.CodeInvalidFilter  // an unknown grouping
)

var (
	// ErrConflict reports an id that is already taken by other content.
	ErrConflict = errors.New("a record with this id and other content exists")
	// ErrNotFound reports an id that no record has.
	ErrNotFound = errors.New("no such record")
	// ErrPurged reports a question about single records of a time whose records
	// were purged. Totals of whole hours can still be had.
	ErrPurged = errors.New("the records of that time were purged, only totals of whole hours are left")
	// ErrAlreadyVoided reports a void for a record that has been voided.
	ErrAlreadyVoided = errors.New("the record has been voided already")
)

// Issue is one thing wrong with one member.
type Issue struct {
	Field   string // dotted path of the member, empty for the whole value
	Type    string // the name v1.3.0 gives this kind of mistake, where it has one
	Message string // a sentence for the sender
}

// Error is a refusal of something a caller sent. Its text is for the sender.
type Error struct {
	Code   asap.Code
	Issues []Issue // at least one
}

// Error lists every issue in one line.
func (e *Error) Error() string {
	var b strings.Builder
	for i, is := range e.Issues {
		if i > 0 {
			b.WriteString("; ")
		}
		if is.Field != "" {
			b.WriteString(is.Field)
			b.WriteString(": ")
		}
		b.WriteString(is.Message)
	}
	return b.String()
}

func refuse(code asap.Code, field, kind, format string, args ...any) *Error {
	return &Error{Code: code, Issues: []Issue{{Field: field, Type: kind, Message: fmt.Sprintf(format, args...)}}}
}
