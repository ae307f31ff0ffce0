package asap

import (
	"github.com/go-json-experiment/json/jsontext"
)

// McpToolCall calls an MCP tool of the recipient (core.md 7).
type McpToolCall struct {
	RequestID  string
	ToolName   string
	Arguments  jsontext.Value
	McpContext jsontext.Value
}

// ParseMcpToolCall reads a McpToolCall; the error is a *ValidationError.
func ParseMcpToolCall(v jsontext.Value) (*McpToolCall, error) {
	return read(&mcpToolCallModel, v, buildMcpToolCall)
}

func buildMcpToolCall(o *object) *McpToolCall {
	return &McpToolCall{
		RequestID:  o.str(0),
		ToolName:   o.str(1),
		Arguments:  o.obj(2),
		McpContext: o.obj(3),
	}
}

// Kind is KindMcpToolCall.
func (m *McpToolCall) Kind() PayloadKind { return KindMcpToolCall }

// AppendJSON appends the value with every member, null for what is absent.
func (m *McpToolCall) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"request_id":`...)
	dst = appendString(dst, m.RequestID)
	dst = append(dst, `,"tool_name":`...)
	dst = appendString(dst, m.ToolName)
	dst = append(dst, `,"arguments":`...)
	dst = appendObject(dst, m.Arguments)
	dst = append(dst, `,"mcp_context":`...)
	dst = appendOptObject(dst, m.McpContext)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (m *McpToolCall) MarshalJSON() ([]byte, error) { return m.AppendJSON(nil), nil }

// McpToolResult answers a McpToolCall: either Success with a Result, or not and
// with a Failure (core.md 7).
type McpToolResult struct {
	RequestID string
	Success   bool
	Result    jsontext.Value
	// Failure is the member "error".
	Failure *string
}

// ParseMcpToolResult reads a McpToolResult; the error is a *ValidationError.
func ParseMcpToolResult(v jsontext.Value) (*McpToolResult, error) {
	return read(&mcpToolResultModel, v, buildMcpToolResult)
}

func buildMcpToolResult(o *object) *McpToolResult {
	m := &McpToolResult{
		RequestID: o.str(0),
		Success:   o.boolean(1),
		Result:    o.obj(2),
		Failure:   o.optStr(3),
	}
	o.checkOutcome(m)
	return m
}

// Kind is KindMcpToolResult.
func (m *McpToolResult) Kind() PayloadKind { return KindMcpToolResult }

// AppendJSON appends the value with every member, null for what is absent.
func (m *McpToolResult) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"request_id":`...)
	dst = appendString(dst, m.RequestID)
	dst = append(dst, `,"success":`...)
	dst = appendBool(dst, m.Success)
	dst = append(dst, `,"result":`...)
	dst = appendOptObject(dst, m.Result)
	dst = append(dst, `,"error":`...)
	dst = appendOptString(dst, m.Failure)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (m *McpToolResult) MarshalJSON() ([]byte, error) { return m.AppendJSON(nil), nil }

// McpResourceFetch asks for an MCP resource (core.md 7).
type McpResourceFetch struct {
	ResourceURI string
}

// ParseMcpResourceFetch reads a McpResourceFetch; the error is a *ValidationError.
func ParseMcpResourceFetch(v jsontext.Value) (*McpResourceFetch, error) {
	return read(&mcpResourceFetchModel, v, buildMcpResourceFetch)
}

func buildMcpResourceFetch(o *object) *McpResourceFetch {
	return &McpResourceFetch{
		ResourceURI: o.str(0),
	}
}

// Kind is KindMcpResourceFetch.
func (m *McpResourceFetch) Kind() PayloadKind { return KindMcpResourceFetch }

// AppendJSON appends the value with every member, null for what is absent.
func (m *McpResourceFetch) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"resource_uri":`...)
	dst = appendString(dst, m.ResourceURI)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (m *McpResourceFetch) MarshalJSON() ([]byte, error) { return m.AppendJSON(nil), nil }

// McpResourceData answers a McpResourceFetch (core.md 7).
type McpResourceData struct {
	ResourceURI string
	Content     jsontext.Value
}

// ParseMcpResourceData reads a McpResourceData; the error is a *ValidationError.
func ParseMcpResourceData(v jsontext.Value) (*McpResourceData, error) {
	return read(&mcpResourceDataModel, v, buildMcpResourceData)
}

func buildMcpResourceData(o *object) *McpResourceData {
	return &McpResourceData{
		ResourceURI: o.str(0),
		Content:     o.obj(1),
	}
}

// Kind is KindMcpResourceData.
func (m *McpResourceData) Kind() PayloadKind { return KindMcpResourceData }

// AppendJSON appends the value with every member, null for what is absent.
func (m *McpResourceData) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"resource_uri":`...)
	dst = appendString(dst, m.ResourceURI)
	dst = append(dst, `,"content":`...)
	dst = appendObject(dst, m.Content)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (m *McpResourceData) MarshalJSON() ([]byte, error) { return m.AppendJSON(nil), nil }

// checkOutcome applies the rule that success and result go together, and
// failure and error. It speaks up only if the members are right by themselves.
func (o *object) checkOutcome(m *McpToolResult) {
	if len(o.issues.list) > 0 || len(o.extra) > 0 {
		return
	}
	var msg string
	switch {
	case m.Success && m.Result == nil:
		msg = "result must be provided when success=True"
	case m.Success && m.Failure != nil:
		msg = "error must be None when success=True"
	case !m.Success && m.Failure == nil:
		msg = "error must be provided when success=False"
	case !m.Success && m.Result != nil:
		msg = "result must be None when success=False"
	default:
		return
	}
	o.issues.add(o.at, "", "value_error", "Value error, "+msg)
}
