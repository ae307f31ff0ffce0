package httpapi

import (
	"encoding/base64"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/metering"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
	maxGroupPage = 10_000
	maxExport    = 100_000
)

// query reads parameters. The last of repeated ones wins and unknown ones are
// ignored, as in v1.3.0; a parameter that is there and empty is refused, as it
// would otherwise select everything by accident.
type query struct{ values url.Values }

func newQuery(raw string) (query, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return query{}, refuse(asap.CodeInvalidFilter, "query", "is not a valid query string: %v", err)
	}
	return query{values}, nil
}

// text returns the value of the parameter, which may go by several names.
func (q query) text(names ...string) (string, error) {
	found := ""
	for _, name := range names {
		all, given := q.values[name]
		if !given {
			continue
		}
		value := all[len(all)-1]
		switch {
		case value == "":
			return "", refuse(asap.CodeInvalidFilter, name, "must not be empty; leave it out to select all")
		case found != "" && found != value:
			return "", refuse(asap.CodeInvalidFilter, name, "differs from %s", names[0])
		}
		found = value
	}
	return found, nil
}

// integer returns a whole number within [least, most], or def.
func (q query) integer(name string, def, least, most int) (int, error) {
	all, given := q.values[name]
	if !given {
		return def, nil
	}
	text := all[len(all)-1]
	f, err := strconv.ParseFloat(strings.TrimSpace(text), 64) // 2.0 is 2, as in v1.3.0
	if err != nil || f != math.Trunc(f) {
		return 0, refuse(asap.CodeInvalidFilter, name, "must be a whole number")
	}
	if f < float64(least) || f > float64(most) {
		return 0, refuse(asap.CodeInvalidFilter, name, "must be between %d and %d", least, most)
	}
	return int(f), nil
}

// yes returns whether a parameter is 1 or true.
func (q query) yes(name string) (bool, error) {
	text, err := q.text(name)
	switch {
	case err != nil:
		return false, err
	case text == "1" || text == "true":
		return true, nil
	case text == "" || text == "0" || text == "false":
		return false, nil
	}
	return false, refuse(asap.CodeInvalidFilter, name, "must be 1 or 0")
}

// instant returns a time with its zone, or the zero time.
func (q query) instant(name string) (time.Time, error) {
	all, given := q.values[name]
	if !given {
		return time.Time{}, nil
	}
	t, err := asap.ParseTimestamp(all[len(all)-1])
	if err != nil {
		return time.Time{}, refuse(asap.CodeInvalidTime, name, "must be RFC 3339 with a zone, such as 2026-02-20T12:00:00Z (write + as %%2B)")
	}
	if asap.Zoneless(t) {
		return time.Time{}, refuse(asap.CodeInvalidTime, name, "has no zone; add Z or an offset such as %%2B01:00")
	}
	return t.UTC(), nil
}

// filter reads the parameters that select records.
func (q query) filter() (metering.Filter, error) {
	var f metering.Filter
	var agent, consumer, task, outcome string
	for _, p := range []struct {
		to    *string
		names []string
	}{
		{&agent, []string{"agent", "agent_id"}}, {&consumer, []string{"consumer", "consumer_id"}}, {&task, []string{"task_id"}},
		{&f.Skill, []string{"skill"}}, {&outcome, []string{"outcome"}}, {&f.Delegation, []string{"delegation"}},
	} {
		var err error
		if *p.to, err = q.text(p.names...); err != nil {
			return metering.Filter{}, err
		}
	}
	f.Agent, f.Consumer, f.TaskID, f.Outcome = asap.AgentURN(agent), asap.AgentURN(consumer), asap.TaskID(task), metering.Outcome(outcome)
	outcomes := []metering.Outcome{"", metering.Completed, metering.Failed, metering.Cancelled, metering.TimedOut, metering.Rejected}
	if !slices.Contains(outcomes, f.Outcome) {
		return metering.Filter{}, refuse(asap.CodeInvalidFilter, "outcome", "must be completed, failed, cancelled, timeout or rejected")
	}
	var err error
	if f.Start, err = q.instant("start"); err != nil {
		return metering.Filter{}, err
	}
	f.End, err = q.instant("end")
	return f, err
}

// cursor decodes the parameter cursor into to; it was made by encodeCursor for
// the same kind of list. given is false if there is none.
func (q query) cursor(kind string, to any) (given bool, err error) {
	text, err := q.text("cursor")
	if err != nil || text == "" {
		return false, err
	}
	bad := refuse(asap.CodeInvalidCursor, "cursor", "is not one that this list gave out")
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return false, bad
	}
	rest, ok := strings.CutPrefix(string(b), kind+":")
	if !ok || json.Unmarshal([]byte(rest), to, json.RejectUnknownMembers(true)) != nil {
		return false, bad
	}
	return true, nil
}

// encodeCursor makes an opaque text of a position in a kind of list.
func encodeCursor(kind string, at any) (string, error) {
	b, err := json.Marshal(at)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(append([]byte(kind+":"), b...)), nil
}
