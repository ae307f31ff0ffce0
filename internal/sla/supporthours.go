package sla

import "time"

// businessHours is the one value of support_hours that means less than always.
const businessHours = "business"

// supportHoursUptime is the uptime within business hours, Monday to Friday from 9
// to 17 in the agent's zone: what support was promised for. Nil if the agent
// promises other hours, or nothing was measured in them.
func (a *agent) supportHoursUptime(start, end Instant) *float64 {
	if a.promise.supportHours == nil || *a.promise.supportHours != businessHours {
		return nil
	}
	var sum spans
	for _, x := range businessTime(start, end, a.zone) {
		sum = sum.plus(a.line.between(x.start, x.end))
	}
	if sum.measured() == 0 {
		return nil
	}
	return percent(sum.up, sum.measured())
}

// businessTime are the business hours between two instants. On a day whose clocks
// change, nine and five o'clock are those of that day.
func businessTime(start, end Instant, zone *time.Location) (hours []interval) {
	year, month, date := start.Time().In(zone).Date()
	for ; ; date++ {
		noon := time.Date(year, month, date, 12, 0, 0, 0, zone)
		opens := InstantOf(time.Date(year, month, date, 9, 0, 0, 0, zone))
		closes := InstantOf(time.Date(year, month, date, 17, 0, 0, 0, zone))
		if opens >= end {
			return hours
		}
		if noon.Weekday() == time.Saturday || noon.Weekday() == time.Sunday {
			continue
		}
		if x := (interval{max(opens, start), min(closes, end)}); x.start < x.end {
			hours = append(hours, x)
		}
	}
}
