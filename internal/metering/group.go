package metering

import (
	"cmp"
	"slices"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Dimension is one thing records can be grouped by.
type Dimension string

// The dimensions, besides the four calendar periods.
const (
	GroupAgent      Dimension = "agent"
	GroupConsumer   Dimension = "consumer"
	GroupSkill      Dimension = "skill"
	GroupOutcome    Dimension = "outcome"
	GroupDelegation Dimension = "delegation"
)

// Grouping says how records are grouped: by one or more dimensions, at most one
// of which is a calendar period.
type Grouping struct {
	Dimensions []Dimension
	Period     Period // empty if no dimension is a period
	Location   *time.Location
}

// ParseGroupBy reads a comma list of agent, consumer, hour, day, week, month,
// skill, outcome, delegation. Periods are those of the calendar of loc. The
// error is an *Error with CodeInvalidGroup.
func ParseGroupBy(s string, loc *time.Location) (Grouping, error) {
	g := Grouping{Location: loc}
	for name := range strings.SplitSeq(s, ",") {
		d := Dimension(strings.TrimSpace(name))
		switch d {
		case GroupAgent, GroupConsumer, GroupSkill, GroupOutcome, GroupDelegation:
		case Dimension(PerHour), Dimension(PerDay), Dimension(PerWeek), Dimension(PerMonth):
			if g.Period != "" {
				return Grouping{}, refuse(CodeInvalidGroup, "group_by", "value_error", "can name only one of hour, day, week and month")
			}
			g.Period = Period(d)
		default:
			return Grouping{}, refuse(CodeInvalidGroup, "group_by", "enum",
				"must be one of: agent, consumer, day, week, hour, month, skill, outcome, delegation (or several, with commas)")
		}
		if slices.Contains(g.Dimensions, d) {
			return Grouping{}, refuse(CodeInvalidGroup, "group_by", "value_error", "names %s twice", d)
		}
		g.Dimensions = append(g.Dimensions, d)
	}
	return g, nil
}

// String returns the comma list that ParseGroupBy reads.
func (g Grouping) String() string {
	names := make([]string, len(g.Dimensions))
	for i, d := range g.Dimensions {
		names[i] = string(d)
	}
	return strings.Join(names, ",")
}

// Has tells whether d is one of the dimensions.
func (g Grouping) Has(d Dimension) bool { return slices.Contains(g.Dimensions, d) }

// Dims returns what rows must be told apart by for this grouping. Agents and
// consumers always are, as groups count them, unless the grouping is exactly by
// one of the two.
func (g Grouping) Dims() Dims {
	var d Dims
	switch {
	case len(g.Dimensions) == 1 && g.Has(GroupAgent):
		return ByAgent
	case len(g.Dimensions) == 1 && g.Has(GroupConsumer):
		return ByConsumer
	}
	d = ByAgent | ByConsumer
	switch {
	case g.Period == "":
	case g.Period != PerHour && (g.Location == nil || g.Location == time.UTC):
		d |= ByDay
	default:
		d |= ByHour
	}
	if g.Has(GroupSkill) {
		d |= BySkill
	}
	if g.Has(GroupOutcome) {
		d |= ByOutcome
	}
	if g.Has(GroupDelegation) {
		d |= ByDelegation
	}
	return d
}

// RollupsSuffice tells whether hourly rows add up to the groups exactly; if not,
// records have to be added one by one.
func (g Grouping) RollupsSuffice(f Filter) bool {
	return g.Period == "" || WholeHours(g.Location, f.Start, f.End)
}

// GroupKey identifies a group; members that are not grouped by are empty.
type GroupKey struct {
	Period     string
	Agent      asap.AgentURN
	Consumer   asap.AgentURN
	Skill      string
	Outcome    Outcome
	Delegation string
}

// Group is the total of one group.
type Group struct {
	Key GroupKey
	Summary
}

// Aggregator adds records or rollup rows up into groups. The result does not
// depend on their order. The zero value is not usable; call NewAggregator.
type Aggregator struct {
	by     Grouping
	groups map[GroupKey]*tally
}

// tally is a group being added up. An agent counts while it has tasks left.
type tally struct {
	sums      Sums
	agents    map[asap.AgentURN]int64
	consumers map[asap.AgentURN]int64
}

// NewAggregator returns an aggregator without groups.
func NewAggregator(g Grouping) *Aggregator {
	return &Aggregator{by: g, groups: map[GroupKey]*tally{}}
}

// AddRecord adds one record. The error is ErrOverflow.
func (a *Aggregator) AddRecord(r *Record) error {
	row := r.RollupRow(a.by.Dims() | ByAgent | ByConsumer)
	return a.add(row, r.Timestamp)
}

// AddRow adds a rollup row that was told apart by at least Dims of the grouping.
// The error is ErrOverflow.
func (a *Aggregator) AddRow(row RollupRow) error { return a.add(row, time.UnixMicro(row.HourUS)) }

func (a *Aggregator) add(row RollupRow, at time.Time) error {
	key := GroupKey{}
	for _, d := range a.by.Dimensions {
		switch d {
		case GroupAgent:
			key.Agent = row.Agent
		case GroupConsumer:
			key.Consumer = row.Consumer
		case GroupSkill:
			key.Skill = row.Skill
		case GroupOutcome:
			key.Outcome = row.Outcome
		case GroupDelegation:
			key.Delegation = row.Delegation
		default:
			key.Period = a.by.Period.Key(at, a.by.Location)
		}
	}
	g := a.groups[key]
	if g == nil {
		g = &tally{agents: map[asap.AgentURN]int64{}, consumers: map[asap.AgentURN]int64{}}
		a.groups[key] = g
	}
	if err := g.sums.Merge(row.Sums); err != nil {
		return err
	}
	g.agents[row.Agent] += row.Tasks
	g.consumers[row.Consumer] += row.Tasks
	return nil
}

// Len returns how many groups there are so far, also empty ones.
func (a *Aggregator) Len() int { return len(a.groups) }

// Groups returns the groups in which something is left, ordered by the
// dimensions as they were named: periods by time, the others by code point.
func (a *Aggregator) Groups() []Group {
	groups := make([]Group, 0, len(a.groups))
	for key, t := range a.groups {
		if !t.sums.IsZero() {
			groups = append(groups, Group{key, Summary{t.sums, positive(t.agents), positive(t.consumers)}})
		}
	}
	slices.SortFunc(groups, func(x, y Group) int { return a.by.Compare(x.Key, y.Key) })
	return groups
}

// Compare orders two groups as Aggregator.Groups does.
func (g Grouping) Compare(x, y GroupKey) int {
	for _, d := range g.Dimensions {
		c := cmp.Compare(x.member(d), y.member(d))
		if d == Dimension(PerHour) {
			c = x.hour().Compare(y.hour())
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

// hour returns the instant of an hour's key, whose text does not sort where
// clocks are set back.
func (k GroupKey) hour() time.Time {
	t, _ := time.Parse(time.RFC3339, k.Period) // our own text
	return t
}

// member returns what the key says of a dimension.
func (k GroupKey) member(d Dimension) string {
	switch d {
	case GroupAgent:
		return string(k.Agent)
	case GroupConsumer:
		return string(k.Consumer)
	case GroupSkill:
		return k.Skill
	case GroupOutcome:
		return string(k.Outcome)
	case GroupDelegation:
		return k.Delegation
	}
	return k.Period
}

func positive(m map[asap.AgentURN]int64) (n int64) {
	for _, tasks := range m {
		if tasks > 0 {
			n++
		}
	}
	return n
}

// Summarizer adds rows or records up into one Summary. The zero value is ready.
type Summarizer struct {
	all Aggregator
}

// AddRow adds a row told apart by ByAgent and ByConsumer. The error is
// ErrOverflow.
func (s *Summarizer) AddRow(row RollupRow) error {
	if s.all.groups == nil {
		s.all.groups = map[GroupKey]*tally{}
	}
	return s.all.add(row, time.Time{})
}

// Summary returns the total so far.
func (s *Summarizer) Summary() Summary {
	if t := s.all.groups[GroupKey{}]; t != nil {
		return Summary{t.sums, positive(t.agents), positive(t.consumers)}
	}
	return Summary{}
}
