package sla

import "slices"

// State is what is known about whether an agent is up.
type State uint8

// The states. A probe result is one of the first three.
const (
	StateUnknown State = iota
	StateUp
	StateDown
	stateExcluded // planned maintenance
	stateNone     // not registered
)

var stateNames = [...]string{"unknown", "up", "down", "excluded", "none"}

// String is the name of the state: "up".
func (s State) String() string { return stateNames[s] }

// MarshalText writes the name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads "up", "down" or "unknown", and the states of a snapshot.
func (s *State) UnmarshalText(text []byte) error {
	i := slices.Index(stateNames[:], string(text))
	if i < 0 {
		return refusedf("state must be one of: up, down, unknown")
	}
	*s = State(i)
	return nil
}

// spans is time by state, in milliseconds.
type spans struct{ up, down, unknown Instant }

func (s spans) measured() Instant { return s.up + s.down }
func (s spans) eligible() Instant { return s.up + s.down + s.unknown }

func (s spans) minus(o spans) spans {
	return spans{s.up - o.up, s.down - o.down, s.unknown - o.unknown}
}

func (s spans) plus(o spans) spans {
	return spans{s.up + o.up, s.down + o.down, s.unknown + o.unknown}
}

func (s spans) times(k Instant) spans { return spans{s.up * k, s.down * k, s.unknown * k} }

// span is d milliseconds in state s.
func (s State) span(d Instant) spans {
	switch s {
	case StateUp:
		return spans{up: d}
	case StateDown:
		return spans{down: d}
	case StateUnknown:
		return spans{unknown: d}
	default:
		return spans{}
	}
}

// point is a change of state, with what had added up until then.
type point struct {
	at     Instant
	state  State
	before spans
}

// timeline is the state of an agent since it was registered, as its changes: a
// span of any length costs two binary searches.
type timeline []point

// set changes the state from at on, which must not be earlier than the last change.
func (tl *timeline) set(at Instant, s State) {
	n := len(*tl)
	if n == 0 {
		*tl = append(*tl, point{at: at, state: s})
		return
	}
	last := &(*tl)[n-1]
	switch {
	case last.state == s:
	case last.at < at:
		*tl = append(*tl, point{at, s, last.before.plus(last.state.span(at - last.at))})
	case n > 1 && (*tl)[n-2].state == s: // the last change is taken back
		*tl = (*tl)[:n-1]
	default:
		last.state = s
	}
}

// after is the index of the first change later than t.
func (tl timeline) after(t Instant) int {
	i, _ := slices.BinarySearchFunc(tl, t, func(p point, t Instant) int {
		if p.at <= t {
			return -1
		}
		return 1
	})
	return i
}

// until is what has added up until t.
func (tl timeline) until(t Instant) spans {
	i := tl.after(t)
	if i == 0 {
		return spans{}
	}
	p := &tl[i-1]
	return p.before.plus(p.state.span(t - p.at))
}

// between is what adds up from one instant to another.
func (tl timeline) between(from, to Instant) spans { return tl.until(to).minus(tl.until(from)) }

// truncate forgets the changes at and after t.
func (tl *timeline) truncate(t Instant) { *tl = (*tl)[:tl.after(t-1)] }

// prune forgets the changes before t, but for the state at t.
func (tl *timeline) prune(t Instant) {
	if i := tl.after(t) - 1; i > 0 {
		*tl = slices.Delete(*tl, 0, i)
	}
}

// lastMeasured is the end of the last time the agent was known to be up or down,
// or its registration.
func (tl timeline) lastMeasured(now Instant) Instant {
	end := now
	for i := len(tl) - 1; i >= 0; i-- {
		if tl[i].state == StateUp || tl[i].state == StateDown {
			return end
		}
		end = tl[i].at
	}
	return end
}

// Result is what one prober said; it holds until its next result, and at most
// for HoldMS.
type Result struct {
	At     Instant `json:"at"`
	HoldMS int32   `json:"hold_ms"`
	State  State   `json:"state"`
}

func (r *Result) until() Instant { return r.At + Instant(r.HoldMS) }

// Observer is one prober of an agent, with its results in the order of their time.
type Observer struct {
	Name    string   `json:"name"`
	Results []Result `json:"results"`
}

// find returns the result that holds at t, nil if none does.
func (o *Observer) find(t Instant) *Result {
	i := len(o.Results) - 1
	for i >= 0 && o.Results[i].At > t { // nearly always the last one is meant
		i--
	}
	if i < 0 || o.Results[i].until() <= t {
		return nil
	}
	return &o.Results[i]
}

// insert puts r behind all results that are not later.
func (o *Observer) insert(r Result) {
	i := len(o.Results)
	for i > 0 && o.Results[i-1].At > r.At {
		i--
	}
	o.Results = slices.Insert(o.Results, i, r)
}

// observers are the probers of one agent.
type observers []Observer

func (os *observers) named(name string) *Observer {
	for i := range *os {
		if (*os)[i].Name == name {
			return &(*os)[i]
		}
	}
	*os = append(*os, Observer{Name: name})
	return &(*os)[len(*os)-1]
}

// state is what the probers say together at t: unknown if none reports, down if
// enough of those that report say so. A tie is up.
func (os observers) state(t Instant, quorum int) State {
	reporting, down := 0, 0
	for i := range os {
		if r := os[i].find(t); r != nil && r.State != StateUnknown {
			reporting++
			if r.State == StateDown {
				down++
			}
		}
	}
	switch {
	case reporting == 0:
		return StateUnknown
	case quorum > 0 && down >= quorum, quorum == 0 && 2*down > reporting:
		return StateDown
	default:
		return StateUp
	}
}

// nextStale is the first instant after now at which a result stops holding if no
// other comes.
func (os observers) nextStale(now Instant) Instant {
	next := never
	for i := range os {
		if r := os[i].find(now); r != nil {
			next = min(next, r.until())
		}
	}
	return next
}

// changes are the instants in (from, now] at which the state may change.
func (os observers) changes(from, now Instant) (all []Instant) {
	add := func(t Instant) {
		if from < t && t <= now {
			all = append(all, t)
		}
	}
	for i := range os {
		for j := range os[i].Results {
			add(os[i].Results[j].At)
			add(os[i].Results[j].until())
		}
	}
	return all
}

// prune forgets results older than t, but for the last of each prober.
func (os observers) prune(t Instant) {
	for i := range os {
		drop := 0
		for drop < len(os[i].Results)-1 && os[i].Results[drop].At < t {
			drop++
		}
		// Not one by one: the memory is moved once in a while.
		if drop > 8 && drop > len(os[i].Results)/2 || drop > 256 {
			os[i].Results = slices.Delete(os[i].Results, 0, drop)
		}
	}
}
