package asap

// The models of the protocol: what core.md's tables say, once, for the parser
// and for the JSON Schemas. The position of a field is its number in the build
// functions. None of this is ever changed.

var (
	taskStatusEnum = &enumeration{"TaskStatus", "Where a task stands; completed, failed and cancelled are final.", []string{"submitted", "working", "completed", "failed", "cancelled", "input_required"}}
	updateTypeEnum = &enumeration{"UpdateType", "What an update is about.", []string{"progress", "input_required", "status_change"}}
	roleEnum       = &enumeration{"MessageRole", "Who speaks.", []string{"user", "assistant", "system"}}
	ackStatusEnum  = &enumeration{values: []string{"received", "processed", "rejected"}}
)

var envelopeModel = model{title: "Envelope", doc: "Carries one payload from one agent to another.", fields: []field{
	{name: "id", kind: kindString, nullable: true, doc: "Id of the envelope, usually a ULID; the receiver makes one if it is absent"},
	{name: "asap_version", kind: kindString, required: true, doc: "Protocol version, free text"},
	{name: "timestamp", kind: kindTime, nullable: true, doc: "When it was sent; absent means when it was received"},
	{name: "sender", kind: kindURN, required: true, doc: "URN of the sending agent"},
	{name: "recipient", kind: kindURN, required: true, doc: "URN of the receiving agent"},
	{name: "payload_type", kind: kindString, required: true, doc: "Names the type of the payload"},
	{name: "payload", kind: kindObject, required: true, doc: "The payload"},
	{name: "correlation_id", kind: kindString, nullable: true, doc: "Id of the envelope that this one answers"},
	{name: "trace_id", kind: kindString, nullable: true, doc: "Id of the distributed trace"},
	{name: "requires_ack", kind: kindBool, def: "false", doc: "Whether the receiver should acknowledge over WebSocket"},
	{name: "extensions", kind: kindObject, nullable: true, doc: "Free-form additions"},
}}

var taskRequestModel = model{title: "TaskRequest", doc: "Asks an agent to do a task.", fields: []field{
	{name: "conversation_id", kind: kindString, required: true, doc: "Conversation the task belongs to"},
	{name: "parent_task_id", kind: kindString, nullable: true, doc: "Task that this one is part of"},
	{name: "skill_id", kind: kindString, required: true, doc: "Skill to use"},
	{name: "input", kind: kindObject, required: true, doc: "Input of the skill"},
	{name: "config", kind: kindObject, nullable: true, doc: "Settings for this run"},
}}

var taskResponseModel = model{title: "TaskResponse", doc: "Says how a task stands or ended.", fields: []field{
	{name: "task_id", kind: kindString, required: true, doc: "The task"},
	{name: "status", kind: kindEnum, enum: taskStatusEnum, required: true, doc: "Its status"},
	{name: "result", kind: kindObject, nullable: true, doc: "Output of the skill"},
	{name: "final_state", kind: kindObject, nullable: true, doc: "State at the end, for later tasks"},
	{name: "metrics", kind: kindObject, nullable: true, doc: "What the task used"},
}}

var taskUpdateModel = model{title: "TaskUpdate", doc: "Tells progress, a change of status, or a need for input.", fields: []field{
	{name: "task_id", kind: kindString, required: true, doc: "The task"},
	{name: "update_type", kind: kindEnum, enum: updateTypeEnum, required: true, doc: "What the update is about"},
	{name: "status", kind: kindEnum, enum: taskStatusEnum, required: true, doc: "Status of the task now"},
	{name: "progress", kind: kindObject, nullable: true, doc: "Progress; percent is a number from 0 to 100"},
	{name: "input_request", kind: kindObject, nullable: true, doc: "What input is needed"},
}}

var taskCancelModel = model{title: "TaskCancel", doc: "Asks to stop a task.", fields: []field{
	{name: "task_id", kind: kindString, required: true, doc: "The task"},
	{name: "reason", kind: kindString, nullable: true, doc: "Why"},
}}

var messageSendModel = model{title: "MessageSend", doc: "Adds a message to a task.", fields: []field{
	{name: "task_id", kind: kindString, required: true, doc: "The task"},
	{name: "message_id", kind: kindString, required: true, doc: "Id of the message"},
	{name: "sender", kind: kindString, required: true, doc: "Who sent it, free text"},
	{name: "role", kind: kindEnum, enum: roleEnum, required: true, doc: "Who speaks"},
	{name: "parts", kind: kindStrings, required: true, doc: "Ids of the parts"},
}}

