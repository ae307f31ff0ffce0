package metering

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// AppendCanonical appends the record as RFC 8785 JSON: the bytes that are stored
// and whose SHA-256 the audit log keeps. Members that are unset are left out.
// Sequence is not part of it: it is the place the bytes are stored at.
// [ParseRecord] is the inverse. The record must be valid ([Record.Validate]).
func (r *Record) AppendCanonical(dst []byte) []byte { return r.appendMembers(dst, whole) }

// Hash returns the SHA-256 of the canonical form.
func (r *Record) Hash() [32]byte { return sha256.Sum256(r.AppendCanonical(nil)) }

// ContentDigest returns the SHA-256 of what the sender said: everything but the
// price, the time of receipt, the signature and what the node found out about
// the caller. Two records with one id are the same if their digests are.
func (r *Record) ContentDigest() [32]byte { return sha256.Sum256(r.appendMembers(nil, content)) }

// Amount of a record that appendMembers writes.
type extent int

const (
	whole   extent = iota
	content        // what the sender said
	unnamed        // that without the id
)

// appendMembers writes members in the order of RFC 8785 (by name).
func (r *Record) appendMembers(dst []byte, what extent) []byte {
	dst = append(dst, `{"agent":`...)
	dst = appendText(dst, string(r.Agent))
	dst = memberCount(dst, "api_calls", r.APICalls)
	dst = append(dst, `,"consumer":`...)
	dst = appendText(dst, string(r.Consumer))
	if what == whole && r.CostNanoUSD != nil {
		dst = append(dst, `,"cost_usd":"`...)
		dst = r.CostNanoUSD.Append(dst)
		dst = append(dst, '"')
	}
	if d := r.Delegation; d != nil {
		dst = append(dst, `,"delegation":`...)
		dst = d.appendJSON(dst)
	}
	dst = memberCount(dst, "duration_ms", r.DurationMS)
	dst = memberText(dst, "evidence", string(r.Evidence))
	if what != unnamed {
		dst = memberText(dst, "id", r.ID)
	}
	if what == whole && r.Indeterminate {
		dst = append(dst, `,"indeterminate":true`...)
	}
	dst = memberText(dst, "kind", string(r.Kind))
	dst = memberText(dst, "model", r.Model)
	dst = memberText(dst, "outcome", string(r.Outcome))
	if what == whole && r.Overrun {
		dst = append(dst, `,"overrun":true`...)
	}
	dst = memberText(dst, "parent_task_id", string(r.ParentTask))
	if what == whole {
		dst = memberText(dst, "price_list", r.PriceList)
		dst = memberBase64(dst, "public_key", r.PublicKey)
	}
	dst = memberText(dst, "reason", r.Reason)
	if what == whole && !r.ReceivedAt.IsZero() {
		dst = append(dst, `,"received_at":`...)
		dst = appendTime(dst, r.ReceivedAt)
	}
	dst = memberText(dst, "ref", r.Ref)
	if what == whole {
		dst = memberBase64(dst, "signature", r.Signature)
	}
	dst = memberText(dst, "skill", r.Skill)
	dst = append(dst, `,"task_id":`...)
	dst = appendText(dst, string(r.TaskID))
	dst = append(dst, `,"timestamp":`...)
	dst = appendTime(dst, r.Timestamp)
	if !r.Tokens.empty() {
		dst = append(dst, `,"tokens":`...)
		dst = r.Tokens.appendJSON(dst)
	}
	dst = memberCount(dst, "tokens_in", r.TokensIn)
	dst = memberCount(dst, "tokens_out", r.TokensOut)
	dst = memberText(dst, "trace_id", r.TraceID)
	if what == whole && r.Verified {
		dst = append(dst, `,"verified":true`...)
	}
	return append(dst, '}')
}

