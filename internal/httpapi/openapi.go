package httpapi

import (
	"fmt"
	"net/http"
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// parameter is a documented parameter of a route.
type parameter struct {
	name, in, doc string
	kind          string // string, integer, boolean, date-time, cursor, time-zone
	required      bool
	enum          []any
	pattern       string // of a text
	least, most   int    // of an integer, or of the length of a text; most 0 is open
}

var (
	groupByParam = parameter{name: "group_by", in: "query", kind: "string", required: true, pattern: groupByPattern,
		doc: "agent, consumer, hour, day, week (ISO, Monday), month, skill, outcome, delegation, or several with commas"}
	zoneParam         = parameter{name: "tz", in: "query", kind: "time-zone", doc: "time zone of the calendar, such as Europe/Berlin; UTC if left out"}
	formatParam       = parameter{name: "export_format", in: "query", kind: "string", enum: []any{"json", "csv", "ndjson"}, doc: "json if left out"}
	formatAlias       = parameter{name: "format", in: "query", kind: "string", enum: []any{"json", "csv", "ndjson"}, doc: "the same as export_format"}
	exportLimitParam  = parameter{name: "limit", in: "query", kind: "integer", least: 1, most: maxExport, doc: "at most so many records; all if left out. A limit that cuts is told by complete: false"}
	taskPathParam     = parameter{name: "task_id", in: "path", kind: "string", required: true, doc: "id of the task"}
	entryPathParam    = parameter{name: "id", in: "path", kind: "string", required: true, doc: "id of the audit entry"}
	modeParam         = parameter{name: "mode", in: "query", kind: "string", enum: []any{"atomic", "per_item"}, doc: "atomic if left out"}
	idempotencyHeader = parameter{name: "Idempotency-Key", in: "header", kind: "string", most: metering.MaxText, doc: "names a report that has no id"}
)

func timeRange() []parameter {
	return []parameter{
		{name: "start", in: "query", kind: "date-time", doc: "not before; RFC 3339 with zone"},
		{name: "end", in: "query", kind: "date-time", doc: "before; RFC 3339 with zone"},
	}
}

func recordFilter() []parameter {
	var list []parameter
	for _, p := range [][2]string{
		{"agent", "who worked"}, {"agent_id", "the same"}, {"consumer", "who asked"}, {"consumer_id", "the same"},
		{"task_id", "id of the task"}, {"skill", "skill of the agent"}, {"delegation", "id of the leaf delegation token"},
	} {
		list = append(list, parameter{name: p[0], in: "query", kind: "string", doc: p[1]})
	}
	outcome := parameter{name: "outcome", in: "query", kind: "string", doc: "how the task ended", enum: []any{"completed", "failed", "cancelled", "timeout", "rejected"}}
	return append(append(list, outcome), timeRange()...)
}

func paging() []parameter {
	return []parameter{
		{name: "limit", in: "query", kind: "integer", least: 1, most: maxLimit, doc: "100 if left out"},
		{name: "cursor", in: "query", kind: "cursor", doc: "next_cursor of the page before"},
	}
}

func offset() []parameter {
	return []parameter{{name: "offset", in: "query", kind: "integer", most: 1<<31 - 1, doc: "leave out so many, after the cursor if there is one"}}
}

func groupPaging() []parameter {
	return []parameter{
		{name: "limit", in: "query", kind: "integer", least: 1, most: maxGroupPage, doc: "groups of one page, 10000 if left out"},
		{name: "cursor", in: "query", kind: "cursor", doc: "next_cursor of the page before"},
	}
}

func auditFilter() []parameter {
	var list []parameter
	for _, p := range [][2]string{{"actor", "URN of who acted"}, {"subject", "id of what was acted on"}, {"task", "the same"},
		{"agent", "URN of an agent the entry concerns, as actor, subject or party"}, {"event_type", "such as usage.recorded"}} {
		list = append(list, parameter{name: p[0], in: "query", kind: "string", doc: p[1]})
	}
	return append(append(list, timeRange()...), paging()...)
}

// operation describes a row of the table to OpenAPI.
func operation(api huma.API, r route) *huma.Operation {
	schemas := api.OpenAPI().Components.Schemas
	schemaOf := func(v any) *huma.Schema {
		schema := schemas.Schema(reflect.TypeOf(v), true, "")
		schema.Nullable = false // a list on its own
		return schema
	}
	op := &huma.Operation{Method: r.method, Path: r.path, OperationID: r.id, Summary: r.summary, Responses: map[string]*huma.Response{}}
	switch r.access {
	case operators:
		op.Description = "For the operator only."
	case agents:
		op.Description = "For the operator, and for agents about what they are part of."
	case itself:
		op.Description = "For agents: an agent acts for itself here, and nobody else does."
	case anyone:
	}
	for _, p := range r.params {
		op.Parameters = append(op.Parameters, &huma.Param{Name: p.name, In: p.in, Description: p.doc, Required: p.required, Schema: p.schema()})
	}
	if r.body != nil {
		op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: schemaOf(r.body)}}}
	}
	for status, body := range r.answers {
		if body == nil {
			op.Responses[strconv.Itoa(status)] = &huma.Response{Description: http.StatusText(status)}
			continue
		}
		media := map[string]*huma.MediaType{"application/json": {Schema: schemaOf(body)}}
		for _, other := range r.media {
			media[other] = &huma.MediaType{}
		}
		op.Responses[strconv.Itoa(status)] = &huma.Response{Description: http.StatusText(status), Content: media}
	}
	if r.id == "getOpenAPI" {
		op.Responses["200"] = &huma.Response{Description: http.StatusText(http.StatusOK),
			Content: map[string]*huma.MediaType{openAPIMedia: {Schema: &huma.Schema{Type: huma.TypeObject}}}}
	}
	for _, status := range r.refusals() {
		op.Responses[strconv.Itoa(status)] = &huma.Response{
			Description: http.StatusText(status) + "; the member code says why.",
			Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schemaOf(problem{})}},
		}
	}
	return op
}

