package agent

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// providerAnswer is what a model provider has said about one call so far. In a
// stream later events complete or replace earlier ones: OpenAI sends all counts
// in the last chunk, Anthropic the input at the start and the output, growing,
// with each delta.
type providerAnswer struct {
	model  string
	counts providerCounts
}

// providerCounts are the members of `usage` of the OpenAI chat and responses
// APIs and of the Anthropic messages API.
type providerCounts struct {
	PromptTokens     *int64 `json:"prompt_tokens"`
	CompletionTokens *int64 `json:"completion_tokens"`
	InputTokens      *int64 `json:"input_tokens"`
	OutputTokens     *int64 `json:"output_tokens"`
	CacheRead        *int64 `json:"cache_read_input_tokens"`
	CacheWrite       *int64 `json:"cache_creation_input_tokens"`

	PromptDetails     *inputDetails  `json:"prompt_tokens_details"`
	InputDetails      *inputDetails  `json:"input_tokens_details"`
	CompletionDetails *outputDetails `json:"completion_tokens_details"`
	OutputDetails     *outputDetails `json:"output_tokens_details"`
}

type inputDetails struct {
	Cached *int64 `json:"cached_tokens"`
}

type outputDetails struct {
	Reasoning *int64 `json:"reasoning_tokens"`
}

// merge takes in one JSON answer or the data of one event. What it does not
// understand it leaves alone: a provider's answer is never an error here.
func (a *providerAnswer) merge(text []byte) {
	for _, inner := range a.mergeLevel(text) {
		if inner.Kind() == '{' {
			a.mergeLevel(inner)
		}
	}
}

// mergeLevel takes in one object and returns the members that may hold another.
func (a *providerAnswer) mergeLevel(text []byte) []jsontext.Value {
	var outer struct {
		Model    jsontext.Value `json:"model"`
		Usage    jsontext.Value `json:"usage"`
		Message  jsontext.Value `json:"message"`  // Anthropic message_start
		Response jsontext.Value `json:"response"` // OpenAI response.completed
	}
	lenient := json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if json.Unmarshal(text, &outer, lenient) != nil {
		return nil
	}
	var model string
	if len(outer.Model) > 0 && json.Unmarshal(outer.Model, &model, lenient) == nil && model != "" {
		a.model = model
	}
	if outer.Usage.Kind() == '{' {
		// Unmarshal keeps what a later event does not name.
		next := a.counts
		if json.Unmarshal(outer.Usage, &next, lenient) == nil {
			a.counts = next
		}
	}
	return []jsontext.Value{outer.Message, outer.Response}
}

// quantities sorts the counts into disjoint buckets. OpenAI counts cached input
// in its input and reasoning in its output; Anthropic counts cached input apart.
func (a *providerAnswer) quantities() (Quantities, bool) {
	c := a.counts
	q := Quantities{Model: a.model, Evidence: ProviderReported}
	in, details := c.PromptTokens, c.PromptDetails
	if in == nil {
		in, details = c.InputTokens, c.InputDetails
	}
	switch {
	case in == nil:
	case details != nil && details.Cached != nil:
		q.Tokens.InputCacheRead = sum(details.Cached)
		q.Tokens.InputUncached = less(in, details.Cached)
	default:
		q.Tokens.InputUncached = sum(in)
		q.Tokens.InputCacheRead = sum(c.CacheRead)
		q.Tokens.InputCacheWrite = sum(c.CacheWrite)
	}
	out, reasoning := c.CompletionTokens, c.CompletionDetails
	if out == nil {
		out, reasoning = c.OutputTokens, c.OutputDetails
	}
	switch {
	case out == nil:
	case reasoning != nil && reasoning.Reasoning != nil:
		q.Tokens.OutputReasoning = sum(reasoning.Reasoning)
		q.Tokens.OutputText = less(out, reasoning.Reasoning)
	default:
		q.Tokens.OutputText = sum(out)
	}
	q.TokensIn = sum(q.Tokens.InputUncached, q.Tokens.InputCacheRead, q.Tokens.InputCacheWrite)
	q.TokensOut = sum(q.Tokens.OutputText, q.Tokens.OutputReasoning)
	return q, q.TokensIn != nil || q.TokensOut != nil
}

// less returns whole - part, at least 0.
func less(whole, part *int64) *int64 {
	rest := max(0, *whole-max(0, *part))
	return &rest
}