// AppendJSON appends the record as the HTTP interface shows it: the mission's
// names and, where v1.3.0 spells them otherwise, both (economics.md 2.1). Every
// member is present, null where nothing is known, except the signature.
func (r *Record) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendText(dst, r.ID)
	dst = append(dst, `,"kind":`...)
	dst = appendText(dst, string(r.Kind))
	dst = nullableText(dst, "ref", r.Ref)
	dst = append(dst, `,"task_id":`...)
	dst = appendText(dst, string(r.TaskID))
	dst = append(dst, `,"agent":`...)
	dst = appendText(dst, string(r.Agent))
	dst = append(dst, `,"agent_id":`...)
	dst = appendText(dst, string(r.Agent))
	dst = append(dst, `,"consumer":`...)
	dst = appendText(dst, string(r.Consumer))
	dst = append(dst, `,"consumer_id":`...)
	dst = appendText(dst, string(r.Consumer))
	dst = append(dst, `,"consumer_verified":`...)
	dst = strconv.AppendBool(dst, r.Verified)
	dst = nullableCount(dst, "tokens_in", r.TokensIn)
	dst = nullableCount(dst, "tokens_out", r.TokensOut)
	dst = append(dst, `,"tokens":`...)
	if r.Tokens.empty() {
		dst = append(dst, "null"...)
	} else {
		dst = r.Tokens.appendJSON(dst)
	}
	dst = nullableCount(dst, "duration_ms", r.DurationMS)
	dst = nullableCount(dst, "api_calls", r.APICalls)
	dst = append(dst, `,"timestamp":`...)
	dst = appendTime(dst, r.Timestamp)
	dst = append(dst, `,"outcome":`...)
	dst = appendText(dst, string(r.Outcome))
	dst = nullableText(dst, "skill", r.Skill)
	dst = nullableText(dst, "model", r.Model)
	dst = append(dst, `,"delegation":`...)
	if r.Delegation == nil {
		dst = append(dst, "null"...)
	} else {
		dst = r.Delegation.appendJSON(dst)
	}
	dst = nullableText(dst, "parent_task_id", string(r.ParentTask))
	dst = nullableText(dst, "trace_id", r.TraceID)
	dst = append(dst, `,"evidence":`...)
	dst = appendText(dst, string(r.Evidence))
	dst = append(dst, `,"cost_usd":`...)
	if r.CostNanoUSD == nil {
		dst = append(dst, `null,"cost_status":"unpriced"`...)
	} else {
		dst = append(dst, '"')
		dst = r.CostNanoUSD.Append(dst)
		dst = append(dst, `","cost_status":"priced"`...)
	}
	dst = nullableText(dst, "price_list", r.PriceList)
	dst = append(dst, `,"overrun":`...)
	dst = strconv.AppendBool(dst, r.Overrun)
	dst = append(dst, `,"indeterminate":`...)
	dst = strconv.AppendBool(dst, r.Indeterminate)
	dst = nullableText(dst, "reason", r.Reason)
	dst = append(dst, `,"received_at":`...)
	if r.ReceivedAt.IsZero() {
		dst = append(dst, "null"...)
	} else {
		dst = appendTime(dst, r.ReceivedAt)
	}
	dst = append(dst, `,"sequence":`...)
	dst = strconv.AppendInt(dst, r.Sequence, 10)
	dst = memberBase64(dst, "signature", r.Signature)
	dst = memberBase64(dst, "public_key", r.PublicKey)
	return append(dst, '}')
}

// MarshalJSON returns the bytes of [Record.AppendJSON].
func (r *Record) MarshalJSON() ([]byte, error) { return r.AppendJSON(nil), nil }

func (d *Delegation) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"issuer":`...)
	dst = appendText(dst, string(d.Issuer))
	dst = append(dst, `,"root_id":`...)
	dst = appendText(dst, d.RootID)
	dst = append(dst, `,"root_issuer":`...)
	dst = appendText(dst, string(d.RootIssuer))
	dst = append(dst, `,"token_id":`...)
	dst = appendText(dst, d.TokenID)
	return append(dst, '}')
}

func (t *Tokens) empty() bool { return *t == Tokens{} }

// appendJSON writes the known buckets, ordered by name.
func (t *Tokens) appendJSON(dst []byte) []byte {
	start := len(dst)
	dst = memberCount(dst, "input.cache_read", t.InputCacheRead)
	dst = memberCount(dst, "input.cache_write", t.InputCacheWrite)
	dst = memberCount(dst, "input.uncached", t.InputUncached)
	dst = memberCount(dst, "output.reasoning", t.OutputReasoning)
	dst = memberCount(dst, "output.text", t.OutputText)
	if len(dst) == start {
		return append(dst, "{}"...)
	}
	dst[start] = '{' // in place of the first comma
	return append(dst, '}')
}

// appendText writes s as RFC 8785 does. Records hold valid UTF-8 only.
func appendText(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s) // the error is invalid UTF-8, replaced
	return dst
}

func memberText(dst []byte, name, s string) []byte {
	if s == "" {
		return dst
	}
	return appendText(appendName(dst, name), s)
}

func nullableText(dst []byte, name, s string) []byte {
	dst = appendName(dst, name)
	if s == "" {
		return append(dst, "null"...)
	}
	return appendText(dst, s)
}

func memberCount(dst []byte, name string, n Count) []byte {
	if n == nil {
		return dst
	}
	return strconv.AppendInt(appendName(dst, name), *n, 10)
}

func nullableCount(dst []byte, name string, n Count) []byte {
	dst = appendName(dst, name)
	if n == nil {
		return append(dst, "null"...)
	}
	return strconv.AppendInt(dst, *n, 10)
}

func memberBase64(dst []byte, name string, b []byte) []byte {
	if len(b) == 0 {
		return dst
	}
	dst = append(appendName(dst, name), '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

func appendName(dst []byte, name string) []byte {
	dst = append(dst, ',', '"')
	dst = append(dst, name...)
	return append(dst, '"', ':')
}

// appendTime writes a UTC instant as v1.3.0 does: no fraction, or six digits.
func appendTime(dst []byte, t time.Time) []byte {
	dst = append(dst, '"')
	dst = appendInstant(dst, t)
	return append(dst, 'Z', '"')
}

func appendInstant(dst []byte, t time.Time) []byte {
	t = t.UTC()
	if t.Nanosecond()/1000 == 0 {
		return t.AppendFormat(dst, "2006-01-02T15:04:05")
	}
	return t.AppendFormat(dst, "2006-01-02T15:04:05.000000")
}
