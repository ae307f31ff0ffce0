package sla

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
)

// rowsMatter is how long after an event rows of it may have to be taken out of a
// window, or be forgotten.
const rowsMatter = 35*day + 3*hour

// count adds c, and a latency if there is one, to the buckets of all tiers from
// the given one up that at falls into, and to all sums that hold those buckets.
func (e *Engine) count(a *agent, at Instant, c Counts, latency *int64, from Tier) error {
	for tier := from; tier < tierCount; tier++ {
		if err := e.countIn(a, tier, tier.bucketStart(at), c, latency); err != nil {
			return err
		}
	}
	for l := range lookbackCount {
		tier := lookbackSpecs[l].tier
		if tier < from || !l.holds(tier.bucketStart(at), e.now) {
			continue
		}
		a.sums[l].add(c, 1)
		if latency != nil {
			a.sums[l].sketch.Record(*latency)
		}
	}
	e.touched[a] = struct{}{}
	e.rows = max(e.rows, at+rowsMatter)
	return nil
}

func (e *Engine) countIn(a *agent, tier Tier, start Instant, c Counts, latency *int64) error {
	b := a.open[tier]
	if b != nil && b.Start < start {
		if err := e.close(a, tier); err != nil {
			return err
		}
		b = nil
	}
	amended := b != nil && b.Start > start
	if b == nil || amended {
		b = &Bucket{Tier: tier, Start: start, Agent: a.id, Registered: a.registered, SLAVersion: a.promise.version}
		if start <= a.closed[tier] || amended {
			stored, ok, err := e.buckets.Get(tier, start, a.id)
			if err != nil {
				return err
			}
			if ok && stored.Registered == a.registered {
				stored.Counts, stored.SLAVersion = a.taken(&stored), a.promise.version
				stored.Sketch = stored.Sketch.Clone()
				*b = stored
			}
		}
	}
	b.add(c, 1)
	if latency != nil {
		b.Sketch.Record(*latency)
	}
	if amended {
		a.closed[tier] = max(a.closed[tier], start)
		return e.buckets.Put(*b)
	}
	a.open[tier] = b
	return nil
}

// close puts an open bucket away.
func (e *Engine) close(a *agent, tier Tier) error {
	b := a.open[tier]
	e.mark(a)
	a.open[tier] = nil
	a.closed[tier] = max(a.closed[tier], b.Start)
	return e.buckets.Put(*b)
}

// closeAll puts all open buckets of an agent away.
func (e *Engine) closeAll(a *agent) error {
	for tier, b := range a.open {
		if b != nil {
			if err := e.close(a, Tier(tier)); err != nil {
				return err
			}
		}
	}
	return nil
}

// rotate is what a full minute brings: buckets that nothing in order can fall into
// any more are put away, and those that leave a window are taken out of its sums.
func (e *Engine) rotate(now Instant) error {
	for a := range e.touched {
		idle := true
		for tier, b := range a.open {
			switch {
			case b == nil:
			case b.Start+tierSpecs[tier].width < now:
				if err := e.close(a, Tier(tier)); err != nil {
					return err
				}
			default:
				idle = false
			}
		}
		if idle {
			delete(e.touched, a)
		}
	}
	for l, spec := range lookbackSpecs {
		width := tierSpecs[spec.tier].width
		if now%width != 0 {
			continue
		}
		for b, err := range e.buckets.Scan(spec.tier, now-spec.width-width) {
			if err != nil {
				return err
			}
			a := e.agents[b.Agent]
			if a == nil || a.registered != b.Registered {
				continue
			}
			a.sums[l].add(a.taken(&b), -1)
			a.sums[l].sketch.Subtract(&b.Sketch)
			if a.removed == never {
				e.setDue(a, now)
			}
		}
	}
	if now%hour == 0 {
		for tier, spec := range tierSpecs {
			if err := e.buckets.Expire(Tier(tier), now-spec.kept-spec.width); err != nil {
				return err
			}
		}
		e.seen.expire(now)
	}
	return nil
}

// seenTasks remembers which tasks have ended, by the hour in which that became
// known, for at least 48 hours.
type seenTasks struct {
	keys  map[uint64]struct{}
	hours map[Instant][]uint64
}

func newSeenTasks() seenTasks {
	return seenTasks{map[uint64]struct{}{}, map[Instant][]uint64{}}
}

// add reports whether the task had not been seen.
func (s *seenTasks) add(now Instant, o *Outcome) bool {
	if o.Once && len(s.keys) == 0 {
		return true
	}
	digest := sha256.New()
	// Writing to a hash cannot fail. No agent id holds a zero byte.
	_, _ = io.WriteString(digest, o.Agent+"\x00"+o.TaskID)
	key := binary.BigEndian.Uint64(digest.Sum(nil))
	if _, seen := s.keys[key]; seen {
		return false
	}
	if o.Once {
		return true
	}
	s.keys[key] = struct{}{}
	slot := TierHour.bucketStart(now)
	s.hours[slot] = append(s.hours[slot], key)
	return true
}

// expire forgets tasks seen more than 48 hours, and a bucket, ago.
func (s *seenTasks) expire(now Instant) {
	for slot, keys := range s.hours {
		if slot < now-50*hour {
			for _, key := range keys {
				delete(s.keys, key)
			}
			delete(s.hours, slot)
		}
	}
}