var stateQueryModel = model{title: "StateQuery", doc: "Asks for a snapshot of a task.", fields: []field{
	{name: "task_id", kind: kindString, required: true, doc: "The task"},
	{name: "version", kind: kindInt, nullable: true, doc: "Version of the snapshot; absent means the newest"},
}}

var stateRestoreModel = model{title: "StateRestore", doc: "Asks to bring a task back to a snapshot.", fields: []field{
	{name: "task_id", kind: kindString, required: true, doc: "The task"},
	{name: "snapshot_id", kind: kindString, required: true, doc: "The snapshot"},
}}

var artifactNotifyModel = model{title: "ArtifactNotify", doc: "Says that a task produced an artifact.", fields: []field{
	{name: "artifact_id", kind: kindString, required: true, doc: "The artifact"},
	{name: "task_id", kind: kindString, required: true, doc: "The task"},
	{name: "name", kind: kindString, nullable: true, doc: "Name for people"},
}}

var mcpToolCallModel = model{title: "McpToolCall", doc: "Calls an MCP tool of the recipient.", fields: []field{
	{name: "request_id", kind: kindString, required: true, doc: "Id of the call"},
	{name: "tool_name", kind: kindString, required: true, doc: "Name of the tool"},
	{name: "arguments", kind: kindObject, required: true, doc: "Its arguments"},
	{name: "mcp_context", kind: kindObject, nullable: true, doc: "MCP context"},
}}

var mcpToolResultModel = model{title: "McpToolResult", doc: "Answers a call of an MCP tool: success and a result, or no success and an error.", fields: []field{
	{name: "request_id", kind: kindString, required: true, doc: "Id of the call"},
	{name: "success", kind: kindBool, required: true, doc: "Whether it worked"},
	{name: "result", kind: kindObject, nullable: true, doc: "What it returned"},
	{name: "error", kind: kindString, nullable: true, doc: "What went wrong"},
}}

var mcpResourceFetchModel = model{title: "McpResourceFetch", doc: "Asks for an MCP resource.", fields: []field{
	{name: "resource_uri", kind: kindString, required: true, doc: "Address of the resource"},
}}

var mcpResourceDataModel = model{title: "McpResourceData", doc: "Brings an MCP resource.", fields: []field{
	{name: "resource_uri", kind: kindString, required: true, doc: "Address of the resource"},
	{name: "content", kind: kindObject, required: true, doc: "Its content"},
}}

var messageAckModel = model{title: "MessageAck", doc: "Acknowledges an envelope over WebSocket.", fields: []field{
	{name: "original_envelope_id", kind: kindString, required: true, doc: "The envelope"},
	{name: "status", kind: kindLiteral, enum: ackStatusEnum, required: true, doc: "What became of it"},
	{name: "error", kind: kindString, nullable: true, doc: "Why it was rejected"},
}}

func literal(value string) *enumeration { return &enumeration{values: []string{value}} }

var textPartModel = model{title: "TextPart", doc: "Plain text.", fields: []field{
	{name: "type", kind: kindLiteral, enum: literal("text"), required: true, doc: "Says which part this is"},
	{name: "content", kind: kindString, required: true, doc: "The text"},
}}

var dataPartModel = model{title: "DataPart", doc: "A JSON object.", fields: []field{
	{name: "type", kind: kindLiteral, enum: literal("data"), required: true, doc: "Says which part this is"},
	{name: "data", kind: kindObject, required: true, doc: "The object"},
	{name: "schema_uri", kind: kindString, nullable: true, doc: "Address of its JSON Schema"},
}}

var filePartModel = model{title: "FilePart", doc: "A file, by address or with its content.", fields: []field{
	{name: "type", kind: kindLiteral, enum: literal("file"), required: true, doc: "Says which part this is"},
	{name: "uri", kind: kindString, required: true, doc: "Address of the file; no '..' and no file://"},
	{name: "mime_type", kind: kindString, required: true, doc: "Media type without parameters"},
	{name: "inline_data", kind: kindString, nullable: true, doc: "Content in base64"},
}}

var resourcePartModel = model{title: "ResourcePart", doc: "Points to an MCP resource.", fields: []field{
	{name: "type", kind: kindLiteral, enum: literal("resource"), required: true, doc: "Says which part this is"},
	{name: "resource_uri", kind: kindString, required: true, doc: "Address of the resource"},
}}

var templatePartModel = model{title: "TemplatePart", doc: "A text with placeholders.", fields: []field{
	{name: "type", kind: kindLiteral, enum: literal("template"), required: true, doc: "Says which part this is"},
	{name: "template", kind: kindString, required: true, doc: "The text"},
	{name: "variables", kind: kindObject, required: true, doc: "Values of the placeholders"},
}}