// The types below are the answers. Those that only document a form which is
// written elsewhere (usageRecord, AuditRecord and what holds them) are checked
// against it by a test.

// Totals are the members of every sum. It is exported, as others are that are
// embedded, because the description of the interface is made by reflection.
type Totals struct {
	Tokens          int64   `json:"total_tokens"`
	TokensIn        int64   `json:"total_tokens_in"`
	TokensOut       int64   `json:"total_tokens_out"`
	DurationMS      int64   `json:"total_duration_ms"`
	Tasks           int64   `json:"total_tasks"`
	APICalls        int64   `json:"total_api_calls"`
	TokensPerTask   average `json:"avg_tokens_per_task"`
	DurationPerTask average `json:"avg_duration_ms_per_task"`
	CostUSD         *string `json:"total_cost_usd" doc:"decimal text; null while none of the tasks has a price"`
	Unpriced        int64   `json:"unpriced_tasks" doc:"tasks whose price is not known and not in the cost"`
	Unreported      int64   `json:"unreported_tasks" doc:"tasks whose tokens are not known and not in the tokens"`
}

// average is the text of a number, or null. The zero average is not usable.
type average string

// MarshalJSON returns the text.
func (a average) MarshalJSON() ([]byte, error) { return []byte(a), nil }

// Schema documents it as the number it is.
func (average) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeNumber, Nullable: true, Description: "null of nothing"}
}

type summaryAnswer struct {
	Totals
	UniqueAgents    int64 `json:"unique_agents"`
	UniqueConsumers int64 `json:"unique_consumers"`
}

type groupRow struct {
	Agent      *string `json:"agent,omitempty"`
	AgentID    *string `json:"agent_id,omitempty"`
	Consumer   *string `json:"consumer,omitempty"`
	ConsumerID *string `json:"consumer_id,omitempty"`
	Skill      *string `json:"skill,omitzero"`
	Outcome    *string `json:"outcome,omitzero"`
	Delegation *string `json:"delegation,omitzero"`
	Period     string  `json:"period" doc:"2026-02-20T12:00:00Z, 2026-02-20, 2026-W08, 2026-02, or all"`
	Totals
	UniqueAgents    *int64 `json:"unique_agents,omitzero"`
	UniqueConsumers *int64 `json:"unique_consumers,omitzero"`
}

type groupPage struct {
	GroupBy string     `json:"group_by,omitempty"`
	Data    []groupRow `json:"data"`
	Count   int        `json:"count"`
	Next    *string    `json:"next_cursor"`
}

