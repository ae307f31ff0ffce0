package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/metering"
)

func (a *API) listUsage(c *call) error {
	f, err := c.params.filter()
	if err != nil {
		return err
	}
	limit, err := c.params.integer("limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return err
	}
	page := metering.Page{Limit: limit + 1} // one more tells whether there is one
	if page.Offset, err = c.params.integer("offset", 0, 0, 1<<31-1); err != nil {
		return err
	}
	if _, err = c.params.cursor("usage", &page.After); err != nil {
		return err
	}
	records, err := a.cfg.Usage.ListUsage(c.ctx(), c.own(f), page)
	if err != nil {
		return err
	}
	next := ""
	if len(records) > limit {
		records = records[:limit]
		if next, err = encodeCursor("usage", records[limit-1].Position()); err != nil {
			return err
		}
	}
	b := appendRecords([]byte(`{"data":`), records)
	b = appendPage(b, len(records), next)
	return writeBytes(c.w, http.StatusOK, append(b, '}'))
}

func appendRecords(b []byte, records []metering.Record) []byte {
	b = append(b, '[')
	for i := range records {
		if i > 0 {
			b = append(b, ',')
		}
		b = records[i].AppendJSON(b)
	}
	return append(b, ']')
}

// appendPage writes count and next_cursor.
func appendPage(b []byte, count int, next string) []byte {
	b = strconv.AppendInt(append(b, `,"count":`...), int64(count), 10)
	b = append(b, `,"next_cursor":`...)
	if next == "" {
		return append(b, "null"...)
	}
	return append(append(append(b, '"'), next...), '"') // base64url
}

func (a *API) taskUsage(c *call) error {
	id := asap.TaskID(c.r.PathValue("task_id"))
	f := c.own(metering.Filter{TaskID: id})
	records, err := a.cfg.Usage.ListUsage(c.ctx(), f, metering.Page{Limit: maxLimit + 1})
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return problemOf(asap.CodeNotFound, "There is no usage record of this task.")
	}
	if len(records) > maxLimit {
		return refuse(asap.CodeInvalidFilter, "task_id", "has more than %d records; page through GET /usage?task_id=", maxLimit)
	}
	name, err := json.Marshal(string(id))
	if err != nil {
		return problemOf(asap.CodeNotFound, "")
	}
	b := append(append([]byte(`{"task_id":`), name...), `,"data":`...)
	b = appendRecords(b, records)
	b = strconv.AppendInt(append(b, `,"count":`...), int64(len(records)), 10)
	return writeBytes(c.w, http.StatusOK, append(b, '}'))
}

func (a *API) stats(c *call) error {
	s, err := a.cfg.Usage.UsageStats(c.ctx())
	if err != nil {
		return err
	}
	answer := statsAnswer{TotalEvents: s.Records}
	if !s.Oldest.IsZero() {
		text := asap.FormatTimestamp(s.Oldest.UTC())
		answer.Oldest = &text
	}
	if keep := a.cfg.Retention(); keep > 0 {
		seconds := int64(keep / time.Second)
		answer.RetentionSeconds = &seconds
	}
	return writeJSON(c.w, http.StatusOK, answer)
}

func (a *API) summary(c *call) error {
	f, err := c.params.filter()
	if err != nil {
		return err
	}
	var s metering.Summarizer
	for row, err := range a.cfg.Usage.Rollups(c.ctx(), c.own(f), metering.ByAgent|metering.ByConsumer) {
		if err != nil {
			return err
		}
		if err := s.AddRow(row); err != nil {
			return err
		}
	}
	sum := s.Summary()
	totals, err := totalsOf(sum.Sums)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, summaryAnswer{Totals: totals, UniqueAgents: sum.Agents, UniqueConsumers: sum.Consumers})
}

func (a *API) byAgent(c *call) error    { return a.groups(c, "agent", false) }
func (a *API) byConsumer(c *call) error { return a.groups(c, "consumer", false) }

func (a *API) aggregate(c *call) error {
	all, given := c.params.values["group_by"]
	if !given {
		return refuse(asap.CodeInvalidFilter, "group_by", "is required")
	}
	return a.groups(c, all[len(all)-1], true)
}

// groups answers with totals by the comma list; named tells whether the answer
// repeats it.
func (a *API) groups(c *call, by string, named bool) error {
	loc, err := c.zone()
	if err != nil {
		return err
	}
	g, err := metering.ParseGroupBy(by, loc)
	if err != nil {
		p := asProblem(err)
		p.Status, p.Title = http.StatusBadRequest, http.StatusText(http.StatusBadRequest) // as v1.3.0
		return p
	}
	f, err := c.params.filter()
	if err != nil {
		return err
	}
	limit, err := c.params.integer("limit", maxGroupPage, 1, maxGroupPage)
	if err != nil {
		return err
	}
	var after metering.GroupKey
	given, err := c.params.cursor("group:"+g.String(), &after)
	if err != nil {
		return err
	}
	groups, err := a.total(c, c.own(f), g)
	if err != nil {
		return err
	}
	if given {
		at, found := slices.BinarySearchFunc(groups, after, func(x metering.Group, k metering.GroupKey) int { return g.Compare(x.Key, k) })
		if found {
			at++
		}
		groups = groups[at:]
	}
	next := ""
	if len(groups) > limit {
		groups = groups[:limit]
		if next, err = encodeCursor("group:"+g.String(), groups[limit-1].Key); err != nil {
			return err
		}
	}
	b := []byte{'{'}
	if named {
		b = append(append(append(b, `"group_by":"`...), g.String()...), `",`...)
	}
	b = append(b, `"data":[`...)
	for i, group := range groups {
		row, err := rowOf(g, group)
		if err != nil {
			return err
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, row...)
	}
	b = appendPage(append(b, ']'), len(groups), next)
	return writeBytes(c.w, http.StatusOK, append(b, '}'))
}

