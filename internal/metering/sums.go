package metering

import (
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Sums are totals of records. Unknown quantities add nothing and are counted in
// Unreported, unpriced tasks in Unpriced. The zero Sums is that of no records.
type Sums struct {
	Tasks       int64 // usage records less voided ones
	TokensIn    int64
	TokensOut   int64
	APICalls    int64
	DurationMS  int64
	CostNanoUSD NanoUSD
	Unpriced    int64 // tasks without a price
	Unreported  int64 // tasks whose tokens_in or tokens_out is unknown
}

// SumsOf returns what one record contributes: a usage record counts one task, a
// void takes one away (it carries the negated quantities), an adjustment counts
// none.
func SumsOf(r *Record) Sums {
	s := Sums{
		TokensIn: deref(r.TokensIn), TokensOut: deref(r.TokensOut),
		APICalls: deref(r.APICalls), DurationMS: deref(r.DurationMS),
	}
	switch r.Kind {
	case Usage:
		s.Tasks = 1
	case Void:
		s.Tasks = -1
	}
	if r.CostNanoUSD != nil {
		s.CostNanoUSD = *r.CostNanoUSD
	} else {
		s.Unpriced = s.Tasks
	}
	if r.TokensIn == nil || r.TokensOut == nil {
		s.Unreported = s.Tasks
	}
	return s
}

// Add adds one record, or returns ErrOverflow and leaves s as it was.
func (s *Sums) Add(r *Record) error { return s.Merge(SumsOf(r)) }

// Merge adds other totals, or returns ErrOverflow and leaves s as it was.
// Merging is commutative and associative.
func (s *Sums) Merge(o Sums) error {
	t := *s
	to := t.fields()
	for i, n := range o.fields() {
		sum, err := addInt64(*to[i], *n)
		if err != nil {
			return err
		}
		*to[i] = sum
	}
	*s = t
	return nil
}

func (s *Sums) fields() [8]*int64 {
	return [8]*int64{
		&s.Tasks, &s.TokensIn, &s.TokensOut, &s.APICalls, &s.DurationMS,
		(*int64)(&s.CostNanoUSD), &s.Unpriced, &s.Unreported,
	}
}

// Tokens returns TokensIn + TokensOut, or ErrOverflow.
func (s Sums) Tokens() (int64, error) { return addInt64(s.TokensIn, s.TokensOut) }

// IsZero tells whether nothing is left: no records, or only voided ones.
func (s Sums) IsZero() bool { return s == Sums{} }

// RollupKey is the key of an hourly rollup. A total is a sum of rollups, except
// where a range or a calendar period cuts an hour: there it is one of records.
type RollupKey struct {
	HourUS   int64 // begin of the UTC hour, microseconds since 1970
	Agent    asap.AgentURN
	Consumer asap.AgentURN
	Outcome  Outcome
	Skill    string
}

// RollupKey returns the key of the rollup the record counts in.
func (r *Record) RollupKey() RollupKey {
	return RollupKey{
		HourUS: HourUS(r.Timestamp), Agent: r.Agent, Consumer: r.Consumer,
		Outcome: r.Outcome, Skill: r.Skill,
	}
}

// HourUS returns the begin of the UTC hour of t in microseconds since 1970.
func HourUS(t time.Time) int64 {
	const hour = int64(time.Hour / time.Microsecond)
	us := t.UnixMicro()
	rest := us % hour
	if rest < 0 {
		rest += hour
	}
	return us - rest
}

// RollupRow is the sum of some records that agree in the members a reader was
// asked for; the others are zero.
type RollupRow struct {
	RollupKey
	Delegation string // leaf token id, only if asked for
	Sums
}

// Dims says by which members records are told apart when summed.
type Dims uint8

// The dimensions of a RollupRow.
const (
	ByHour Dims = 1 << iota
	ByAgent
	ByConsumer
	ByOutcome
	BySkill
	ByDelegation // leaf token id
	ByDay        // the UTC day, in HourUS; not with ByHour
)

// Has tells whether all of d are in s.
func (s Dims) Has(d Dims) bool { return s&d == d }

// RollupRow returns the record as a row of its own, reduced to dims.
func (r *Record) RollupRow(dims Dims) RollupRow {
	row := RollupRow{Sums: SumsOf(r)}
	if dims.Has(ByHour) {
		row.HourUS = HourUS(r.Timestamp)
	}
	if dims.Has(ByDay) {
		row.HourUS = r.Timestamp.UTC().Truncate(24 * time.Hour).UnixMicro()
	}
	if dims.Has(ByAgent) {
		row.Agent = r.Agent
	}
	if dims.Has(ByConsumer) {
		row.Consumer = r.Consumer
	}
	if dims.Has(ByOutcome) {
		row.Outcome = r.Outcome
	}
	if dims.Has(BySkill) {
		row.Skill = r.Skill
	}
	if dims.Has(ByDelegation) && r.Delegation != nil {
		row.Delegation = r.Delegation.TokenID
	}
	return row
}

// Summary is the total of a selection and how many different agents and
// consumers it has. Those whose tasks were all voided do not count.
type Summary struct {
	Sums
	Agents    int64
	Consumers int64
}

// Matches tells whether the record is in the selection.
func (f *Filter) Matches(r *Record) bool {
	return (f.Agent == "" || f.Agent == r.Agent) &&
		(f.Consumer == "" || f.Consumer == r.Consumer) &&
		(f.TaskID == "" || f.TaskID == r.TaskID) &&
		(f.Skill == "" || f.Skill == r.Skill) &&
		(f.Outcome == "" || f.Outcome == r.Outcome) &&
		(f.Delegation == "" || r.Delegation != nil && f.Delegation == r.Delegation.TokenID) &&
		(f.Party == "" || f.Party == r.Agent || f.Party == r.Consumer) &&
		(f.Start.IsZero() || !r.Timestamp.Before(f.Start)) &&
		(f.End.IsZero() || r.Timestamp.Before(f.End))
}
