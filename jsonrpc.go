package asap

import (
	"math"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// The JSON-RPC methods (core.md 1).
const (
	MethodSend         = "asap.send"
	MethodAck          = "asap.ack"
	MethodSLASubscribe = "sla.subscribe"
	// MethodDelegationSubscribe and MethodDelegationUnsubscribe begin and end the
	// notifications delegation.limit. They are an extension of this implementation.
	MethodDelegationSubscribe   = "delegation.subscribe"
	MethodDelegationUnsubscribe = "delegation.unsubscribe"
	MethodSLAUnsubscribe        = "sla.unsubscribe"
	MethodSLABreach             = "sla.breach"
)

// RPCID is a JSON-RPC id as the JSON text that goes into the answer: a string
// with its quotes, or an integer. "" stands for null.
type RPCID string

// StringID returns the id that is the JSON string s.
func StringID(s string) RPCID { return RPCID(appendString(nil, s)) }

// AppendJSON appends the id, or null.
func (id RPCID) AppendJSON(dst []byte) []byte {
	if id == "" {
		return append(dst, "null"...)
	}
	return append(dst, id...)
}

// RPCRequest is a JSON-RPC 2.0 request.
type RPCRequest struct {
	Method string
	// Params is a JSON object that shares memory with the parsed bytes.
	Params jsontext.Value
	ID     RPCID
}

// RPCError is the member "error" of a JSON-RPC answer. Data is a JSON object or
// nil.
type RPCError struct {
	Code    int
	Message string
	Data    jsontext.Value
}

// Error is the message with the number, and the text in data.error if there is
// one.
func (e *RPCError) Error() string {
	text := e.Message + " (" + strconv.Itoa(e.Code) + ")"
	if detail := e.member("error"); detail != "" {
		text += ": " + detail
	}
	return text
}

// TextCode is the stable code in data.code, or "".
func (e *RPCError) TextCode() Code { return Code(e.member("code")) }

func (e *RPCError) member(name string) string {
	for w := walkObject(e.Data); w.next(); {
		if string(w.name) == name && kindOf(w.value) == '"' {
			return string(unquote(w.value))
		}
	}
	return ""
}

// NewRPCError returns an error with the standard message of number and data
// {"error": text, "code": the stable code of the number}.
func NewRPCError(number int, text string) *RPCError {
	codes := map[int]Code{RPCParseError: CodeParseError, RPCInvalidRequest: CodeInvalidRequest, RPCMethodNotFound: CodeMethodNotFound,
		RPCInvalidParams: CodeInvalidParams, RPCRateLimited: CodeRateLimited}
	code, known := codes[number]
	if !known {
		code = CodeInternal
	}
	return newRPCError(number, code, text)
}

func newRPCError(number int, code Code, text string) *RPCError {
	data := append([]byte(nil), `{"error":`...)
	data = appendString(data, text)
	data = append(data, `,"code":`...)
	data = appendString(data, string(code))
	return &RPCError{Code: number, Message: RPCMessage(number), Data: append(data, '}')}
}

func invalidStructure(e *RPCError, issues error) *RPCError {
	if v, ok := issues.(*ValidationError); ok { //nolint:errorlint // made by this package, never wrapped
		e.Data = append(e.Data[:len(e.Data)-1], `,"validation_errors":`...)
		e.Data = append(v.AppendJSON(e.Data), '}')
	}
	return e
}

// ParseRPCRequest reads a request (core.md 11 and 12, steps 6 to 8). If it is
// not one, the second result is the error to answer with, and the request has
// the id to answer to, as far as it could be read. It does not look at the
// method's name or inside params.
//
// Rules: one JSON object, no batch; jsonrpc absent or "2.0"; method a string;
// params an object; id a string or an integer, where 1.0 and booleans count as
// integers; no other members.
func ParseRPCRequest(b []byte) (RPCRequest, *RPCError) {
	var r RPCRequest
	if err := checkJSON(b); err != nil {
		return r, NewRPCError(RPCParseError, err.(*ValidationError).Issues[0].Msg) //nolint:errorlint,forcetypeassert // checkJSON returns no other
	}
	v := trimValue(b)
	if kindOf(v) != '{' {
		e := NewRPCError(RPCInvalidRequest, "JSON-RPC request must be an object")
		e.Data = append(e.Data[:len(e.Data)-1], `,"received_type":`...)
		e.Data = append(appendString(e.Data, pythonType(v)), '}')
		return r, e
	}
	var s issues
	var o object
	o.open(&rpcRequestModel, v, nil, &s)
	o.enum(0)
	r.Method = o.str(1)
	r.Params = o.obj(2)
	r.ID = o.rpcID(3)
	o.finish()
	if len(s.list) == 0 {
		return r, nil
	}
	if params := o.raw[2]; params != nil && kindOf(params) != '{' {
		return r, invalidStructure(NewRPCError(RPCInvalidParams, "JSON-RPC 'params' must be an object"), s.err())
	}
	return r, invalidStructure(NewRPCError(RPCInvalidRequest, "Invalid JSON-RPC structure"), s.err())
}

// rpcID reads the id. One of a kind that is not allowed is recorded; it cannot
// be repeated in an answer.
func (o *object) rpcID(i int) RPCID {
	v := o.value(i)
	switch kindOf(v) {
	case 0: // missing, recorded
		return ""
	case '"':
		return RPCID(v)
	case 't':
		return "1"
	case 'f':
		return "0"
	case '0':
		text := string(v)
		if !strings.ContainsAny(text, ".eE") {
			if text == "-0" {
				text = "0"
			}
			return RPCID(text)
		}
		f, err := strconv.ParseFloat(text, 64)
		if err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<63 {
			return RPCID(strconv.FormatInt(int64(f), 10))
		}
	}
	at := &path{o.at, "id"}
	o.issues.add(at, "str", "string_type", "Input should be a valid string")
	o.issues.add(at, "int", "int_type", "Input should be a valid integer")
	return ""
}

// pythonType is the name v1.3.0 gives to the type of v.
func pythonType(v jsontext.Value) string {
	switch kindOf(v) {
	case '[':
		return "list"
	case '"':
		return "str"
	case 't', 'f':
		return "bool"
	case '0':
		if strings.ContainsAny(string(v), ".eE") {
			return "float"
		}
		return "int"
	}
	return "NoneType"
}

// Envelope reads params.envelope of a request that [ParseRPCRequest] returned
// (core.md 12, steps 11 and 12). Custom rules too give -32602. The params of a
// request put together by hand must be valid JSON.
func (r *RPCRequest) Envelope() (*Envelope, *RPCError) {
	var v jsontext.Value
	for w := walkObject(r.Params); w.next(); {
		if string(w.name) == "envelope" {
			v = w.value
		}
	}
	switch kindOf(v) {
	case 0, 'n':
		return nil, newRPCError(RPCInvalidParams, CodeInvalidEnvelope, "Missing 'envelope' in params")
	case '{':
	default:
		return nil, newRPCError(RPCInvalidParams, CodeInvalidEnvelope, "'envelope' must be a JSON object")
	}
	e, err := readChecked(&envelopeModel, v, buildEnvelope)
	if err != nil {
		return nil, invalidStructure(newRPCError(RPCInvalidParams, CodeInvalidEnvelope, "Invalid envelope structure"), err)
	}
	return e, nil
}

// AppendRPCRequest appends a request with params as given.
func AppendRPCRequest(dst []byte, id RPCID, method string, params jsontext.Value) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","method":`...)
	dst = appendString(dst, method)
	dst = append(dst, `,"params":`...)
	dst = appendObject(dst, params)
	dst = append(dst, `,"id":`...)
	dst = id.AppendJSON(dst)
	return append(dst, '}')
}