type statsAnswer struct {
	TotalEvents      int64   `json:"total_events"`
	Oldest           *string `json:"oldest_timestamp"`
	RetentionSeconds *int64  `json:"retention_ttl_seconds"`
}

type receiptAnswer struct {
	Seq  int64  `json:"seq" doc:"position of the audit entry"`
	ID   string `json:"id"`
	Hash string `json:"hash" doc:"lower-case hex"`
}

// RecordedItem is what became of one report.
type RecordedItem struct {
	ID         string        `json:"id"`
	Sequence   int64         `json:"sequence"`
	Duplicate  bool          `json:"duplicate" doc:"it was recorded before; the receipt is the first one"`
	CostUSD    *string       `json:"cost_usd"`
	CostStatus string        `json:"cost_status"`
	Receipt    receiptAnswer `json:"receipt"`
}

type recordedAnswer struct {
	Status string `json:"status"`
	TaskID string `json:"task_id"`
	RecordedItem
}

type batchItem struct {
	Index    int           `json:"index"`
	Status   string        `json:"status" enum:"recorded,refused"`
	TaskID   *string       `json:"task_id,omitzero"`
	Recorded *RecordedItem `json:"recorded,omitzero"`
	Error    *problem      `json:"error,omitzero"`
}

type batchAnswer struct {
	Status     string         `json:"status" enum:"recorded,partial,refused"`
	Count      int            `json:"count" doc:"taken, repetitions included"`
	TaskIDs    []string       `json:"task_ids"`
	Duplicates int            `json:"duplicates"`
	Refused    int            `json:"refused"`
	Receipts   []RecordedItem `json:"receipts,omitzero" doc:"in the order of the events, if atomic"`
	Results    []batchItem    `json:"results,omitzero" doc:"in the order of the events, if per item"`
}

type validateAnswer struct {
	Valid      bool          `json:"valid"`
	ID         *string       `json:"id,omitzero"`
	TaskID     *string       `json:"task_id,omitzero"`
	Agent      *string       `json:"agent,omitzero"`
	AgentID    *string       `json:"agent_id,omitzero"`
	Consumer   *string       `json:"consumer,omitzero"`
	ConsumerID *string       `json:"consumer_id,omitzero"`
	Error      *string       `json:"error,omitzero"`
	Code       *asap.Code    `json:"code,omitzero"`
	Errors     []problemItem `json:"errors,omitzero"`
}

type purgeAnswer struct {
	Status  string         `json:"status"`
	Removed int64          `json:"removed"`
	Before  *string        `json:"before,omitzero" doc:"records older than this are gone"`
	Receipt *receiptAnswer `json:"receipt,omitzero"`
}

// usageReport documents what metering.ParseReport reads.
type usageReport struct {
	ID         string       `json:"id,omitempty" doc:"the key that counts once; derived from the content if left out"`
	TaskID     string       `json:"task_id" minLength:"1" maxLength:"256"`
	Agent      string       `json:"agent,omitempty" doc:"or agent_id"`
	AgentID    string       `json:"agent_id,omitempty"`
	Consumer   string       `json:"consumer,omitempty" doc:"or consumer_id"`
	ConsumerID string       `json:"consumer_id,omitempty"`
	TokensIn   *int64       `json:"tokens_in,omitempty" minimum:"0" maximum:"1000000000000"`
	TokensOut  *int64       `json:"tokens_out,omitempty" minimum:"0" maximum:"1000000000000"`
	Tokens     *tokenDetail `json:"tokens,omitempty"`
	DurationMS int64        `json:"duration_ms,omitempty" minimum:"0" maximum:"1000000000000"`
	APICalls   *int64       `json:"api_calls,omitempty" minimum:"0" maximum:"1000000000000"`
	Timestamp  string       `json:"timestamp" format:"date-time" doc:"when the task ended; UTC if it has no zone"`
	Outcome    string       `json:"outcome,omitempty" enum:"completed,failed,cancelled,timeout,rejected"`
	Skill      string       `json:"skill,omitempty"`
	Model      string       `json:"model,omitempty"`
	ParentTask string       `json:"parent_task_id,omitempty"`
	TraceID    string       `json:"trace_id,omitempty"`
	Evidence   string       `json:"evidence,omitempty" enum:"estimated,self_reported,provider_reported"`
}

type batchReport struct {
	Events []usageReport `json:"events" minItems:"1" maxItems:"10000"`
}

