package asap

import (
	"bytes"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// DefaultASAPVersion is the protocol version that manifests and envelopes carry
// unless they say otherwise.
const DefaultASAPVersion = "0.1"

// An Envelope carries one payload from one agent to another (core.md 6). The
// JSON-RPC members around it are in [RPCRequest].
//
// The JSON members keep the bytes they were parsed from: do not write to them.
type Envelope struct {
	// ID names the envelope; retries carry the same one. IDSet tells an id sent
	// as "" from one left out; an id that is not empty is always written.
	ID    EnvelopeID
	IDSet bool
	// ASAPVersion is free text; nothing is checked against it.
	ASAPVersion string
	// Timestamp is when it was sent, to the microsecond, in the sender's zone
	// (see [Zoneless]). TimestampSet is false if the sender left it out; then the
	// receiver's time counts and the freshness rule does not apply.
	Timestamp         time.Time
	TimestampSet      bool
	Sender, Recipient AgentURN
	// PayloadType is free text; see [CanonicalPayloadType].
	PayloadType string
	// Payload is a JSON object, not checked against its type; see [ParsePayload].
	Payload jsontext.Value
	// CorrelationID is the id of the envelope this one answers; nil for none.
	CorrelationID *string
	// TraceID is free text; nil for none.
	TraceID *string
	// RequiresAck asks for a MessageAck over WebSocket.
	RequiresAck bool
	// Extensions is a free-form JSON object or nil: the one place where members
	// may be added.
	Extensions jsontext.Value
}

// ParseEnvelope reads an envelope. Types are as lenient as v1.3.0's, unknown
// members are refused, absent and null are the same for optional members. The
// error is a *ValidationError. The envelope's JSON members share memory with b.
func ParseEnvelope(b []byte) (*Envelope, error) { return read(&envelopeModel, b, buildEnvelope) }

func buildEnvelope(o *object) *Envelope {
	e := &Envelope{}
	if id := o.optStr(0); id != nil {
		e.ID, e.IDSet = EnvelopeID(*id), true
	}
	e.ASAPVersion = o.str(1)
	e.Timestamp, e.TimestampSet = o.time(2)
	e.Sender = o.urn(3)
	e.Recipient = o.urn(4)
	e.PayloadType = o.str(5)
	e.Payload = o.obj(6)
	e.CorrelationID = o.optStr(7)
	e.TraceID = o.optStr(8)
	e.RequiresAck = o.boolean(9)
	e.Extensions = o.obj(10)
	if len(o.issues.list) == 0 && len(o.extra) == 0 && needsCorrelation(e.PayloadType) && (e.CorrelationID == nil || *e.CorrelationID == "") {
		o.issues.add(o.at, "", "value_error", "Value error, "+e.PayloadType+" must have correlation_id for request tracking")
	}
	return e
}

// needsCorrelation is v1.3.0's rule: it binds the class names only.
func needsCorrelation(payloadType string) bool {
	return payloadType == "TaskResponse" || payloadType == "McpToolResult" || payloadType == "McpResourceData"
}

// Complete does what a receiver does with an envelope that lacks an id or a
// timestamp: it fills them in. TimestampSet stays as it was.
func (e *Envelope) Complete(ids *IDSource, now time.Time) {
	if e.ID == "" && !e.IDSet {
		e.ID = ids.NewEnvelopeID(now)
	}
	if e.Timestamp.IsZero() && !e.TimestampSet {
		e.Timestamp = now.UTC().Truncate(time.Microsecond)
	}
}

// AppendJSON appends the envelope with every member in the order of the table,
// null for what is absent. Payload and Extensions are written as they are.
func (e *Envelope) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"id":`...)
	if e.ID == "" && !e.IDSet {
		dst = append(dst, "null"...)
	} else {
		dst = appendString(dst, string(e.ID))
	}
	dst = append(dst, `,"asap_version":`...)
	dst = appendString(dst, e.ASAPVersion)
	dst = append(dst, `,"timestamp":`...)
	if e.Timestamp.IsZero() && !e.TimestampSet {
		dst = append(dst, "null"...)
	} else {
		dst = appendTime(dst, e.Timestamp)
	}
	dst = append(dst, `,"sender":`...)
	dst = appendString(dst, string(e.Sender))
	dst = append(dst, `,"recipient":`...)
	dst = appendString(dst, string(e.Recipient))
	dst = append(dst, `,"payload_type":`...)
	dst = appendString(dst, e.PayloadType)
	dst = append(dst, `,"payload":`...)
	dst = appendObject(dst, e.Payload)
	dst = append(dst, `,"correlation_id":`...)
	dst = appendOptString(dst, e.CorrelationID)
	dst = append(dst, `,"trace_id":`...)
	dst = appendOptString(dst, e.TraceID)
	dst = append(dst, `,"requires_ack":`...)
	dst = appendBool(dst, e.RequiresAck)
	dst = append(dst, `,"extensions":`...)
	dst = appendOptObject(dst, e.Extensions)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (e *Envelope) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

// UnmarshalJSON is ParseEnvelope for json.Unmarshal; it copies b.
func (e *Envelope) UnmarshalJSON(b []byte) error {
	parsed, err := ParseEnvelope(bytes.Clone(b))
	if err != nil {
		return err
	}
	*e = *parsed
	return nil
}

// Validate reports whether the envelope, which may have been put together by
// hand, is one that ParseEnvelope accepts.
func (e *Envelope) Validate() error {
	_, err := ParseEnvelope(e.AppendJSON(nil))
	return err
}

// Answer returns an envelope that answers e: from sender to e's sender, with e's
// version, trace id and, as correlation id, e's id. The caller gives it an id.
func (e *Envelope) Answer(id EnvelopeID, at time.Time, sender AgentURN, payloadType string, payload jsontext.Value) *Envelope {
	correlation := string(e.ID)
	return &Envelope{
		ID: id, IDSet: true, ASAPVersion: e.ASAPVersion,
		Timestamp: at.UTC().Truncate(time.Microsecond), TimestampSet: true,
		Sender: sender, Recipient: e.Sender,
		PayloadType: payloadType, Payload: payload,
		CorrelationID: &correlation, TraceID: e.TraceID,
	}
}

func appendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, "true"...)
	}
	return append(dst, "false"...)
}

// appendTime appends t as a JSON string.
func appendTime(dst []byte, t time.Time) []byte {
	dst = append(dst, '"')
	dst = AppendTimestamp(dst, t)
	return append(dst, '"')
}
