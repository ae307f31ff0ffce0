package asap

import (
	"github.com/go-json-experiment/json/jsontext"
)

// Role is who speaks in a message.
type Role string

// The roles.
const (
	RoleUser      Role = "user"
	RoleAssistant Role = "assistant"
	RoleSystem    Role = "system"
)

// AckStatus is what became of an acknowledged envelope.
type AckStatus string

// The acknowledgement statuses.
const (
	AckReceived  AckStatus = "received"
	AckProcessed AckStatus = "processed"
	AckRejected  AckStatus = "rejected"
)

// MessageSend adds a message to a task (core.md 7).
type MessageSend struct {
	TaskID    TaskID
	MessageID string
	// Sender is free text; it need not be a URN.
	Sender string
	Role   Role
	// Parts are the ids of parts, not parts.
	Parts []string
}

// ParseMessageSend reads a MessageSend; the error is a *ValidationError.
func ParseMessageSend(v jsontext.Value) (*MessageSend, error) {
	return read(&messageSendModel, v, buildMessageSend)
}

func buildMessageSend(o *object) *MessageSend {
	return &MessageSend{
		TaskID:    TaskID(o.str(0)),
		MessageID: o.str(1),
		Sender:    o.str(2),
		Role:      Role(o.enum(3)),
		Parts:     o.strs(4),
	}
}

// Kind is KindMessageSend.
func (m *MessageSend) Kind() PayloadKind { return KindMessageSend }

// AppendJSON appends the value with every member, null for what is absent.
func (m *MessageSend) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"task_id":`...)
	dst = appendString(dst, string(m.TaskID))
	dst = append(dst, `,"message_id":`...)
	dst = appendString(dst, m.MessageID)
	dst = append(dst, `,"sender":`...)
	dst = appendString(dst, m.Sender)
	dst = append(dst, `,"role":`...)
	dst = appendString(dst, string(m.Role))
	dst = append(dst, `,"parts":`...)
	dst = appendStrings(dst, m.Parts)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (m *MessageSend) MarshalJSON() ([]byte, error) { return m.AppendJSON(nil), nil }

// ArtifactNotify says that a task produced an artifact (core.md 7).
type ArtifactNotify struct {
	ArtifactID string
	TaskID     TaskID
	Name       *string
}

// ParseArtifactNotify reads a ArtifactNotify; the error is a *ValidationError.
func ParseArtifactNotify(v jsontext.Value) (*ArtifactNotify, error) {
	return read(&artifactNotifyModel, v, buildArtifactNotify)
}

func buildArtifactNotify(o *object) *ArtifactNotify {
	return &ArtifactNotify{
		ArtifactID: o.str(0),
		TaskID:     TaskID(o.str(1)),
		Name:       o.optStr(2),
	}
}

// Kind is KindArtifactNotify.
func (a *ArtifactNotify) Kind() PayloadKind { return KindArtifactNotify }

// AppendJSON appends the value with every member, null for what is absent.
func (a *ArtifactNotify) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"artifact_id":`...)
	dst = appendString(dst, a.ArtifactID)
	dst = append(dst, `,"task_id":`...)
	dst = appendString(dst, string(a.TaskID))
	dst = append(dst, `,"name":`...)
	dst = appendOptString(dst, a.Name)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (a *ArtifactNotify) MarshalJSON() ([]byte, error) { return a.AppendJSON(nil), nil }

// MessageAck acknowledges an envelope over WebSocket (core.md 7 and 17.2).
type MessageAck struct {
	OriginalEnvelopeID EnvelopeID
	Status             AckStatus
	// Reason is the member "error".
	Reason *string
}

// ParseMessageAck reads a MessageAck; the error is a *ValidationError.
func ParseMessageAck(v jsontext.Value) (*MessageAck, error) {
	return read(&messageAckModel, v, buildMessageAck)
}

func buildMessageAck(o *object) *MessageAck {
	return &MessageAck{
		OriginalEnvelopeID: EnvelopeID(o.str(0)),
		Status:             AckStatus(o.enum(1)),
		Reason:             o.optStr(2),
	}
}

// Kind is KindMessageAck.
func (m *MessageAck) Kind() PayloadKind { return KindMessageAck }

// AppendJSON appends the value with every member, null for what is absent.
func (m *MessageAck) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"original_envelope_id":`...)
	dst = appendString(dst, string(m.OriginalEnvelopeID))
	dst = append(dst, `,"status":`...)
	dst = appendString(dst, string(m.Status))
	dst = append(dst, `,"error":`...)
	dst = appendOptString(dst, m.Reason)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (m *MessageAck) MarshalJSON() ([]byte, error) { return m.AppendJSON(nil), nil }