// zone returns the calendar's zone, UTC unless tz names another.
func (c *call) zone() (*time.Location, error) {
	name, err := c.params.text("tz")
	if err != nil || name == "" {
		return time.UTC, err
	}
	loc, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, refuse(asap.CodeInvalidFilter, "tz", "must be a time zone such as Europe/Berlin or UTC")
	}
	return loc, nil
}

// total adds the selection up: from rollups, or record by record if a period of
// the calendar begins within an hour of UTC.
func (a *API) total(c *call, f metering.Filter, g metering.Grouping) ([]metering.Group, error) {
	bounds, purgedBefore := f, time.Time{}
	if g.Period != "" && g.Location != time.UTC {
		s, err := a.cfg.Usage.UsageStats(c.ctx())
		if err != nil {
			return nil, err
		}
		purgedBefore = s.PurgedBefore
		if bounds.Start.IsZero() && purgedBefore.IsZero() {
			bounds.Start = s.Oldest
		}
	}
	sum := metering.NewAggregator(g)
	check := func(err error) error {
		if err == nil && sum.Len() > maxGroups {
			return refuse(asap.CodeInvalidFilter, "group_by", "makes more than %d groups; narrow the time or group by less", maxGroups)
		}
		return err
	}
	if !g.RollupsSuffice(bounds) {
		if f.Start.Before(purgedBefore) {
			return nil, metering.ErrPurged // what is left of them cannot be cut
		}
		for r, err := range a.cfg.Usage.ExportUsage(c.ctx(), f) {
			if err == nil {
				err = sum.AddRecord(&r)
			}
			if err := check(err); err != nil {
				return nil, err
			}
		}
		return sum.Groups(), nil
	}
	for row, err := range a.cfg.Usage.Rollups(c.ctx(), f, g.Dims()) {
		if err == nil {
			err = sum.AddRow(row)
		}
		if err := check(err); err != nil {
			return nil, err
		}
	}
	return sum.Groups(), nil
}

// rowOf writes one group: what it is grouped by in both spellings, period ("all"
// if there is no calendar), totals, and distinct parties unless the group is one.
func rowOf(g metering.Grouping, group metering.Group) (jsontext.Value, error) {
	t, err := totalsOf(group.Sums)
	if err != nil {
		return nil, err
	}
	row := groupRow{Totals: t, Period: "all"}
	for _, d := range g.Dimensions {
		switch d {
		case metering.GroupAgent:
			row.Agent = new(string(group.Key.Agent))
			row.AgentID = row.Agent
		case metering.GroupConsumer:
			row.Consumer = new(string(group.Key.Consumer))
			row.ConsumerID = row.Consumer
		case metering.GroupSkill:
			row.Skill = new(group.Key.Skill)
		case metering.GroupOutcome:
			row.Outcome = new(string(group.Key.Outcome))
		case metering.GroupDelegation:
			row.Delegation = new(group.Key.Delegation)
		default:
			row.Period = group.Key.Period
		}
	}
	if g.Dims().Has(metering.ByAgent | metering.ByConsumer) {
		row.UniqueAgents, row.UniqueConsumers = new(group.Agents), new(group.Consumers)
	}
	return json.Marshal(row)
}

// totalsOf turns sums into what is shown of them.
func totalsOf(s metering.Sums) (Totals, error) {
	tokens, err := s.Tokens()
	if err != nil {
		return Totals{}, err
	}
	var cost *string
	if s.Unpriced == 0 || s.Unpriced != s.Tasks || s.CostNanoUSD != 0 {
		cost = new(s.CostNanoUSD.String())
	}
	return Totals{
		Tokens: tokens, TokensIn: s.TokensIn, TokensOut: s.TokensOut, DurationMS: s.DurationMS, Tasks: s.Tasks, APICalls: s.APICalls,
		TokensPerTask: averageOf(tokens, s.Tasks), DurationPerTask: averageOf(s.DurationMS, s.Tasks),
		CostUSD: cost, Unpriced: s.Unpriced, Unreported: s.Unreported,
	}, nil
}

// averageOf returns the text of an average, null of nothing: always with a
// fraction, as v1.3.0 writes it.
func averageOf(total, tasks int64) average {
	if tasks <= 0 {
		return "null"
	}
	b := strconv.AppendFloat(nil, float64(total)/float64(tasks), 'f', -1, 64)
	if !slices.Contains(b, '.') {
		b = append(b, ".0"...)
	}
	return average(b)
}
