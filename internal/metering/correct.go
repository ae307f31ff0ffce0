package metering

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Correction asks for a record to be taken back or changed. Records are never
// edited: the answer is a new record that adds up with the old one.
type Correction struct {
	ID     string // of the new record
	Kind   Kind   // Void or Adjustment
	Ref    string // the record to correct
	Reason string
	// The changes of an Adjustment; nil changes nothing.
	TokensIn, TokensOut, APICalls, DurationMS Count
	CostNanoUSD                               *NanoUSD
}

// Correct returns the record that applies c to the record original: a Void
// carries its negated quantities, an Adjustment the changes. Both keep the
// original's task, parties, skill, outcome, delegation and Timestamp, so that
// every grouping sees them side by side. A void of a void is refused; voids and
// adjustments of an adjustment are not: they correct that adjustment alone. The
// ledger sees to it that a record is voided once (ErrAlreadyVoided).
func Correct(original *Record, c Correction, now time.Time) (Record, error) {
	if c.Ref != original.ID {
		return Record{}, refuse(CodeInvalid, "ref", "value_error", "is not the record at hand")
	}
	if original.Kind == Void {
		return Record{}, refuse(CodeInvalid, "ref", "value_error", "a void cannot be corrected")
	}
	r := *original
	r.ID, r.Kind, r.Ref, r.Reason = c.ID, c.Kind, c.Ref, c.Reason
	r.Tokens, r.Signature, r.PublicKey = Tokens{}, nil, nil
	r.Evidence, r.Overrun, r.Indeterminate = Observed, false, false
	r.ReceivedAt, r.Sequence = now.UTC().Truncate(time.Microsecond), 0
	switch c.Kind {
	case Void:
		r.TokensIn, r.TokensOut, r.APICalls = negated(original.TokensIn), negated(original.TokensOut), negated(original.APICalls)
		r.DurationMS = negated(original.DurationMS)
		t := &original.Tokens
		r.Tokens = Tokens{
			negated(t.InputUncached), negated(t.InputCacheRead), negated(t.InputCacheWrite),
			negated(t.OutputText), negated(t.OutputReasoning),
		}
		if original.CostNanoUSD != nil {
			cost := -*original.CostNanoUSD
			r.CostNanoUSD = &cost
		}
		if original.Kind == Adjustment { // it counted no task
			r.Kind = Adjustment
		}
	case Adjustment:
		r.TokensIn, r.TokensOut, r.APICalls = c.TokensIn, c.TokensOut, c.APICalls
		r.DurationMS, r.CostNanoUSD = c.DurationMS, c.CostNanoUSD
		if c.CostNanoUSD == nil {
			r.PriceList = ""
		}
	default:
		return Record{}, refuse(CodeInvalid, "kind", "enum", "must be void or adjustment")
	}
	return r, r.Validate()
}

func negated(n Count) Count {
	if n == nil {
		return nil
	}
	m := -*n
	return &m
}

// ParseCorrection reads a request to correct a record: {"kind": "void" or
// "adjustment", "ref", "reason", "id", and for an adjustment the changes
// tokens_in, tokens_out, api_calls, duration_ms (whole numbers, signed) and
// cost_usd (decimal text, signed)}. ok is false if v is a report and not a
// correction. The error is an *Error with CodeInvalid.
func ParseCorrection(v jsontext.Value) (c Correction, ok bool, err error) {
	members, order, err := readObject(v)
	if err != nil {
		return Correction{}, false, nil // ParseReport says what is wrong
	}
	in := reportReader{members: members, used: map[string]bool{}}
	c.Kind = Kind(in.text("kind", false))
	if c.Kind != Void && c.Kind != Adjustment {
		return Correction{}, false, nil
	}
	c.ID, c.Ref, c.Reason = in.text("id", false), in.text("ref", true), in.text("reason", true)
	if c.Kind == Adjustment {
		c.TokensIn, c.TokensOut = in.change("tokens_in"), in.change("tokens_out")
		c.APICalls, c.DurationMS = in.change("api_calls"), in.change("duration_ms")
		if text := in.text("cost_usd", false); text != "" {
			cost, err := ParseUSD(text)
			if err != nil {
				in.add("cost_usd", "value_error", "%s", err)
			}
			c.CostNanoUSD = &cost
		}
	}
	for _, name := range order {
		if !in.used[name] {
			in.add(name, "extra_forbidden", "is not a member of a correction")
		}
	}
	if len(in.issues) > 0 {
		return Correction{}, true, &Error{Code: CodeInvalid, Issues: in.issues}
	}
	return c, true, nil
}

// change reads a quantity that may be negative.
func (in *reportReader) change(name string) Count {
	in.used[name] = true
	v := in.members[name]
	if v == nil {
		return nil
	}
	n, kind, message := laxInt(v)
	switch {
	case kind != "":
		in.add(name, kind, "%s", message)
	case n > MaxQuantity || n < -MaxQuantity:
		in.add(name, "less_than_equal", "must be between -%d and %d", MaxQuantity, MaxQuantity)
	}
	return &n
}
