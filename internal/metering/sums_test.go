package metering

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"testing"
	"time"
	_ "time/tzdata" // the zones below, on any machine

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// history draws usage records, some of them corrected, in any order.
func history(t *rapid.T) []Record {
	var all []Record
	for i := range rapid.IntRange(0, 30).Draw(t, "records") {
		r := drawRecord(t)
		r.ID = fmt.Sprintf("r%d", i)
		all = append(all, r)
		correct := func(of *Record, c Correction) Record {
			made, err := Correct(of, c, noon)
			if err != nil {
				t.Fatal(err)
			}
			return made
		}
		switch rapid.IntRange(0, 5).Draw(t, "correction") {
		case 0:
			all = append(all, correct(&r, Correction{ID: r.ID + "v", Kind: Void, Ref: r.ID, Reason: "twice"}))
		case 1:
			less, cost := int64(-3), NanoUSD(-5)
			a := correct(&r, Correction{ID: r.ID + "a", Kind: Adjustment, Ref: r.ID, TokensIn: &less, CostNanoUSD: &cost})
			all = append(all, a)
			if rapid.Bool().Draw(t, "taken back") {
				all = append(all, correct(&a, Correction{ID: r.ID + "b", Kind: Void, Ref: a.ID}))
			}
		}
	}
	for i := range all {
		all[i].Sequence = int64(i + 1)
	}
	return rapid.Permutation(all).Draw(t, "order")
}

// naive is the model: big integers, one loop, no rollups.
type naive struct {
	tasks, in, out, calls, ms, cost, unpriced, unreported big.Int
	agents, consumers                                     map[string]int
}

func naiveSums(records []Record, keep func(*Record) bool) *naive {
	n := &naive{agents: map[string]int{}, consumers: map[string]int{}}
	for i := range records {
		r := &records[i]
		if !keep(r) {
			continue
		}
		tasks := map[Kind]int64{Usage: 1, Void: -1}[r.Kind]
		add := func(to *big.Int, by int64) { to.Add(to, big.NewInt(by)) }
		add(&n.tasks, tasks)
		add(&n.ms, deref(r.DurationMS))
		if r.TokensIn != nil {
			add(&n.in, *r.TokensIn)
		}
		if r.TokensOut != nil {
			add(&n.out, *r.TokensOut)
		}
		if r.APICalls != nil {
			add(&n.calls, *r.APICalls)
		}
		if r.CostNanoUSD != nil {
			add(&n.cost, int64(*r.CostNanoUSD))
		} else {
			add(&n.unpriced, tasks)
		}
		if r.TokensIn == nil || r.TokensOut == nil {
			add(&n.unreported, tasks)
		}
		n.agents[string(r.Agent)] += int(tasks)
		n.consumers[string(r.Consumer)] += int(tasks)
	}
	return n
}

func (n *naive) summary() Summary {
	distinct := func(m map[string]int) (c int64) {
		for _, tasks := range m {
			if tasks > 0 {
				c++
			}
		}
		return c
	}
	return Summary{
		Sums: Sums{
			Tasks: n.tasks.Int64(), TokensIn: n.in.Int64(), TokensOut: n.out.Int64(), APICalls: n.calls.Int64(), DurationMS: n.ms.Int64(),
			CostNanoUSD: NanoUSD(n.cost.Int64()), Unpriced: n.unpriced.Int64(), Unreported: n.unreported.Int64(),
		},
		Agents: distinct(n.agents), Consumers: distinct(n.consumers),
	}
}

