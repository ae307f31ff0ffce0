package sla

import (
	"errors"
	"fmt"
)

// Policy is how strictly promises are judged. It is the operator's, and the same
// for all agents.
type Policy struct {
	// Windows are those that breaches are looked for in. Every window is measured.
	Windows []Window
	// MinTasks is how many tasks a verdict on latency or errors needs.
	MinTasks int64
	// For is how long a promise must have been broken before a breach opens.
	For Instant
	// ResolveAfter is how long it must have been kept before a breach ends.
	ResolveAfter Instant
	// Quorum is how many of the reporting probers must say down; 0 means more than
	// half of them.
	Quorum int
	// Notice is how long before its start maintenance must be announced.
	Notice Instant
	// MaintenanceCap is how much maintenance is excluded in any 30 days; the rest
	// counts as normal time.
	MaintenanceCap Instant
	// LateTasks and LateProbes are how old an event may be when it arrives. Probe
	// results are remembered that long, 16 bytes each.
	LateTasks, LateProbes Instant
}

// DefaultPolicy returns what is used where nothing else is said.
func DefaultPolicy() Policy {
	return Policy{
		Windows:        []Window{LastHour, LastDay, LastWeek, LastMonth},
		MinTasks:       20,
		ResolveAfter:   5 * minute,
		Notice:         hour,
		MaintenanceCap: 4 * hour,
		LateTasks:      48 * hour,
		LateProbes:     48 * hour,
	}
}

const (
	// minMeasured and half coverage are what a verdict on availability needs.
	minMeasured = 5 * minute
	// maxFuture is how far ahead of us another clock may be.
	maxFuture = 5 * minute
	// defaultInterval is how often agents are probed.
	defaultInterval = 30 * second
	// staleAfter intervals a probe result says nothing any more.
	staleAfter = 3
	// maxHold is how long a result says something at most, whatever the interval.
	maxHold = 20 * day
	// capSpan is the span that MaintenanceCap is about.
	capSpan = 30 * day
)

// Validate reports what in p cannot be meant.
func (p *Policy) Validate() error {
	var faults []error
	if len(p.Windows) == 0 {
		faults = append(faults, errors.New("windows must not be empty"))
	}
	seen := [windowCount]bool{}
	for _, w := range p.Windows {
		if w >= windowCount || seen[w] {
			faults = append(faults, errors.New("windows must be known and different"))
			break
		}
		seen[w] = true
	}
	if p.MinTasks < 1 {
		faults = append(faults, fmt.Errorf("min_tasks must be at least 1, not %d", p.MinTasks))
	}
	if p.For < 0 || p.ResolveAfter < 0 || p.Quorum < 0 || p.Notice < 0 || p.MaintenanceCap < 0 || p.LateTasks < 0 || p.LateProbes < 0 {
		faults = append(faults, errors.New("times and counts must not be negative"))
	}
	if p.LateTasks > tierSpecs[TierMinute].kept || p.LateProbes > tierSpecs[TierMinute].kept {
		faults = append(faults, errors.New("events more than 48 hours late cannot be counted"))
	}
	return errors.Join(faults...)
}
