package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go"
)

var (
	// ErrInsecureURL reports a plain http or ws URL to a host that is not
	// loopback. [WithInsecure] permits it.
	ErrInsecureURL = errors.New("plain http is allowed to loopback hosts only")
	// ErrCircuitOpen reports a call that was not attempted because the circuit
	// breaker is open; see [WithCircuitBreaker].
	ErrCircuitOpen = errors.New("circuit breaker is open")
	// ErrInvalidAnswer reports an answer that is neither a JSON-RPC result with
	// a valid envelope nor a JSON-RPC error.
	ErrInvalidAnswer = errors.New("answer is not valid")
	// ErrAnswerTooLarge reports an answer beyond [WithMaxAnswerBytes].
	ErrAnswerTooLarge = errors.New("answer is too large")
	// ErrNoAck reports that a message sent over a [Socket] was not acknowledged,
	// re-sends included.
	ErrNoAck = errors.New("not acknowledged")
	// ErrNoAnswer reports that no answer came over a [Socket] in the time of
	// [WithAnswerTimeout].
	ErrNoAnswer = errors.New("not answered in time")
	// ErrClosed reports the use of a [Socket] that is closed or not running.
	ErrClosed = errors.New("socket is closed")
	// ErrUnsigned reports a manifest without signature where one is required.
	ErrUnsigned = errors.New("manifest is not signed")
	// ErrUntrusted reports a manifest that is signed, but not by a trusted key.
	ErrUntrusted = errors.New("manifest is not signed by a trusted key")
)

// RemoteError is what the other side said instead of an answer: a JSON-RPC
// error, or an HTTP status that carries none. The request reached it, and unless
// it says otherwise the work was not done.
type RemoteError struct {
	// Code is the JSON-RPC error code, such as -32602 for invalid parameters.
	// It is 0 when the answer was an HTTP status without a JSON-RPC error.
	Code int
	// Message is the text for people that came with it, or the HTTP status text.
	Message string
	// Data is the error's data member, or nil. For an HTTP status without a
	// JSON-RPC error it is the body, if that is a JSON object.
	Data jsontext.Value
	// DataCode is the stable code inside Data (member "code"), such as
	// "asap:protocol/invalid_timestamp" or "skill_unknown"; else empty. asap.Code.Info explains it.
	DataCode asap.Code
	// HTTPStatus is the status of the answer; 0 over a WebSocket.
	HTTPStatus int
	// RetryAfter is the wait that the other side asked for; 0 if it did not.
	RetryAfter time.Duration
	// EarlierUnanswered reports that an earlier attempt of the same call was
	// sent and never answered, so it may have been carried out in spite of
	// this refusal.
	EarlierUnanswered bool
}

// Error names the code, the message and the stable code, never the whole data.
func (e *RemoteError) Error() string {
	s := "remote error"
	switch {
	case e.Code != 0:
		s = fmt.Sprintf("remote error %d", e.Code)
	case e.HTTPStatus != 0:
		s = fmt.Sprintf("HTTP status %d", e.HTTPStatus)
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.DataCode != "" {
		s += " (" + string(e.DataCode) + ")"
	}
	return s
}

// TransportError is why there is no usable answer: the agent could not be
// reached, the connection broke, the time was up, or the answer made no sense.
// It wraps the cause, so errors.Is(err, context.DeadlineExceeded),
// [ErrInvalidAnswer], [*CloseError] and the like work through it.
type TransportError struct {
	// Op is what was being done: "connect", "send", "receive" or "wait".
	Op string
	// URL is where to, without query.
	URL string
	// Attempts is how often the request was tried, 0 if it never was.
	Attempts int
	// MayHaveExecuted reports that the request, or a part of it, left this
	// process, so the agent may have carried it out. Sending the same envelope
	// again is safe with a server that remembers envelope ids; a new envelope
	// is safe only if this is false.
	MayHaveExecuted bool
	// Err is the cause, never nil.
	Err error
}

// Error states the operation, the URL and the cause.
func (e *TransportError) Error() string {
	s := e.Op + " " + e.URL
	if e.Attempts > 1 {
		s += fmt.Sprintf(" (%d attempts)", e.Attempts)
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *TransportError) Unwrap() error { return e.Err }

// MayHaveExecuted reports whether the call that returned err may have been
// carried out by the agent although no answer says so. It is false for nil and
// for errors that are not of this package.
func MayHaveExecuted(err error) bool {
	var remote *RemoteError
	if errors.As(err, &remote) {
		return remote.EarlierUnanswered
	}
	var transport *TransportError
	return errors.As(err, &transport) && transport.MayHaveExecuted
}

// CloseError is the close frame with which the server ended a WebSocket
// connection.
type CloseError struct {
	// Code is the WebSocket close code, such as 1001 (going away) or 1008
	// (policy violation; v1.3.0 sends it after its rate-limit answer).
	Code int
	// Reason is the text that came with it.
	Reason string
}

// Error states the code and the reason.
func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("closed by the server with code %d", e.Code)
	}
	return fmt.Sprintf("closed by the server with code %d: %s", e.Code, e.Reason)
}