func rollups(t *rapid.T, records []Record) map[RollupKey]*Sums {
	rows := map[RollupKey]*Sums{}
	for i := range records {
		key := records[i].RollupKey()
		if rows[key] == nil {
			rows[key] = &Sums{}
		}
		if err := rows[key].Add(&records[i]); err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

var zoneNames = []string{
	"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia", "America/St_Johns", "Pacific/Kiritimati",
}

func TestSummaryEqualsTheNaiveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := history(t)
		want := naiveSums(records, func(*Record) bool { return true }).summary()
		var fromRows, fromRecords Summarizer
		for key, sums := range rollups(t, records) {
			if err := fromRows.AddRow(RollupRow{RollupKey: key, Sums: *sums}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range records {
			if err := fromRecords.AddRow(records[i].RollupRow(ByAgent | ByConsumer)); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, fromRows.Summary()); diff != "" {
			t.Fatal("rollups: " + diff)
		}
		if diff := cmp.Diff(want, fromRecords.Summary()); diff != "" {
			t.Fatal("records: " + diff)
		}
	})
}

// However a history is cut into groups, in any zone, the groups add up to the
// whole, each equals the naive sum of its members, and rollups give the same
// wherever they are said to suffice.
func TestGroupsPartitionTheWhole(t *testing.T) {
	by := []string{
		"agent", "consumer", "hour", "day", "week", "month", "skill", "outcome", "delegation",
		"day,agent", "agent,consumer,hour", "week,skill", "month,outcome,delegation", "delegation, agent",
	}
	rapid.Check(t, func(t *rapid.T) {
		records := history(t)
		loc, err := time.LoadLocation(rapid.SampledFrom(zoneNames).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		g, err := ParseGroupBy(rapid.SampledFrom(by).Draw(t, "group by"), loc)
		if err != nil {
			t.Fatal(err)
		}
		a := NewAggregator(g)
		for i := range records {
			if err := a.AddRecord(&records[i]); err != nil {
				t.Fatal(err)
			}
		}
		groups := a.Groups()
		var sum Sums
		for i, group := range groups {
			if err := sum.Merge(group.Sums); err != nil {
				t.Fatal(err)
			}
			want := naiveSums(records, func(r *Record) bool { return group.Key == naiveKey(g, r) }).summary()
			if diff := cmp.Diff(want, group.Summary); diff != "" {
				t.Fatalf("%+v: %s", group.Key, diff)
			}
			if i > 0 && groups[i-1].Key == group.Key {
				t.Fatalf("%+v comes twice", group.Key)
			}
		}
		if diff := cmp.Diff(naiveSums(records, func(*Record) bool { return true }).summary().Sums, sum); diff != "" {
			t.Fatal("the groups do not add up: " + diff)
		}
		if a.Len() < len(groups) {
			t.Fatal("fewer groups than groups")
		}
		if !g.RollupsSuffice(Filter{Start: noon.AddDate(-1, 0, 0), End: noon.AddDate(1, 0, 0)}) {
			return
		}
		b := NewAggregator(g)
		for i := range records {
			row := records[i].RollupRow(g.Dims())
			if err := b.AddRow(row); err != nil {
				t.Fatal(err)
			}
		}
		got := b.Groups()
		if d := g.Dims(); !d.Has(ByAgent | ByConsumer) { // only what was asked for is told apart
			for i := range got {
				got[i].Agents, got[i].Consumers = groups[i].Agents, groups[i].Consumers
			}
		}
		if diff := cmp.Diff(groups, got); diff != "" {
			t.Fatal("from rollups: " + diff)
		}
	})
}

func naiveKey(g Grouping, r *Record) (k GroupKey) {
	local := r.Timestamp.In(g.Location)
	for _, d := range g.Dimensions {
		switch d {
		case "agent":
			k.Agent = r.Agent
		case "consumer":
			k.Consumer = r.Consumer
		case "skill":
			k.Skill = r.Skill
		case "outcome":
			k.Outcome = r.Outcome
		case "delegation":
			if r.Delegation != nil {
				k.Delegation = r.Delegation.TokenID
			}
		case "hour":
			k.Period = local.Format("2006-01-02T15") + ":00:00" + local.Format("Z07:00")
		case "day":
			k.Period = local.Format("2006-01-02")
		case "week":
			monday := local.AddDate(0, 0, -(int(local.Weekday())+6)%7)
			thursday := monday.AddDate(0, 0, 3)
			k.Period = fmt.Sprintf("%d-W%02d", thursday.Year(), (thursday.YearDay()-1)/7+1)
		case "month":
			k.Period = local.Format("2006-01")
		}
	}
	return k
}

func TestHoursOfAClockSetBackAreToldApartAndInOrder(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	g, err := ParseGroupBy("hour", berlin)
	if err != nil {
		t.Fatal(err)
	}
	a := NewAggregator(g)
	for h := 3; h >= 0; h-- {
		r := Record{Kind: Usage, Timestamp: time.Date(2026, 10, 24, 23+h, 30, 0, 0, time.UTC)}
		if err := a.AddRecord(&r); err != nil {
			t.Fatal(err)
		}
	}
	var keys []string
	for _, group := range a.Groups() {
		keys = append(keys, group.Key.Period)
	}
	want := []string{"2026-10-25T01:00:00+02:00", "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"}
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Error(diff)
	}
	if PerWeek.Key(time.Date(2025, 12, 29, 0, 0, 0, 0, time.UTC), time.UTC) != "2026-W01" || Period("year").Key(noon, time.UTC) != "" {
		t.Error("keys of weeks")
	}
}

func TestWholeHours(t *testing.T) {
	for name, want := range map[string]bool{
		"UTC": true, "Europe/Berlin": true, "America/New_York": true, "Asia/Kolkata": false, "Australia/Lord_Howe": false,
		"America/St_Johns": false, "Asia/Kathmandu": false,
	} {
		loc, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := WholeHours(loc, noon.AddDate(-1, 0, 0), noon.AddDate(1, 0, 0)); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
	// Without bounds it must come to an end, whatever the zone's rules are.
	for _, name := range zoneNames {
		loc, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		whole := WholeHours(loc, time.Time{}, time.Time{})
		if name == "Europe/Berlin" && !whole || name == "Asia/Kolkata" && whole {
			t.Errorf("%s: %t", name, whole)
		}
	}
	// Apia jumped over the date line at a whole hour; before 1911 its clocks went by the sun.
	apia, err := time.LoadLocation("Pacific/Apia")
	if err != nil {
		t.Fatal(err)
	}
	if WholeHours(apia, time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC), time.Time{}) {
		t.Error("local mean time has whole hours")
	}
	if !WholeHours(time.UTC, time.Time{}, time.Time{}) {
		t.Error("UTC has no whole hours")
	}
	// A zone of whole hours that changes at half past.
	if WholeHours(apia, time.Date(1949, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1951, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Error("half hours before 1950")
	}
}

func TestGroupByRefusals(t *testing.T) {
	for _, s := range []string{"", "Agent", "agent,", "agent,agent", "day,week", "year", "agent;day"} {
		var refusal *Error
		if _, err := ParseGroupBy(s, time.UTC); !errors.As(err, &refusal) || refusal.Code != CodeInvalidGroup {
			t.Errorf("%q: %v", s, err)
		}
	}
	g, err := ParseGroupBy("day, agent", time.UTC)
	if err != nil || g.String() != "day,agent" || !g.Has(GroupAgent) || g.Has(GroupSkill) {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestSumsRefuseToOverflow(t *testing.T) {
	s := Sums{TokensIn: math.MaxInt64 - 1, Tasks: 4}
	n := int64(2)
	before := s
	if err := s.Add(&Record{Kind: Usage, TokensIn: &n}); !errors.Is(err, ErrOverflow) || s != before {
		t.Errorf("%v, %+v", err, s)
	}
	a := NewAggregator(Grouping{Location: time.UTC})
	row := RollupRow{Sums: before}
	if err := a.AddRow(row); err != nil {
		t.Fatal(err)
	}
	if err := a.AddRow(row); !errors.Is(err, ErrOverflow) {
		t.Error(err)
	}
}

func TestCorrections(t *testing.T) {
	n, cost := int64(5), NanoUSD(9)
	r := Record{
		ID: "r", Kind: Usage, TaskID: "t", Agent: "urn:asap:agent:a", Consumer: "urn:asap:agent:c", Outcome: Failed, Evidence: SelfReported, Timestamp: noon,
		TokensIn: &n, Tokens: Tokens{InputUncached: &n}, DurationMS: new(int64(7)), CostNanoUSD: &cost, PriceList: "p", Signature: []byte{1}, Sequence: 3,
	}
	void, err := Correct(&r, Correction{ID: "v", Kind: Void, Ref: "r", Reason: "wrong agent"}, noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var s Sums
	if s.Add(&r) != nil || s.Add(&void) != nil || !s.IsZero() {
		t.Errorf("a record and its void leave %+v", s)
	}
	if void.RollupKey() != r.RollupKey() || void.Reason != "wrong agent" || void.Ref != "r" || void.Sequence != 0 || !void.ReceivedAt.Equal(noon.Add(time.Hour)) {
		t.Errorf("%+v", void)
	}
	if *r.TokensIn != 5 || *r.CostNanoUSD != 9 {
		t.Error("the original changed")
	}
	less := int64(-2)
	adjusted, err := Correct(&r, Correction{ID: "x", Kind: Adjustment, Ref: "r", TokensIn: &less, DurationMS: &less}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if got := SumsOf(&adjusted); got != (Sums{TokensIn: -2, DurationMS: -2}) {
		t.Errorf("%+v", got)
	}
	if adjusted.PriceList != "" || adjusted.CostNanoUSD != nil {
		t.Errorf("an adjustment without cost has one: %+v", adjusted)
	}
	huge := int64(-MaxQuantity - 1)
	for name, c := range map[string]struct {
		of *Record
		c  Correction
	}{
		"of another":  {&r, Correction{ID: "x", Kind: Void, Ref: "q"}},
		"of a void":   {&void, Correction{ID: "x", Kind: Void, Ref: "v"}},
		"of no kind":  {&r, Correction{ID: "x", Kind: Usage, Ref: "r"}},
		"without id":  {&r, Correction{Kind: Void, Ref: "r"}},
		"of too much": {&r, Correction{ID: "x", Kind: Adjustment, Ref: "r", TokensOut: &huge}},
	} {
		var refusal *Error
		if _, err := Correct(c.of, c.c, noon); !errors.As(err, &refusal) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFilterMatches(t *testing.T) {
	r := Record{Agent: "a", Consumer: "c", TaskID: "t", Skill: "s", Outcome: Failed, Delegation: &Delegation{TokenID: "d"}, Timestamp: noon, Sequence: 4}
	for _, c := range []struct {
		f    Filter
		want bool
	}{
		{Filter{}, true}, {Filter{Agent: "a", Consumer: "c", TaskID: "t", Skill: "s", Outcome: Failed, Delegation: "d", Party: "a"}, true},
		{Filter{Agent: "c"}, false}, {Filter{Consumer: "a"}, false}, {Filter{TaskID: "x"}, false}, {Filter{Skill: "x"}, false},
		{Filter{Outcome: Completed}, false}, {Filter{Delegation: "x"}, false}, {Filter{Party: "c"}, true}, {Filter{Party: "x"}, false},
		{Filter{Start: noon}, true}, {Filter{Start: noon.Add(1)}, false}, {Filter{End: noon}, false}, {Filter{End: noon.Add(1)}, true},
	} {
		if got := c.f.Matches(&r); got != c.want {
			t.Errorf("%+v: %t", c.f, got)
		}
	}
	if (&Filter{Delegation: "d"}).Matches(&Record{}) {
		t.Error("no delegation matches one")
	}
	if p := r.Position(); p.IsZero() || p.Sequence != 4 || !(Position{}).IsZero() {
		t.Errorf("%+v", p)
	}
	if HourUS(time.Unix(-1, 0)) != -3600e6 || HourUS(noon.Add(59*time.Minute)) != noon.UnixMicro() {
		t.Error("hours")
	}
}

func TestParseCorrection(t *testing.T) {
	c, ok, err := ParseCorrection(jsontext.Value(`{"kind":"adjustment","id":"i","ref":"r","reason":"x","tokens_in":-3,"api_calls":"2","cost_usd":"-0.5"}`))
	if err != nil || !ok || c.Kind != Adjustment || c.ID != "i" || *c.TokensIn != -3 || *c.APICalls != 2 || c.TokensOut != nil || *c.CostNanoUSD != -5e8 {
		t.Errorf("%+v, %t, %v", c, ok, err)
	}
	if c, ok, err := ParseCorrection(jsontext.Value(`{"kind":"void","ref":"r","reason":"x"}`)); err != nil || !ok || c.Kind != Void || c.Ref != "r" {
		t.Errorf("%+v, %t, %v", c, ok, err)
	}
	for _, text := range []string{`{}`, `[]`, `{"kind":"usage"}`, `{"kind":5}`, `{`} {
		if _, ok, err := ParseCorrection(jsontext.Value(text)); ok || err != nil {
			t.Errorf("%s is no correction: %t, %v", text, ok, err)
		}
	}
	for field, text := range map[string]string{
		"ref":         `{"kind":"void","reason":"x"}`,
		"reason":      `{"kind":"void","ref":"r"}`,
		"tokens_in":   `{"kind":"void","ref":"r","reason":"x","tokens_in":1}`,
		"tokens_out":  `{"kind":"adjustment","ref":"r","reason":"x","tokens_out":1.5}`,
		"duration_ms": `{"kind":"adjustment","ref":"r","reason":"x","duration_ms":-1000000000001}`,
		"cost_usd":    `{"kind":"adjustment","ref":"r","reason":"x","cost_usd":"1e3"}`,
	} {
		var refusal *Error
		if _, ok, err := ParseCorrection(jsontext.Value(text)); !ok || !errors.As(err, &refusal) || refusal.Issues[0].Field != field {
			t.Errorf("%s: %t, %v", text, ok, err)
		}
	}
}
