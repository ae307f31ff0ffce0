package asap

import (
	"errors"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// A Schema is the JSON Schema of one model. It is made from the description the
// parser works by, so it is always current; rules that JSON Schema cannot say
// (URN, PEP 440, percentages, exclusivity, correlation) are [Validate]'s.
type Schema struct {
	// Name is what the command schemas calls it, such as "task_request".
	Name string
	// Path is its file, relative to the folder of all schemas.
	Path string

	model    *model
	validate func(jsontext.Value) error
}

// ErrUnknownSchema reports a schema name that does not exist.
var ErrUnknownSchema = errors.New("unknown schema")

// Schemas returns the 25 schemas of cli.md, in the order of list-schemas.
func Schemas() []Schema {
	return []Schema{
		{"agent", "entities/agent.schema.json", &agentModel, validator(ParseAgent)},
		{"manifest", "entities/manifest.schema.json", &manifestModel, func(v jsontext.Value) error { _, err := ParseManifest(v); return err }},
		{"conversation", "entities/conversation.schema.json", &conversationModel, validator(ParseConversation)},
		{"task", "entities/task.schema.json", &taskModel, validator(ParseTask)},
		{"message", "entities/message.schema.json", &messageModel, validator(ParseMessage)},
		{"artifact", "entities/artifact.schema.json", &artifactModel, validator(ParseArtifact)},
		{"state_snapshot", "entities/state_snapshot.schema.json", &stateSnapshotModel, validator(ParseStateSnapshot)},
		{"text_part", "parts/text_part.schema.json", &textPartModel, partValidator(&textPartModel, buildTextPart)},
		{"data_part", "parts/data_part.schema.json", &dataPartModel, partValidator(&dataPartModel, buildDataPart)},
		{"file_part", "parts/file_part.schema.json", &filePartModel, partValidator(&filePartModel, buildFilePart)},
		{"resource_part", "parts/resource_part.schema.json", &resourcePartModel, partValidator(&resourcePartModel, buildResourcePart)},
		{"template_part", "parts/template_part.schema.json", &templatePartModel, partValidator(&templatePartModel, buildTemplatePart)},
		{"task_request", "payloads/task_request.schema.json", &taskRequestModel, validator(ParseTaskRequest)},
		{"task_response", "payloads/task_response.schema.json", &taskResponseModel, validator(ParseTaskResponse)},
		{"task_update", "payloads/task_update.schema.json", &taskUpdateModel, validator(ParseTaskUpdate)},
		{"task_cancel", "payloads/task_cancel.schema.json", &taskCancelModel, validator(ParseTaskCancel)},
		{"message_send", "payloads/message_send.schema.json", &messageSendModel, validator(ParseMessageSend)},
		{"state_query", "payloads/state_query.schema.json", &stateQueryModel, validator(ParseStateQuery)},
		{"state_restore", "payloads/state_restore.schema.json", &stateRestoreModel, validator(ParseStateRestore)},
		{"artifact_notify", "payloads/artifact_notify.schema.json", &artifactNotifyModel, validator(ParseArtifactNotify)},
		{"mcp_tool_call", "payloads/mcp_tool_call.schema.json", &mcpToolCallModel, validator(ParseMcpToolCall)},
		{"mcp_tool_result", "payloads/mcp_tool_result.schema.json", &mcpToolResultModel, validator(ParseMcpToolResult)},
		{"mcp_resource_fetch", "payloads/mcp_resource_fetch.schema.json", &mcpResourceFetchModel, validator(ParseMcpResourceFetch)},
		{"mcp_resource_data", "payloads/mcp_resource_data.schema.json", &mcpResourceDataModel, validator(ParseMcpResourceData)},
		{"envelope", "envelope.schema.json", &envelopeModel, func(v jsontext.Value) error { _, err := ParseEnvelope(v); return err }},
	}
}

func validator[T any](parse func(jsontext.Value) (*T, error)) func(jsontext.Value) error {
	return func(v jsontext.Value) error {
		_, err := parse(v)
		return err
	}
}

func partValidator[P Part](m *model, build func(*object) P) func(jsontext.Value) error {
	return func(v jsontext.Value) error {
		_, err := read(m, v, build)
		return err
	}
}

// LookupSchema returns the schema with this name.
func LookupSchema(name string) (Schema, bool) {
	for _, s := range Schemas() {
		if s.Name == name {
			return s, true
		}
	}
	return Schema{}, false
}

// Validate checks the document b against the model with this name, with all its
// custom rules. The error is a *ValidationError, or ErrUnknownSchema.
func Validate(name string, b []byte) error {
	s, ok := LookupSchema(name)
	if !ok {
		return ErrUnknownSchema
	}
	return s.validate(b)
}

// DetectSchema guesses the schema of a document: "envelope" for an object with
// payload_type and asap_version, else "".
func DetectSchema(b []byte) string {
	if checkJSON(b) != nil {
		return ""
	}
	var payloadType, version bool
	for w := walkObject(b); w.next(); {
		payloadType = payloadType || string(w.name) == "payload_type"
		version = version || string(w.name) == "asap_version"
	}
	if payloadType && version {
		return "envelope"
	}
	return ""
}

// JSON returns the schema document, indented by two blanks.
func (s Schema) JSON() []byte {
	var defs definitions
	body := s.model.appendSchema(nil, &defs)
	doc := jsontext.Value(body)
	if len(defs.list) > 0 {
		b := []byte(`{"$defs":{`)
		for i := 0; i < len(defs.list); i++ { // writing a model may add more
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, defs.list[i].title)
			b = append(b, ':')
			b = defs.list[i].append(b, &defs)
		}
		b = append(b, "},"...)
		doc = append(b, body[1:]...)
	}
	_ = doc.Indent(jsontext.WithIndent("  ")) // our own JSON
	return doc
}

