package sla

import "fmt"

// Window is one of the rolling windows that promises are judged over. A window of
// width W ending at e is (e-W, e]: an event at e counts, one exactly W old does
// not.
type Window uint8

// The rolling windows.
const (
	LastHour Window = iota
	LastDay
	LastWeek
	LastMonth
	windowCount
)

// The windows as they are written, and what each consists of.
var windowSpecs = [windowCount]struct {
	name  string
	width Instant
	tier  Tier
}{
	{"1h", hour, TierMinute},
	{"24h", day, TierFive},
	{"7d", 7 * day, TierHour},
	{"30d", 30 * day, TierHour},
}

// ParseWindow reads "1h", "24h", "7d" or "30d".
func ParseWindow(text string) (Window, error) {
	for w, spec := range windowSpecs {
		if spec.name == text {
			return Window(w), nil
		}
	}
	return 0, fmt.Errorf("window must be one of: 1h, 24h, 7d, 30d")
}

// String is the name: "1h".
func (w Window) String() string { return windowSpecs[w].name }

// MarshalText writes the name.
func (w Window) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText reads the name.
func (w *Window) UnmarshalText(text []byte) (err error) {
	*w, err = ParseWindow(string(text))
	return err
}

func (w Window) width() Instant { return windowSpecs[w].width }

// Tier is a width of the buckets that tasks are counted in. A bucket that starts
// at s covers (s, s+width]; starts are aligned to UTC.
type Tier uint8

// The tiers. Of the day tier only histories are made.
const (
	TierMinute Tier = iota
	TierFive
	TierHour
	TierDay
	tierCount
)

var tierSpecs = [tierCount]struct {
	width Instant
	kept  Instant
}{
	{minute, 48 * hour},
	{5 * minute, 8 * day},
	{hour, 35 * day},
	{day, 400 * day},
}

// bucketStart is the start of the bucket that an event at t falls into.
func (tier Tier) bucketStart(t Instant) Instant {
	width := tierSpecs[tier].width
	into := (t - 1) % width
	if into < 0 {
		into += width
	}
	return t - 1 - into
}

// lookback is a span that tasks are added up over: the windows, and the shorter
// and longer spans that burn rates are told for.
type lookback uint8

// The first four are the windows, in their order.
const (
	burn5m lookback = lookback(windowCount) + iota
	burn6h
	burn3d
	lookbackCount
)

var lookbackSpecs = [lookbackCount]struct {
	width Instant
	tier  Tier
}{
	{hour, TierMinute},
	{day, TierFive},
	{7 * day, TierHour},
	{30 * day, TierHour},
	{5 * minute, TierMinute},
	{6 * hour, TierFive},
	{3 * day, TierFive},
}

// holds tells whether the bucket of a tier that starts at start is part of the
// lookback at instant now: while it ends later than the span starts.
func (l lookback) holds(start, now Instant) bool {
	spec := lookbackSpecs[l]
	return start+tierSpecs[spec.tier].width > now-spec.width
}

// Objective is what can be promised.
type Objective string

// The objectives, in the order in which they are judged and shown.
const (
	Availability Objective = "availability"
	Latency      Objective = "latency"
	ErrorRate    Objective = "error_rate"
)

const objectiveCount = 3

var objectives = [objectiveCount]Objective{Availability, Latency, ErrorRate}