// AppendRPCSend appends an asap.send request; idempotencyKey may be "".
func AppendRPCSend(dst []byte, id RPCID, e *Envelope, idempotencyKey string) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","method":"asap.send","params":{"envelope":`...)
	dst = e.AppendJSON(dst)
	if idempotencyKey != "" {
		dst = append(dst, `,"idempotency_key":`...)
		dst = appendString(dst, idempotencyKey)
	}
	dst = append(dst, `},"id":`...)
	dst = id.AppendJSON(dst)
	return append(dst, '}')
}

// AppendRPCNotification appends a message without id, as the server pushes them
// over WebSocket.
func AppendRPCNotification(dst []byte, method string, params jsontext.Value) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","method":`...)
	dst = appendString(dst, method)
	dst = append(dst, `,"params":`...)
	dst = appendObject(dst, params)
	return append(dst, '}')
}

// AppendRPCResult appends a successful answer. It has no member "error": v1.3.0
// clients test for its presence.
func AppendRPCResult(dst []byte, id RPCID, e *Envelope) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","result":{"envelope":`...)
	dst = e.AppendJSON(dst)
	dst = append(dst, `},"id":`...)
	dst = id.AppendJSON(dst)
	return append(dst, '}')
}

// AppendRPCError appends an answer that refuses; no data is left out.
func AppendRPCError(dst []byte, id RPCID, e *RPCError) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","error":{"code":`...)
	dst = strconv.AppendInt(dst, int64(e.Code), 10)
	dst = append(dst, `,"message":`...)
	dst = appendString(dst, e.Message)
	if len(e.Data) > 0 {
		dst = append(dst, `,"data":`...)
		dst = append(dst, e.Data...)
	}
	dst = append(dst, `},"id":`...)
	dst = id.AppendJSON(dst)
	return append(dst, '}')
}