var agentModel = model{title: "Agent", doc: "A short record of an agent.", fields: []field{
	{name: "id", kind: kindURN, required: true, doc: "URN of the agent"},
	{name: "manifest_uri", kind: kindString, required: true, doc: "Address of its manifest"},
	{name: "capabilities", kind: kindStrings, required: true, minItems: 1, doc: "What it can do"},
}}

var conversationModel = model{title: "Conversation", doc: "Groups tasks.", fields: []field{
	{name: "id", kind: kindString, required: true, doc: "Id of the conversation"},
	{name: "participants", kind: kindStrings, required: true, minItems: 1, doc: "Agents that take part"},
	{name: "created_at", kind: kindTime, required: true, doc: "When it began"},
	{name: "metadata", kind: kindObject, nullable: true, doc: "Free-form additions"},
}}

var taskModel = model{title: "Task", doc: "One piece of work.", fields: []field{
	{name: "id", kind: kindString, required: true, doc: "Id of the task"},
	{name: "conversation_id", kind: kindString, required: true, doc: "Conversation it belongs to"},
	{name: "parent_task_id", kind: kindString, nullable: true, doc: "Task that this one is part of"},
	{name: "status", kind: kindEnum, enum: taskStatusEnum, required: true, doc: "Its status"},
	{name: "depth", kind: kindInt, def: "0", min: new(int64(0)), max: new(int64(MaxTaskDepth)), doc: "How deep it is nested"},
	{name: "progress", kind: kindObject, nullable: true, doc: "Progress"},
	{name: "created_at", kind: kindTime, required: true, doc: "When it was made"},
	{name: "updated_at", kind: kindTime, required: true, doc: "When it last changed"},
}}

var messageModel = model{title: "Message", doc: "One message of a task.", fields: []field{
	{name: "id", kind: kindString, required: true, doc: "Id of the message"},
	{name: "task_id", kind: kindString, required: true, doc: "The task"},
	{name: "sender", kind: kindString, required: true, doc: "Who sent it, free text"},
	{name: "role", kind: kindEnum, enum: roleEnum, required: true, doc: "Who speaks"},
	{name: "parts", kind: kindStrings, required: true, doc: "Ids of the parts"},
	{name: "timestamp", kind: kindTime, required: true, doc: "When it was sent"},
}}

var artifactModel = model{title: "Artifact", doc: "Something a task produced.", fields: []field{
	{name: "id", kind: kindString, required: true, doc: "Id of the artifact"},
	{name: "task_id", kind: kindString, required: true, doc: "The task"},
	{name: "name", kind: kindString, required: true, doc: "Name for people"},
	{name: "parts", kind: kindStrings, required: true, doc: "Ids of the parts"},
	{name: "created_at", kind: kindTime, required: true, doc: "When it was made"},
}}

var stateSnapshotModel = model{title: "StateSnapshot", doc: "The state of a task at one moment.", fields: []field{
	{name: "id", kind: kindString, required: true, doc: "Id of the snapshot"},
	{name: "task_id", kind: kindString, required: true, doc: "The task"},
	{name: "version", kind: kindInt, required: true, min: new(int64(1)), doc: "Counts up from 1"},
	{name: "data", kind: kindObject, required: true, doc: "The state"},
	{name: "checkpoint", kind: kindBool, def: "false", doc: "Whether it is a named checkpoint"},
	{name: "created_at", kind: kindTime, required: true, doc: "When it was taken"},
}}

var skillModel = model{title: "Skill", doc: "One thing an agent can do.", fields: []field{
	{name: "id", kind: kindString, required: true, doc: "Id of the skill"},
	{name: "description", kind: kindString, required: true, doc: "What it does"},
	{name: "input_schema", kind: kindObject, nullable: true, doc: "JSON Schema of its input"},
	{name: "output_schema", kind: kindObject, nullable: true, doc: "JSON Schema of its output"},
}}

var capabilityModel = model{title: "Capability", doc: "What an agent can do.", fields: []field{
	{name: "asap_version", kind: kindString, def: `"0.1"`, doc: "Protocol version"},
	{name: "skills", kind: kindModels, ref: &skillModel, doc: "Skills"},
	{name: "state_persistence", kind: kindBool, def: "false", doc: "Whether it keeps snapshots"},
	{name: "streaming", kind: kindBool, def: "false", doc: "Whether it streams"},
	{name: "mcp_tools", kind: kindStrings, doc: "Names of its MCP tools"},
}}