type tokenDetail struct {
	InputUncached   *int64 `json:"input.uncached,omitempty"`
	InputCacheRead  *int64 `json:"input.cache_read,omitempty"`
	InputCacheWrite *int64 `json:"input.cache_write,omitempty"`
	OutputText      *int64 `json:"output.text,omitempty"`
	OutputReasoning *int64 `json:"output.reasoning,omitempty"`
}

type delegationRef struct {
	Issuer     string `json:"issuer"`
	RootID     string `json:"root_id"`
	RootIssuer string `json:"root_issuer"`
	TokenID    string `json:"token_id"`
}

// usageRecord documents metering.Record.AppendJSON.
type usageRecord struct {
	ID            string         `json:"id"`
	Kind          string         `json:"kind" enum:"usage,void,adjustment"`
	Ref           *string        `json:"ref"`
	TaskID        string         `json:"task_id"`
	Agent         string         `json:"agent"`
	AgentID       string         `json:"agent_id"`
	Consumer      string         `json:"consumer"`
	ConsumerID    string         `json:"consumer_id"`
	Verified      bool           `json:"consumer_verified"`
	TokensIn      *int64         `json:"tokens_in" doc:"null if not reported"`
	TokensOut     *int64         `json:"tokens_out" doc:"null if not reported"`
	Tokens        *tokenDetail   `json:"tokens"`
	DurationMS    *int64         `json:"duration_ms" doc:"null if not known"`
	APICalls      *int64         `json:"api_calls"`
	Timestamp     string         `json:"timestamp" format:"date-time"`
	Outcome       string         `json:"outcome"`
	Skill         *string        `json:"skill"`
	Model         *string        `json:"model"`
	Delegation    *delegationRef `json:"delegation"`
	ParentTask    *string        `json:"parent_task_id"`
	TraceID       *string        `json:"trace_id"`
	Evidence      string         `json:"evidence"`
	CostUSD       *string        `json:"cost_usd" doc:"decimal text"`
	CostStatus    string         `json:"cost_status" enum:"priced,unpriced"`
	PriceList     *string        `json:"price_list"`
	Overrun       bool           `json:"overrun"`
	Indeterminate bool           `json:"indeterminate"`
	Reason        *string        `json:"reason"`
	ReceivedAt    *string        `json:"received_at"`
	Sequence      int64          `json:"sequence"`
	Signature     string         `json:"signature,omitempty"`
	PublicKey     string         `json:"public_key,omitempty"`
}

type recordPage struct {
	Data  []usageRecord `json:"data"`
	Count int           `json:"count"`
	Next  *string       `json:"next_cursor"`
}

type taskRecords struct {
	TaskID string        `json:"task_id"`
	Data   []usageRecord `json:"data"`
	Count  int           `json:"count"`
}

type exportDocument struct {
	Data     []usageRecord `json:"data"`
	Count    int64         `json:"count"`
	SHA256   string        `json:"sha256" doc:"over each record's bytes and a line feed"`
	Complete bool          `json:"complete"`
}

// AuditRecord documents an entry's octets and its hash.
type AuditRecord struct {
	Actor        string         `json:"actor"`
	Details      map[string]any `json:"details"`
	EventType    string         `json:"event_type"`
	ID           string         `json:"id"`
	Parties      []string       `json:"parties,omitempty"`
	PreviousHash string         `json:"previous_hash"`
	RowHash      string         `json:"row_hash,omitempty"`
	Seq          int64          `json:"seq"`
	Subject      string         `json:"subject"`
	Timestamp    string         `json:"timestamp" format:"date-time"`
	Hash         string         `json:"hash" doc:"SHA-256 of the octets, which are the RFC 8785 form of the other members"`
}

type auditPage struct {
	Data     []AuditRecord `json:"data"`
	Count    int           `json:"count"`
	Next     *string       `json:"next_cursor"`
	AsOfSize int64         `json:"as_of_size" doc:"entries in the log when this was read"`
}

type auditEntryAnswer struct {
	AuditRecord
	Octets string `json:"octets" doc:"base64 of exactly what is hashed"`
	Proof  string `json:"proof,omitempty" doc:"with proof=1: C2SP tlog-proof under the newest checkpoint"`
}

// String names a route in tests and logs.
func (r route) String() string { return fmt.Sprintf("%s %s", r.method, r.path) }
