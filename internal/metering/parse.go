package metering

import (
	"bytes"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
)

const (
	// MaxQuantity is the most one record may report of tokens, calls or
	// milliseconds: 10^12. It keeps every number safe in JSON and leaves room to
	// add up nine million such records.
	MaxQuantity = 1_000_000_000_000
	// MaxText is the longest name in a record, in code points.
	MaxText = 256
)

// wireRecord mirrors the canonical members, for reading only.
type wireRecord struct {
	Agent         string          `json:"agent"`
	APICalls      Count           `json:"api_calls"`
	Consumer      string          `json:"consumer"`
	CostUSD       *string         `json:"cost_usd"`
	Delegation    *wireDelegation `json:"delegation"`
	DurationMS    Count           `json:"duration_ms"`
	Evidence      Evidence        `json:"evidence"`
	ID            string          `json:"id"`
	Indeterminate bool            `json:"indeterminate"`
	Kind          Kind            `json:"kind"`
	Model         string          `json:"model"`
	Outcome       Outcome         `json:"outcome"`
	Overrun       bool            `json:"overrun"`
	ParentTask    string          `json:"parent_task_id"`
	PriceList     string          `json:"price_list"`
	PublicKey     []byte          `json:"public_key"`
	Reason        string          `json:"reason"`
	ReceivedAt    string          `json:"received_at"`
	Ref           string          `json:"ref"`
	Signature     []byte          `json:"signature"`
	Skill         string          `json:"skill"`
	TaskID        string          `json:"task_id"`
	Timestamp     string          `json:"timestamp"`
	Tokens        wireTokens      `json:"tokens"`
	TokensIn      Count           `json:"tokens_in"`
	TokensOut     Count           `json:"tokens_out"`
	TraceID       string          `json:"trace_id"`
	Verified      bool            `json:"verified"`
}

type wireDelegation struct {
	Issuer     asap.AgentURN `json:"issuer"`
	RootID     string        `json:"root_id"`
	RootIssuer asap.AgentURN `json:"root_issuer"`
	TokenID    string        `json:"token_id"`
}

type wireTokens struct {
	InputCacheRead  Count `json:"input.cache_read"`
	InputCacheWrite Count `json:"input.cache_write"`
	InputUncached   Count `json:"input.uncached"`
	OutputReasoning Count `json:"output.reasoning"`
	OutputText      Count `json:"output.text"`
}

// ParseRecord reads the bytes of [Record.AppendCanonical] back. Anything else,
// also other JSON with the same meaning, is refused: stored bytes that were
// touched do not come back as a record. Sequence is 0.
func ParseRecord(canonical []byte) (Record, error) {
	var w wireRecord
	if err := json.Unmarshal(canonical, &w, json.RejectUnknownMembers(true)); err != nil {
		return Record{}, fmt.Errorf("read usage record: %w", err)
	}
	r := Record{
		ID: w.ID, Kind: w.Kind, Ref: w.Ref, Reason: w.Reason, TaskID: asap.TaskID(w.TaskID),
		Agent: asap.AgentURN(w.Agent), Consumer: asap.AgentURN(w.Consumer), Verified: w.Verified,
		Skill: w.Skill, Outcome: w.Outcome, TokensIn: w.TokensIn, TokensOut: w.TokensOut,
		APICalls: w.APICalls, DurationMS: w.DurationMS, Tokens: w.Tokens.buckets(), Model: w.Model,
		ParentTask: asap.TaskID(w.ParentTask), TraceID: w.TraceID, Evidence: w.Evidence,
		PriceList: w.PriceList, Overrun: w.Overrun, Indeterminate: w.Indeterminate,
		Signature: w.Signature, PublicKey: w.PublicKey,
	}
	if w.CostUSD != nil {
		cost, err := ParseUSD(*w.CostUSD)
		if err != nil {
			return Record{}, fmt.Errorf("read usage record: cost_usd: %w", err)
		}
		r.CostNanoUSD = &cost
	}
	if d := w.Delegation; d != nil {
		r.Delegation = &Delegation{Issuer: d.Issuer, TokenID: d.TokenID, RootIssuer: d.RootIssuer, RootID: d.RootID}
	}
	var err error
	if r.Timestamp, err = time.Parse(time.RFC3339Nano, w.Timestamp); err != nil {
		return Record{}, fmt.Errorf("read usage record: timestamp: %w", err)
	}
	if w.ReceivedAt != "" {
		if r.ReceivedAt, err = time.Parse(time.RFC3339Nano, w.ReceivedAt); err != nil {
			return Record{}, fmt.Errorf("read usage record: received_at: %w", err)
		}
	}
	if err := r.Validate(); err != nil {
		return Record{}, fmt.Errorf("read usage record: %w", err)
	}
	if !bytes.Equal(r.AppendCanonical(make([]byte, 0, len(canonical))), canonical) {
		return Record{}, fmt.Errorf("read usage record %.80q: not in canonical form", r.ID)
	}
	return r, nil
}

func (w wireTokens) buckets() Tokens {
	return Tokens{
		InputUncached: w.InputUncached, InputCacheRead: w.InputCacheRead, InputCacheWrite: w.InputCacheWrite,
		OutputText: w.OutputText, OutputReasoning: w.OutputReasoning,
	}
}