var endpointModel = model{title: "Endpoint", doc: "Where an agent can be reached.", fields: []field{
	{name: "asap", kind: kindString, required: true, doc: "Address for ASAP over HTTP"},
	{name: "events", kind: kindString, nullable: true, doc: "Address for events"},
}}

var authSchemeModel = model{title: "AuthScheme", doc: "How callers authenticate.", fields: []field{
	{name: "schemes", kind: kindStrings, required: true, doc: "bearer or basic, in any case"},
	{name: "oauth2", kind: kindObject, nullable: true, doc: "OAuth2 settings, free-form"},
}}

var slaDefinitionModel = model{title: "SLADefinition", doc: "What an agent promises.", fields: []field{
	{name: "availability", kind: kindString, nullable: true, doc: "Least availability, such as 99.5%"},
	{name: "max_latency_p95_ms", kind: kindInt, nullable: true, min: new(int64(0)), doc: "Highest 95th percentile of latency, in milliseconds"},
	{name: "max_error_rate", kind: kindString, nullable: true, doc: "Highest rate of failed tasks, such as 1%"},
	{name: "support_hours", kind: kindString, nullable: true, doc: "Support hours, free text"},
}}

var manifestModel = model{title: "Manifest", doc: "Describes an agent: who it is, what it can do, where it is, what it promises.", fields: []field{
	{name: "id", kind: kindURN, required: true, doc: "URN of the agent"},
	{name: "name", kind: kindString, required: true, doc: "Name for people"},
	{name: "version", kind: kindString, required: true, doc: "Version of the agent, by PEP 440"},
	{name: "description", kind: kindString, required: true, doc: "What the agent does"},
	{name: "capabilities", kind: kindModel, ref: &capabilityModel, required: true, doc: "What the agent can do"},
	{name: "endpoints", kind: kindModel, ref: &endpointModel, required: true, doc: "Where it can be reached"},
	{name: "auth", kind: kindModel, ref: &authSchemeModel, nullable: true, doc: "How callers authenticate"},
	{name: "signature", kind: kindString, nullable: true, doc: "Unused; the signed form wraps the manifest"},
	{name: "sla", kind: kindModel, ref: &slaDefinitionModel, nullable: true, doc: "What the agent promises"},
	{name: "ttl_seconds", kind: kindInt, def: "300", min: new(int64(1)), doc: "How long the manifest may be cached, in seconds"},
}}

const base64Pattern = "^[A-Za-z0-9+/=]+$"

var signatureBlockModel = model{title: "SignatureBlock", doc: "The signature of a manifest.", fields: []field{
	{name: "alg", kind: kindLiteral, enum: literal("ed25519"), required: true, doc: "Algorithm"},
	{name: "signature", kind: kindString, required: true, pattern: base64Pattern, doc: "Signature in base64"},
	{name: "trust_level", kind: kindEnum, enum: &enumeration{"TrustLevel", "Who vouches; not covered by the signature.", []string{"self-signed", "verified", "enterprise"}}, def: `"self-signed"`, doc: "Who vouches"},
}}

var signedManifestModel = model{title: "SignedManifest", doc: "A manifest and its signature.", fields: []field{
	{name: "manifest", kind: kindModel, ref: &manifestModel, required: true, doc: "The manifest"},
	{name: "signature", kind: kindModel, ref: &signatureBlockModel, required: true, doc: "Its signature"},
	{name: "public_key", kind: kindString, nullable: true, pattern: base64Pattern, doc: "Key of the signer in base64"},
}}

// rpcRequestModel: the id is read by hand, as it may be a string or an integer.
var rpcRequestModel = model{title: "JsonRpcRequest", fields: []field{
	{name: "jsonrpc", kind: kindLiteral, enum: literal("2.0"), def: `"2.0"`},
	{name: "method", kind: kindString, required: true},
	{name: "params", kind: kindObject, required: true},
	{name: "id", kind: kindString, required: true},
}}

var rpcErrorModel = model{title: "JsonRpcError", fields: []field{
	{name: "code", kind: kindInt, required: true},
	{name: "message", kind: kindString, required: true},
	{name: "data", kind: kindObject, nullable: true},
}}

// rpcFrameModel lists what a client looks for in a message.
var rpcFrameModel = model{title: "JsonRpcMessage", fields: []field{
	{name: "id", kind: kindString},
	{name: "method", kind: kindString},
	{name: "params", kind: kindObject},
	{name: "result", kind: kindObject},
	{name: "error", kind: kindModel, ref: &rpcErrorModel},
}}
