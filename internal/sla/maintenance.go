package sla

import (
	"cmp"
	"slices"
)

// Exclusion is planned maintenance, from Start (inclusive) to End.
type Exclusion struct {
	// ID tells it from others; only one with an id can be taken back.
	ID          string  `json:"id,omitzero"`
	Start       Instant `json:"start"`
	End         Instant `json:"end"`
	AnnouncedAt Instant `json:"announced_at"`
	// Retroactive marks one that an operator excluded without notice.
	Retroactive bool `json:"retroactive,omitzero"`
	// Actor is who planned it, Reason what they say.
	Actor  string `json:"actor,omitzero"`
	Reason string `json:"reason,omitzero"`
}

type interval struct{ start, end Instant }

// granted is the time that a set of exclusions really takes out: overlaps are
// merged, and no 30 days contain more than the cap; what is beyond it, the end of
// the later maintenance, counts as normal time.
func granted(all []Exclusion, limit Instant) []interval {
	asked := make([]interval, 0, len(all))
	for _, x := range all {
		asked = append(asked, interval{x.Start, x.End})
	}
	asked = union(asked)
	var given []interval
	for _, x := range asked {
		left := limit
		for _, g := range given {
			if past := g.end - max(g.start, x.start-capSpan); past > 0 {
				left -= past
			}
		}
		if left > 0 {
			given = append(given, interval{x.start, min(x.end, x.start+left)})
		}
	}
	return given
}

// union sorts and merges intervals that touch or overlap.
func union(all []interval) []interval {
	slices.SortFunc(all, func(a, b interval) int { return cmp.Compare(a.start, b.start) })
	merged := all[:0]
	for _, x := range all {
		if n := len(merged); n > 0 && x.start <= merged[n-1].end {
			merged[n-1].end = max(merged[n-1].end, x.end)
			continue
		}
		merged = append(merged, x)
	}
	return merged
}

// contains tells whether t lies in one of the intervals.
func contains(all []interval, t Instant) bool {
	for _, x := range all {
		if x.start <= t && t < x.end {
			return true
		}
	}
	return false
}

// nextBound is the first start or end of an interval after now.
func nextBound(all []interval, now Instant) Instant {
	for _, x := range all {
		switch {
		case x.start > now:
			return x.start
		case x.end > now:
			return x.end
		}
	}
	return never
}

// overlap is how much of (from, to] lies in the intervals.
func overlap(all []interval, from, to Instant) (sum Instant) {
	for _, x := range all {
		if d := min(x.end, to) - max(x.start, from); d > 0 {
			sum += d
		}
	}
	return sum
}
