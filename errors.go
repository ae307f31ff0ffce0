package asap

import (
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Issue is one thing that is wrong with a value from outside. Type is a stable
// machine name (those of the Python release: "missing", "string_type",
// "extra_forbidden", "value_error", ...), Loc the path from the root, with list
// positions in decimal, and Msg a sentence. No part of it repeats the input.
type Issue struct {
	Type string
	Loc  []string
	Msg  string
}

// ValidationError says why a document is not a valid value of its type. It
// holds at least one issue and at most a hundred: those of the members in the
// order of the model's table, then unknown members, in the order they were sent.
type ValidationError struct {
	Issues []Issue
}

// Error lists the issues as "path: message", separated by semicolons.
func (e *ValidationError) Error() string {
	var b strings.Builder
	for i, issue := range e.Issues {
		if i > 0 {
			b.WriteString("; ")
		}
		if len(issue.Loc) > 0 {
			b.WriteString(strings.Join(issue.Loc, "."))
			b.WriteString(": ")
		}
		b.WriteString(issue.Msg)
	}
	return b.String()
}

// AppendJSON appends the issues as the list that v1.3.0 calls
// "validation_errors": objects of type, loc and msg.
func (e *ValidationError) AppendJSON(dst []byte) []byte {
	dst = append(dst, '[')
	for i, issue := range e.Issues {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"type":`...)
		dst = appendString(dst, issue.Type)
		dst = append(dst, `,"loc":`...)
		dst = appendStrings(dst, issue.Loc)
		dst = append(dst, `,"msg":`...)
		dst = appendString(dst, issue.Msg)
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (e *ValidationError) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

// Error is a refusal with a stable code: the same thing on JSON-RPC, REST and
// the command line. Message is for the caller and holds no secrets; Details is
// a JSON object with what belongs to this case, or nil.
type Error struct {
	Code    Code
	Message string
	Details jsontext.Value
}

// Error is the code and the message.
func (e *Error) Error() string {
	if e.Message == "" {
		return string(e.Code)
	}
	return string(e.Code) + ": " + e.Message
}

// RPC is the refusal as a JSON-RPC error: the number and the standard message of
// the code's row in [CodeTable], and data with "error" (the row's sentence),
// "code", "message" and the details. Codes of v1.3.0 ("asap:...") carry their
// details in a member "details", as there; all others have the members of
// Details next to "code". Codes that stand for 401 and 403 also carry
// "status_code", which v1.3.0 clients read.
func (e *Error) RPC() *RPCError {
	info := e.Code.Info()
	data := append([]byte(nil), `{"error":`...)
	data = appendString(data, info.Sentence)
	data = append(data, `,"code":`...)
	data = appendString(data, string(e.Code))
	if e.Message != "" {
		data = append(data, `,"message":`...)
		data = appendString(data, e.Message)
	}
	if info.HTTP == 401 || info.HTTP == 403 {
		data = append(data, `,"status_code":`...)
		data = strconv.AppendInt(data, int64(info.HTTP), 10)
	}
	switch {
	case e.Details == nil:
	case strings.HasPrefix(string(e.Code), "asap:"):
		data = append(data, `,"details":`...)
		data = append(data, e.Details...)
	default:
		data = appendMembers(data, e.Details)
	}
	data = append(data, '}')
	return &RPCError{Code: info.RPC, Message: RPCMessage(info.RPC), Data: data}
}

// appendMembers appends ",name:value" for every member of the object details
// that does not clash with those RPC writes itself.
func appendMembers(dst []byte, details jsontext.Value) []byte {
	if checkJSON(details) != nil {
		return dst
	}
	for w := walkObject(details); w.next(); {
		switch name := string(w.name); name {
		case "error", "code", "message", "status_code":
		default:
			dst = append(dst, ',')
			dst = appendString(dst, name)
			dst = append(dst, ':')
			dst = append(dst, w.value...)
		}
	}
	return dst
}