// RPCMessageFrame is any JSON-RPC message as a client sees it: an answer
// (Result or Error, with an ID), or a request or notification (Method).
type RPCMessageFrame struct {
	ID     RPCID
	Method string
	Params jsontext.Value
	// Result is the raw member "result", nil if there is none.
	Result jsontext.Value
	// Error is the member "error", nil if there is none or it is null.
	Error *RPCError
}

// ParseRPCMessage reads an answer or a notification. It is lenient about
// members it does not know, strict about the form of those it does. The error
// is a *ValidationError.
func ParseRPCMessage(b []byte) (*RPCMessageFrame, error) {
	if err := checkJSON(b); err != nil {
		return nil, err
	}
	v := trimValue(b)
	var s issues
	if kindOf(v) != '{' {
		s.add(nil, "", "model_type", "Input should be a JSON-RPC object")
		return nil, s.err()
	}
	f := &RPCMessageFrame{}
	for w := walkObject(v); w.next(); {
		if kindOf(w.value) == 'n' {
			continue
		}
		o := object{model: &rpcFrameModel, issues: &s}
		i := rpcFrameModel.index(w.name)
		if i < 0 {
			continue
		}
		o.raw[i] = w.value
		switch i {
		case 0:
			f.ID = o.rpcID(i)
		case 1:
			f.Method = o.str(i)
		case 2:
			f.Params = o.obj(i)
		case 3:
			f.Result = w.value
		case 4:
			f.Error, _ = nested(&o, i, buildRPCError)
		}
	}
	return f, s.err()
}

func buildRPCError(o *object) *RPCError {
	e := &RPCError{Code: int(deref(o.integer(0))), Message: o.str(1), Data: o.obj(2)}
	o.extra = nil
	return e
}

// Envelope reads result.envelope. The error is a *ValidationError.
func (f *RPCMessageFrame) Envelope() (*Envelope, error) { return frameEnvelope(f.Result, "result") }

// PushedEnvelope reads params.envelope of a notification such as asap.ack. The
// error is a *ValidationError.
func (f *RPCMessageFrame) PushedEnvelope() (*Envelope, error) {
	return frameEnvelope(f.Params, "params")
}

func frameEnvelope(holder jsontext.Value, name string) (*Envelope, error) {
	for w := walkObject(holder); w.next(); {
		if string(w.name) == "envelope" {
			return readChecked(&envelopeModel, w.value, buildEnvelope)
		}
	}
	return nil, &ValidationError{Issues: []Issue{{Type: "missing", Loc: []string{name, "envelope"}, Msg: "Field required"}}}
}