// definitions gathers the named types a schema refers to, each once.
type definitions struct{ list []definition }

type definition struct {
	title  string
	append func(dst []byte, defs *definitions) []byte
}

func (d *definitions) refer(dst []byte, title string, write func([]byte, *definitions) []byte) []byte {
	known := false
	for _, def := range d.list {
		known = known || def.title == title
	}
	if !known {
		d.list = append(d.list, definition{title, write})
	}
	dst = append(dst, `"$ref":`...)
	return appendString(dst, "#/$defs/"+title)
}

func (m *model) appendSchema(dst []byte, defs *definitions) []byte {
	dst = append(dst, `{"additionalProperties":false,"description":`...)
	dst = appendString(dst, m.doc)
	dst = append(dst, `,"properties":{`...)
	var required []string
	for i := range m.fields {
		f := &m.fields[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, f.name)
		dst = append(dst, ':')
		dst = f.appendSchema(dst, defs)
		if f.required {
			required = append(required, f.name)
		}
	}
	dst = append(dst, '}')
	if len(required) > 0 {
		dst = append(dst, `,"required":`...)
		dst = appendStrings(dst, required)
	}
	dst = append(dst, `,"title":`...)
	dst = appendString(dst, m.title)
	return append(dst, `,"type":"object"}`...)
}

func (f *field) appendSchema(dst []byte, defs *definitions) []byte {
	dst = append(dst, '{')
	if f.nullable {
		dst = append(dst, `"anyOf":[{`...)
		dst = f.appendType(dst, defs)
		dst = append(dst, `},{"type":"null"}],"default":null`...)
	} else {
		dst = f.appendType(dst, defs)
		if f.def != "" {
			dst = append(dst, `,"default":`...)
			dst = append(dst, f.def...)
		}
	}
	dst = append(dst, `,"description":`...)
	dst = appendString(dst, f.doc)
	if f.kind != kindModel && f.kind != kindEnum {
		dst = append(dst, `,"title":`...)
		dst = appendString(dst, titleOf(f.name))
	}
	return append(dst, '}')
}

func (f *field) appendType(dst []byte, defs *definitions) []byte {
	switch f.kind {
	case kindInt:
		if f.max != nil {
			dst = append(dst, `"maximum":`...)
			dst = appendOptInt(dst, f.max)
			dst = append(dst, ',')
		}
		if f.min != nil {
			dst = append(dst, `"minimum":`...)
			dst = appendOptInt(dst, f.min)
			dst = append(dst, ',')
		}
		return append(dst, `"type":"integer"`...)
	case kindBool:
		return append(dst, `"type":"boolean"`...)
	case kindTime:
		return append(dst, `"format":"date-time","type":"string"`...)
	case kindObject:
		return append(dst, `"additionalProperties":true,"type":"object"`...)
	case kindStrings:
		dst = append(dst, `"items":{"type":"string"},`...)
		if f.minItems > 0 {
			dst = append(dst, `"minItems":`...)
			dst = appendOptInt(dst, new(int64(f.minItems)))
			dst = append(dst, ',')
		}
		return append(dst, `"type":"array"`...)
	case kindEnum:
		return defs.refer(dst, f.enum.title, f.enum.appendSchema)
	case kindLiteral:
		dst = append(dst, `"const":`...)
		dst = appendString(dst, f.enum.values[0])
		return append(dst, `,"type":"string"`...)
	case kindModel:
		return defs.refer(dst, f.ref.title, f.ref.appendSchema)
	case kindModels:
		dst = append(dst, `"items":{`...)
		dst = defs.refer(dst, f.ref.title, f.ref.appendSchema)
		return append(dst, `},"type":"array"`...)
	case kindString, kindURN:
		if f.pattern != "" {
			dst = append(dst, `"pattern":`...)
			dst = appendString(dst, f.pattern)
			dst = append(dst, ',')
		}
	}
	return append(dst, `"type":"string"`...)
}

func (e *enumeration) appendSchema(dst []byte, _ *definitions) []byte {
	dst = append(dst, `{"description":`...)
	dst = appendString(dst, e.doc)
	dst = append(dst, `,"enum":`...)
	dst = appendStrings(dst, e.values)
	dst = append(dst, `,"title":`...)
	dst = appendString(dst, e.title)
	return append(dst, `,"type":"string"}`...)
}

// titleOf turns "task_id" into "Task Id".
func titleOf(name string) string {
	words := strings.Split(name, "_")
	for i, w := range words {
		words[i] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, " ")
}
