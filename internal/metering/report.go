package metering

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/canonicaljson"
)

// Bounds limit how far the time of a report may be from now.
type Bounds struct {
	MaxAhead time.Duration // a later time is refused with CodeInFuture
	MaxLate  time.Duration // an older one with CodeTooLate
}

// DefaultBounds returns five minutes ahead and 35 days late.
func DefaultBounds() Bounds {
	return Bounds{MaxAhead: 5 * time.Minute, MaxLate: 35 * 24 * time.Hour}
}

// ParseReport reads a usage report, the body of POST /usage, under
// DefaultBounds. See [Bounds.ParseReport].
func ParseReport(v jsontext.Value, now time.Time) (Record, error) {
	return DefaultBounds().ParseReport(v, now)
}

// ParseReport reads a usage report: the members of v1.3.0's UsageMetrics
// (economics.md 2.1) with its lax number forms, the mission's spellings "agent"
// and "consumer", and optionally id, outcome, skill, model, tokens, evidence,
// parent_task_id, trace_id. Unknown and duplicate members are refused. A time
// without zone is UTC. A quantity that is left out stays unknown. Without an id
// one is derived from the content, so the same report always has the same id.
//
// The result is valid; price, receipt time and sequence are unset. The error is
// an *Error with CodeInvalid, CodeInFuture or CodeTooLate.
func (b Bounds) ParseReport(v jsontext.Value, now time.Time) (Record, error) {
	members, order, err := readObject(v)
	if err != nil {
		return Record{}, err
	}
	in := reportReader{members: members, used: make(map[string]bool, len(members))}
	r := Record{
		Kind: Usage, Outcome: Completed, Evidence: SelfReported,
		TaskID:     asap.TaskID(in.text("task_id", true)),
		Agent:      asap.AgentURN(in.spelledTwice("agent", "agent_id")),
		Consumer:   asap.AgentURN(in.spelledTwice("consumer", "consumer_id")),
		TokensIn:   in.count(in.members, "", "tokens_in"),
		TokensOut:  in.count(in.members, "", "tokens_out"),
		DurationMS: in.count(in.members, "", "duration_ms"),
		APICalls:   in.count(in.members, "", "api_calls"),
		Timestamp:  in.instant("timestamp"),
		ID:         in.text("id", false),
		Skill:      in.text("skill", false),
		Model:      in.text("model", false),
		ParentTask: asap.TaskID(in.text("parent_task_id", false)),
		TraceID:    in.text("trace_id", false),
	}
	if s := in.text("outcome", false); s != "" {
		r.Outcome = Outcome(s)
	}
	if s := in.text("evidence", false); s != "" {
		r.Evidence = Evidence(s)
	}
	if r.Evidence == Observed {
		in.add("evidence", "enum", "only a node can say observed")
	}
	if s := in.text("kind", false); s != "" && s != string(Usage) {
		in.add("kind", "enum", "a report is of kind usage; corrections are made by the operator")
	}
	in.tokens(&r)
	for _, name := range order {
		if !in.used[name] {
			in.add(name, "extra_forbidden", "is not a member of a usage report")
		}
	}
	if len(in.issues) == 0 {
		if r.ID == "" {
			r.ID = r.derivedID()
		}
		in.record(&r)
	}
	if len(in.issues) > 0 {
		return Record{}, &Error{Code: CodeInvalid, Issues: in.issues}
	}
	if err := b.check(r.Timestamp, now); err != nil {
		return Record{}, err
	}
	return r, nil
}

func (b Bounds) check(t, now time.Time) error {
	if t.After(now.Add(b.MaxAhead)) {
		return refuse(CodeInFuture, "timestamp", "value_error", "is more than %s ahead of the node's clock", b.MaxAhead)
	}
	if t.Before(now.Add(-b.MaxLate)) {
		return refuse(CodeTooLate, "timestamp", "value_error", "is more than %d days ago", int(b.MaxLate.Hours()/24))
	}
	return nil
}

// derivedID names a report by its content.
func (r *Record) derivedID() string {
	sum := sha256.Sum256(r.appendMembers(nil, unnamed))
	return "rpt_" + hex.EncodeToString(sum[:20])
}

// HasDerivedID tells whether the id of a report was made of its content, because
// its sender gave none.
func (r *Record) HasDerivedID() bool { return r.ID == r.derivedID() }

// IDFromKey returns the id of a report that came without one but with an
// Idempotency-Key. Keys of different senders do not meet.
func IDFromKey(sender, key string) string {
	h := sha256.New()
	h.Write(appendText(appendText(nil, sender), key))
	return "key_" + hex.EncodeToString(h.Sum(nil)[:20])
}

// OpenReport takes a signed report {usage, signature, public_key} apart after
// checking the Ed25519 signature over the RFC 8785 form of usage. signed is
// false, and usage is v itself, if v is not such an object. Whether the key is
// that of the reporting agent is the caller's to check. The error is an *Error
// with CodeSignature.
func OpenReport(v jsontext.Value) (usage jsontext.Value, signature, publicKey []byte, signed bool, err error) {
	members, _, err := readObject(v)
	if err != nil || members["usage"] == nil {
		return v, nil, nil, false, nil // ParseReport says what is wrong
	}
	bad := func(field, message string) error { return refuse(CodeSignature, field, "value_error", "%s", message) }
	if len(members) != 3 || members["signature"] == nil || members["public_key"] == nil {
		return nil, nil, nil, true, bad("", "a signed report has exactly the members usage, signature and public_key")
	}
	publicKey, err = unquoteBase64(members["public_key"])
	if err != nil || len(publicKey) != ed25519.PublicKeySize {
		return nil, nil, nil, true, bad("public_key", "must be the base64 of 32 bytes")
	}
	signature, err = unquoteBase64(members["signature"])
	if err != nil || len(signature) != ed25519.SignatureSize {
		return nil, nil, nil, true, bad("signature", "must be the base64 of 64 bytes")
	}
	message, err := canonicaljson.Canonical(members["usage"], canonicaljson.Options{})
	if err != nil {
		return nil, nil, nil, true, bad("usage", "has no canonical form: "+err.Error())
	}
	if !ed25519.Verify(publicKey, message, signature) {
		return nil, nil, nil, true, bad("signature", "does not verify")
	}
	return members["usage"], signature, publicKey, true, nil
}