// Validate reports whether the record may be stored: known kind, outcome and
// evidence; id and task present; agent and consumer URNs; texts of valid UTF-8
// within MaxText; quantities within MaxQuantity and negative in corrections only;
// buckets that add up; times in UTC with microsecond precision. The error is an
// *Error with CodeInvalid.
func (r *Record) Validate() error {
	v := validation{}
	v.record(r)
	if len(v.issues) == 0 {
		return nil
	}
	return &Error{Code: CodeInvalid, Issues: v.issues}
}

type validation struct{ issues []Issue }

func (v *validation) add(field, kind, format string, args ...any) {
	v.issues = append(v.issues, Issue{Field: field, Type: kind, Message: fmt.Sprintf(format, args...)})
}

func (v *validation) record(r *Record) {
	switch r.Kind {
	case Usage:
		if r.Ref != "" {
			v.add("ref", "value_error", "only a correction refers to another record")
		}
	case Void, Adjustment:
		if r.Ref == "" {
			v.add("ref", "missing", "a correction must name the record it corrects")
		}
	default:
		v.add("kind", "enum", "must be usage, void or adjustment")
	}
	switch r.Outcome {
	case Completed, Failed, Cancelled, TimedOut, Rejected:
	default:
		v.add("outcome", "enum", "must be completed, failed, cancelled, timeout or rejected")
	}
	switch r.Evidence {
	case Estimated, SelfReported, Observed, ProviderReported:
	default:
		v.add("evidence", "enum", "must be estimated, self_reported, observed or provider_reported")
	}
	v.required("id", r.ID)
	v.required("task_id", string(r.TaskID))
	v.party("agent_id", r.Agent)
	v.party("consumer_id", r.Consumer)
	v.text("ref", r.Ref)
	v.text("skill", r.Skill)
	v.text("model", r.Model)
	v.text("parent_task_id", string(r.ParentTask))
	v.text("trace_id", r.TraceID)
	v.text("price_list", r.PriceList)
	v.text("reason", r.Reason)
	if d := r.Delegation; d != nil {
		v.required("delegation.issuer", string(d.Issuer))
		v.required("delegation.token_id", d.TokenID)
		v.text("delegation.root_issuer", string(d.RootIssuer))
		v.text("delegation.root_id", d.RootID)
	}
	v.quantities(r)
	v.instant("timestamp", r.Timestamp)
	if !r.ReceivedAt.IsZero() {
		v.instant("received_at", r.ReceivedAt)
	}
}

func (v *validation) quantities(r *Record) {
	least := int64(0)
	if r.Kind != Usage {
		least = -MaxQuantity
	}
	v.count("tokens_in", r.TokensIn, least)
	v.count("tokens_out", r.TokensOut, least)
	v.count("duration_ms", r.DurationMS, least)
	v.count("api_calls", r.APICalls, least)
	t := &r.Tokens
	v.count("tokens.input.uncached", t.InputUncached, least)
	v.count("tokens.input.cache_read", t.InputCacheRead, least)
	v.count("tokens.input.cache_write", t.InputCacheWrite, least)
	v.count("tokens.output.text", t.OutputText, least)
	v.count("tokens.output.reasoning", t.OutputReasoning, least)
	v.sum("tokens_in", r.TokensIn, t.InputUncached, t.InputCacheRead, t.InputCacheWrite)
	v.sum("tokens_out", r.TokensOut, t.OutputText, t.OutputReasoning)
	if c := r.CostNanoUSD; c != nil && (*c > MaxCost || *c < -MaxCost || least == 0 && *c < 0) {
		v.add("cost_usd", "value_error", "must be between 0 and %s", MaxCost)
	}
}

func (v *validation) count(field string, n Count, least int64) {
	if n == nil {
		return
	}
	if *n < least {
		v.add(field, "greater_than_equal", "must be greater than or equal to %d", least)
	}
	if *n > MaxQuantity {
		v.add(field, "less_than_equal", "must be at most %d", MaxQuantity)
	}
}

// sum checks that the buckets that are known make up the total.
func (v *validation) sum(field string, total Count, buckets ...Count) {
	known, sum := false, int64(0)
	for _, b := range buckets {
		if b != nil && *b >= -MaxQuantity && *b <= MaxQuantity {
			known, sum = true, sum+*b
		}
	}
	if known && (total == nil || *total != sum) {
		v.add(field, "value_error", "must be the sum of its buckets, which is %d", sum)
	}
}

func (v *validation) required(field, s string) {
	if s == "" {
		v.add(field, "string_too_short", "must not be empty")
		return
	}
	v.text(field, s)
}

// party checks a URN: entries of the audit log can name nothing else.
func (v *validation) party(field string, u asap.AgentURN) {
	if u == "" {
		v.add(field, "string_too_short", "must not be empty")
	} else if _, err := asap.ParseAgentURN(string(u)); err != nil {
		v.add(field, "string_pattern_mismatch", "%s", err)
	}
}

func (v *validation) text(field, s string) {
	switch {
	case !utf8.ValidString(s):
		v.add(field, "string_unicode", "must be valid UTF-8")
	case len(s) > MaxText && utf8.RuneCountInString(s) > MaxText:
		v.add(field, "string_too_long", "must have at most %d characters", MaxText)
	}
}

func (v *validation) instant(field string, t time.Time) {
	switch _, offset := t.Zone(); {
	case t.IsZero():
		v.add(field, "missing", "is required")
	case offset != 0, t.Nanosecond()%1000 != 0:
		v.add(field, "value_error", "must be in UTC with microsecond precision")
	case t.Year() < 1 || t.Year() > 9999:
		v.add(field, "value_error", "must be within the years 1 to 9999")
	}
}
