package metering

import (
	"fmt"
	"time"
)

// Period is a calendar unit that records are grouped by.
type Period string

// The calendar units. Weeks are those of ISO 8601 and begin on Monday.
const (
	PerHour  Period = "hour"
	PerDay   Period = "day"
	PerWeek  Period = "week"
	PerMonth Period = "month"
)

// Key names the period that t falls into on the calendar of loc:
// 2026-10-25T02:00:00+02:00 for an hour (the offset tells the two hours of a
// clock that is set back apart), 2026-10-25, 2026-W43, 2026-10. Every instant has
// exactly one key, so periods never overlap and leave nothing out, whatever the
// clocks of loc do.
func (p Period) Key(t time.Time, loc *time.Location) string {
	t = t.In(loc)
	switch p {
	case PerHour:
		return t.Format("2006-01-02T15:00:00Z07:00")
	case PerDay:
		return t.Format(time.DateOnly)
	case PerWeek:
		year, week := t.ISOWeek()
		return fmt.Sprintf("%04d-W%02d", year, week)
	case PerMonth:
		return t.Format("2006-01")
	}
	return ""
}

// WholeHours tells whether no period of loc begins within an hour of UTC between
// start and end, so that hourly rollups suffice to add up its periods. A zero
// start or end is the year 1970 or 2100. Zones such as Asia/Kolkata need the
// records themselves.
func WholeHours(loc *time.Location, start, end time.Time) bool {
	if start.IsZero() {
		start = time.Unix(0, 0)
	}
	if end.IsZero() {
		end = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	for t := start.In(loc); t.Before(end); {
		if _, offset := t.Zone(); offset%3600 != 0 {
			return false
		}
		_, next := t.ZoneBounds()
		if next.IsZero() {
			break
		}
		if !next.After(t) { // ZoneBounds can stand still at the end of a year
			t = t.Add(24 * time.Hour)
			continue
		}
		if next.Unix()%3600 != 0 && next.Before(end) {
			return false
		}
		t = next
	}
	return true
}