func unquoteBase64(v jsontext.Value) ([]byte, error) {
	s, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.Strict().DecodeString(string(s))
}

// readObject reads one JSON object whose members are kept as text.
func readObject(v jsontext.Value) (members map[string]jsontext.Value, order []string, err error) {
	if v.Kind() != '{' {
		return nil, nil, refuse(CodeInvalid, "", "model_type", "must be a JSON object")
	}
	d := jsontext.NewDecoder(bytes.NewReader(v))
	malformed := func(err error) error {
		return refuse(CodeInvalid, "", "json_invalid", "is not valid JSON: %v", err)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, nil, malformed(err)
	}
	members = map[string]jsontext.Value{}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, nil, malformed(err)
		}
		key := name.String()
		value, err := d.ReadValue()
		if err != nil {
			return nil, nil, malformed(err)
		}
		members[key] = bytes.Clone(value)
		order = append(order, key)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, nil, malformed(err)
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, nil, refuse(CodeInvalid, "", "json_invalid", "has data after the object")
	}
	return members, order, nil
}

// reportReader reads members one by one and gathers what is wrong with them.
type reportReader struct {
	validation
	members map[string]jsontext.Value
	used    map[string]bool
}

func (in *reportReader) text(name string, required bool) string {
	in.used[name] = true
	v := in.members[name]
	switch {
	case v == nil && required:
		in.add(name, "missing", "is required")
	case v == nil, !required && v.Kind() == 'n':
	case v.Kind() != '"':
		in.add(name, "string_type", "must be a string")
	default:
		s, err := jsontext.AppendUnquote(nil, v)
		if err != nil {
			in.add(name, "string_unicode", "must be valid UTF-8")
		}
		return string(s)
	}
	return ""
}

// spelledTwice reads a member that has two names; both may stand, if they agree.
func (in *reportReader) spelledTwice(ours, theirs string) string {
	if in.members[ours] == nil {
		return in.text(theirs, true)
	}
	a := in.text(ours, true)
	if in.members[theirs] == nil {
		return a
	}
	if b := in.text(theirs, true); a != b {
		in.add(theirs, "value_error", "differs from %s", ours)
	}
	return a
}

func (in *reportReader) count(from map[string]jsontext.Value, path, name string) Count {
	if path == "" {
		in.used[name] = true
	}
	v := from[name]
	if v == nil {
		return nil
	}
	n, kind, message := laxInt(v)
	switch {
	case kind != "":
		in.add(path+name, kind, "%s", message)
	case n < 0:
		in.add(path+name, "greater_than_equal", "must be greater than or equal to 0")
	case n > MaxQuantity:
		in.add(path+name, "less_than_equal", "must be at most %d", MaxQuantity)
	default:
		return &n
	}
	return nil
}

func (in *reportReader) instant(name string) time.Time {
	in.used[name] = true
	v := in.members[name]
	if v == nil {
		in.add(name, "missing", "is required")
		return time.Time{}
	}
	t, ok := laxTime(v)
	if !ok || t.IsZero() {
		in.add(name, "datetime_parsing", "must be a date and time such as 2026-02-20T12:00:00Z")
	}
	return t
}

// tokens reads the buckets; a total that was left out is their sum.
func (in *reportReader) tokens(r *Record) {
	in.used["tokens"] = true
	v := in.members["tokens"]
	if v == nil || v.Kind() == 'n' {
		return
	}
	buckets, order, err := readObject(v)
	if err != nil {
		in.add("tokens", "dict_type", "must be an object of token buckets")
		return
	}
	fields := map[string]*Count{
		"input.uncached": &r.Tokens.InputUncached, "input.cache_read": &r.Tokens.InputCacheRead,
		"input.cache_write": &r.Tokens.InputCacheWrite, "output.text": &r.Tokens.OutputText,
		"output.reasoning": &r.Tokens.OutputReasoning,
	}
	for _, name := range order {
		if fields[name] == nil {
			in.add("tokens."+name, "extra_forbidden", "is not a token bucket")
			continue
		}
		*fields[name] = in.count(buckets, "tokens.", name)
	}
	if in.members["tokens_in"] == nil {
		r.TokensIn = total(r.Tokens.InputUncached, r.Tokens.InputCacheRead, r.Tokens.InputCacheWrite)
	}
	if in.members["tokens_out"] == nil {
		r.TokensOut = total(r.Tokens.OutputText, r.Tokens.OutputReasoning)
	}
}

// total adds up the known buckets; nil if none is known.
func total(buckets ...Count) Count {
	var sum int64
	known := false
	for _, b := range buckets {
		if b != nil {
			known, sum = true, sum+*b
		}
	}
	if !known {
		return nil
	}
	return &sum
}

func deref(n Count) int64 {
	if n == nil {
		return 0
	}
	return *n
}
