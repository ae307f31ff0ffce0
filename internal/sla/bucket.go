package sla

import (
	"cmp"
	"iter"
	"slices"

	"github.com/asap-protocol/asap-go/internal/sla/sketch"
)

// A Bucket is what one agent did in (Start, Start+width of the tier].
type Bucket struct {
	Tier  Tier
	Start Instant
	Agent string
	// Registered is when the agent was registered: an agent that comes back after
	// its removal begins anew.
	Registered Instant
	Counts
	// SLAVersion tells which promise Slow and Slow2 were counted against; they say
	// nothing under another.
	SLAVersion int64
	Sketch     sketch.Sketch
}

// Buckets keeps closed buckets. A bucket is replaced, never added to, so that
// writing it again changes nothing. Implementations need not be safe for
// concurrent use: an engine calls them from the goroutine that calls it. What an
// implementation returns is not written to by the engine.
type Buckets interface {
	// Put stores b in place of any bucket of the same tier, start and agent.
	Put(b Bucket) error
	// Get returns one bucket; ok is false if there is none.
	Get(tier Tier, start Instant, agent string) (b Bucket, ok bool, err error)
	// Scan yields the buckets of all agents of one tier and start, in any order.
	Scan(tier Tier, start Instant) iter.Seq2[Bucket, error]
	// Expire says that buckets of a tier that start before an instant are not
	// needed by the rules any more.
	Expire(tier Tier, before Instant) error
}

// MemoryBuckets is a Buckets in memory. The zero value is not usable.
type MemoryBuckets struct {
	slots map[slot]map[string]Bucket
}

type slot struct {
	tier  Tier
	start Instant
}

// NewMemoryBuckets returns an empty one.
func NewMemoryBuckets() *MemoryBuckets { return &MemoryBuckets{slots: map[slot]map[string]Bucket{}} }

// Put implements Buckets.
func (m *MemoryBuckets) Put(b Bucket) error {
	at := slot{b.Tier, b.Start}
	if m.slots[at] == nil {
		m.slots[at] = map[string]Bucket{}
	}
	m.slots[at][b.Agent] = b
	return nil
}

// Get implements Buckets.
func (m *MemoryBuckets) Get(tier Tier, start Instant, agent string) (Bucket, bool, error) {
	b, ok := m.slots[slot{tier, start}][agent]
	return b, ok, nil
}

// Scan implements Buckets.
func (m *MemoryBuckets) Scan(tier Tier, start Instant) iter.Seq2[Bucket, error] {
	return func(yield func(Bucket, error) bool) {
		for _, b := range m.slots[slot{tier, start}] {
			if !yield(b, nil) {
				return
			}
		}
	}
}

// Expire implements Buckets.
func (m *MemoryBuckets) Expire(tier Tier, before Instant) error {
	for at := range m.slots {
		if at.tier == tier && at.start < before {
			delete(m.slots, at)
		}
	}
	return nil
}

// All returns every bucket, ordered by tier, start and agent.
func (m *MemoryBuckets) All() []Bucket {
	var all []Bucket
	for _, agents := range m.slots {
		for _, b := range agents {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b Bucket) int {
		return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Start, b.Start), cmp.Compare(a.Agent, b.Agent))
	})
	return all
}
