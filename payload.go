package asap

import (
	"errors"

	"github.com/go-json-experiment/json/jsontext"
)

// The conventional payload_type names: the dotted ones.
const (
	TaskRequestType      = "task.request"
	TaskResponseType     = "task.response"
	TaskUpdateType       = "task.update"
	TaskCancelType       = "task.cancel"
	MessageSendType      = "message.send"
	StateQueryType       = "state.query"
	StateRestoreType     = "state.restore"
	ArtifactNotifyType   = "artifact.notify"
	McpToolCallType      = "mcp.tool_call"
	McpToolResultType    = "mcp.tool_result"
	McpResourceFetchType = "mcp.resource_fetch"
	McpResourceDataType  = "mcp.resource_data"
	// MessageAckType has no dotted form; it exists over WebSocket only.
	MessageAckType = "MessageAck"
)

// PayloadKind is one of the thirteen payload types, whatever its spelling.
type PayloadKind uint8

// The kinds. The zero PayloadKind is none of them.
const (
	KindTaskRequest PayloadKind = iota + 1
	KindTaskResponse
	KindTaskUpdate
	KindTaskCancel
	KindMessageSend
	KindStateQuery
	KindStateRestore
	KindArtifactNotify
	KindMcpToolCall
	KindMcpToolResult
	KindMcpResourceFetch
	KindMcpResourceData
	KindMessageAck
)

// payloadNames holds the class name and the dotted name of each kind. Never
// changed.
var payloadNames = [...]struct{ class, dotted string }{
	KindTaskRequest:      {"TaskRequest", TaskRequestType},
	KindTaskResponse:     {"TaskResponse", TaskResponseType},
	KindTaskUpdate:       {"TaskUpdate", TaskUpdateType},
	KindTaskCancel:       {"TaskCancel", TaskCancelType},
	KindMessageSend:      {"MessageSend", MessageSendType},
	KindStateQuery:       {"StateQuery", StateQueryType},
	KindStateRestore:     {"StateRestore", StateRestoreType},
	KindArtifactNotify:   {"ArtifactNotify", ArtifactNotifyType},
	KindMcpToolCall:      {"McpToolCall", McpToolCallType},
	KindMcpToolResult:    {"McpToolResult", McpToolResultType},
	KindMcpResourceFetch: {"McpResourceFetch", McpResourceFetchType},
	KindMcpResourceData:  {"McpResourceData", McpResourceDataType},
	KindMessageAck:       {MessageAckType, MessageAckType},
}

// Type is the conventional payload_type of the kind: the dotted name, or
// "MessageAck".
func (k PayloadKind) Type() string {
	if int(k) >= len(payloadNames) {
		return ""
	}
	return payloadNames[k].dotted
}

// String is the class name, such as "TaskRequest".
func (k PayloadKind) String() string {
	if int(k) >= len(payloadNames) {
		return ""
	}
	return payloadNames[k].class
}

// CanonicalPayloadType finds the kind that payloadType names: as a class name,
// dotted, or with underscores as some senders write it. Case counts.
func CanonicalPayloadType(payloadType string) (PayloadKind, bool) {
	switch payloadType {
	case TaskRequestType, "TaskRequest", "task_request":
		return KindTaskRequest, true
	case TaskResponseType, "TaskResponse", "task_response":
		return KindTaskResponse, true
	case TaskUpdateType, "TaskUpdate", "task_update":
		return KindTaskUpdate, true
	case TaskCancelType, "TaskCancel", "task_cancel":
		return KindTaskCancel, true
	case MessageSendType, "MessageSend", "message_send":
		return KindMessageSend, true
	case StateQueryType, "StateQuery", "state_query":
		return KindStateQuery, true
	case StateRestoreType, "StateRestore", "state_restore":
		return KindStateRestore, true
	case ArtifactNotifyType, "ArtifactNotify", "artifact_notify":
		return KindArtifactNotify, true
	case McpToolCallType, "McpToolCall", "mcp_tool_call":
		return KindMcpToolCall, true
	case McpToolResultType, "McpToolResult", "mcp_tool_result":
		return KindMcpToolResult, true
	case McpResourceFetchType, "McpResourceFetch", "mcp_resource_fetch":
		return KindMcpResourceFetch, true
	case McpResourceDataType, "McpResourceData", "mcp_resource_data":
		return KindMcpResourceData, true
	case MessageAckType, "message_ack", "message.ack":
		return KindMessageAck, true
	}
	return 0, false
}

// AutoAck reports whether v1.3.0's WebSocket client asks for an acknowledgement
// of this payload_type by itself.
func AutoAck(payloadType string) bool {
	switch kind, _ := CanonicalPayloadType(payloadType); kind {
	case KindTaskRequest, KindTaskCancel, KindMessageSend:
		return true
	case KindStateRestore:
		return payloadType != StateRestoreType
	}
	return false
}

// A Payload is one of the thirteen payload types, as a pointer.
type Payload interface {
	// Kind says which one it is.
	Kind() PayloadKind
	// AppendJSON appends the payload with every member in the order of the
	// specification's table, null for what is absent.
	AppendJSON(dst []byte) []byte
	MarshalJSON() ([]byte, error)
}

// ErrPayloadKind reports a payload kind that does not exist.
var ErrPayloadKind = errors.New("unknown payload type")

// ParsePayload reads v as the payload kind. The error is a *ValidationError, or
// ErrPayloadKind.
func ParsePayload(kind PayloadKind, v jsontext.Value) (Payload, error) {
	switch kind {
	case KindTaskRequest:
		return asPayload(ParseTaskRequest(v))
	case KindTaskResponse:
		return asPayload(ParseTaskResponse(v))
	case KindTaskUpdate:
		return asPayload(ParseTaskUpdate(v))
	case KindTaskCancel:
		return asPayload(ParseTaskCancel(v))
	case KindMessageSend:
		return asPayload(ParseMessageSend(v))
	case KindStateQuery:
		return asPayload(ParseStateQuery(v))
	case KindStateRestore:
		return asPayload(ParseStateRestore(v))
	case KindArtifactNotify:
		return asPayload(ParseArtifactNotify(v))
	case KindMcpToolCall:
		return asPayload(ParseMcpToolCall(v))
	case KindMcpToolResult:
		return asPayload(ParseMcpToolResult(v))
	case KindMcpResourceFetch:
		return asPayload(ParseMcpResourceFetch(v))
	case KindMcpResourceData:
		return asPayload(ParseMcpResourceData(v))
	case KindMessageAck:
		return asPayload(ParseMessageAck(v))
	}
	return nil, ErrPayloadKind
}

// asPayload keeps a nil pointer from becoming a non-nil interface.
func asPayload[P Payload](p P, err error) (Payload, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}
