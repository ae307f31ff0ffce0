package slawatch

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/asap-protocol/asap-go/internal/sla"
)

// sweep is a checkpoint under way. It is made of many parts, so that neither the
// engine nor whoever else writes to the store is held up for long. Each part is
// some agents with their buckets, as they are at that moment; the position moves
// with the last one, to where it was when the sweep began. Whoever restores the
// state in between, or later, finds agents that know more than the position says,
// and does not tell them that again.
type sweep struct {
	position  Position
	seen      []sla.SeenTasks
	seenSince sla.Instant
	expire    map[sla.Tier]sla.Instant
	left      int // agents whose state is to be stored
	took      time.Duration
}

// keep stores the next part of the state. more tells that the checkpoint is not
// complete with it. Nothing is stored while something is still to be recorded: it
// would be forgotten with the journal.
func (w *Watch) keep(ctx context.Context) (more bool, err error) {
	began := time.Now()
	w.mu.Lock()
	if w.broken != nil || len(w.pending) > 0 || w.ceiling > 0 {
		w.mu.Unlock()
		return false, nil
	}
	if w.sweep == nil {
		w.sweep = w.begin()
	}
	n := min(w.sweep.left, w.opts.CheckpointAgents)
	c := &Checkpoint{Position: w.stored, Journal: w.seq, Agents: w.engine.TakeChanged(n)}
	for i := range c.Agents {
		c.Agents[i].Mark = w.seq
		c.Buckets = w.buckets.ofAgent(c.Buckets, c.Agents[i].Agent)
	}
	w.mu.Unlock()
	w.sweep.left -= n
	if w.sweep.left == 0 {
		c.Position, c.Seen, c.SeenSince, c.Expire = w.sweep.position, w.sweep.seen, w.sweep.seenSince, w.sweep.expire
	}
	if err := w.store.CheckpointSLA(ctx, c); err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := range c.Agents {
			w.engine.Touch(c.Agents[i].Agent)
		}
		w.buckets.expireAgain(w.sweep.expire)
		w.sweep, w.checkpoint = nil, time.Now().Add(w.opts.CheckpointEvery)
		return false, fmt.Errorf("store service levels: %w", err)
	}
	w.mu.Lock()
	w.buckets.stored(c.Buckets)
	w.mu.Unlock()
	w.sweep.took += time.Since(began)
	if w.sweep.left > 0 {
		return true, nil
	}
	for _, seen := range c.Seen {
		w.seenStored[seen.Hour] = len(seen.Keys)
	}
	w.stored = c.Position
	w.checkpoint = time.Now().Add(max(w.opts.CheckpointEvery, 20*w.sweep.took))
	w.sweep = nil
	return false, nil
}

// begin looks at what a checkpoint has to store. The caller holds mu.
func (w *Watch) begin() *sweep {
	s := &sweep{position: Position{At: w.present, Input: w.seq, Records: w.records}, left: w.engine.Changed(), expire: w.buckets.takeExpired()}
	for i, seen := range w.engine.Seen() {
		if i == 0 {
			s.seenSince = seen.Hour
		}
		if w.seenStored[seen.Hour] != len(seen.Keys) { // hours only grow
			s.seen = append(s.seen, seen)
		}
	}
	for hour := range w.seenStored {
		if hour < s.seenSince {
			delete(w.seenStored, hour)
		}
	}
	return s
}

// keepAll makes a whole checkpoint, after the one that may be under way.
func (w *Watch) keepAll(ctx context.Context) error {
	whole := w.sweep == nil
	for {
		more, err := w.keep(ctx)
		if err != nil {
			return err
		}
		if more {
			continue
		}
		if whole {
			return nil
		}
		whole = true
	}
}

// buckets is what the engine keeps its buckets in: the store, and before it those
// that are not stored yet. They are stored together with the state of their agent,
// so that the store always holds what belongs to it.
type buckets struct {
	store  Store
	fresh  map[string]map[bucketKey]sla.Bucket // by agent
	expire map[sla.Tier]sla.Instant
}

type bucketKey struct {
	tier  sla.Tier
	start sla.Instant
}

func newBuckets(store Store) *buckets {
	return &buckets{store, map[string]map[bucketKey]sla.Bucket{}, map[sla.Tier]sla.Instant{}}
}

// Put implements sla.Buckets.
func (b *buckets) Put(v sla.Bucket) error {
	of := b.fresh[v.Agent]
	if of == nil {
		of = make(map[bucketKey]sla.Bucket, 1)
		b.fresh[v.Agent] = of
	}
	of[bucketKey{v.Tier, v.Start}] = v
	return nil
}

// Get implements sla.Buckets.
func (b *buckets) Get(tier sla.Tier, start sla.Instant, agent string) (sla.Bucket, bool, error) {
	if v, ok := b.fresh[agent][bucketKey{tier, start}]; ok {
		return v, true, nil
	}
	list, err := b.store.SLABuckets(context.Background(), tier, agent, start, start+1)
	if err != nil || len(list) == 0 {
		return sla.Bucket{}, false, err
	}
	return list[0], true, nil
}

// Scan implements sla.Buckets.
func (b *buckets) Scan(tier sla.Tier, start sla.Instant) iter.Seq2[sla.Bucket, error] {
	return func(yield func(sla.Bucket, error) bool) {
		list, err := b.between(tier, "", start, start+1)
		if err != nil {
			yield(sla.Bucket{}, err)
			return
		}
		for _, v := range list {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// Expire implements sla.Buckets.
func (b *buckets) Expire(tier sla.Tier, before sla.Instant) error {
	b.expire[tier] = before
	return nil
}

// between returns the buckets of a tier that start in [from, until), in order.
func (b *buckets) between(tier sla.Tier, agent string, from, until sla.Instant) ([]sla.Bucket, error) {
	list, err := b.store.SLABuckets(context.Background(), tier, agent, from, until)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(v sla.Bucket) bool {
		_, newer := b.fresh[v.Agent][bucketKey{v.Tier, v.Start}]
		return newer
	})
	add := func(of map[bucketKey]sla.Bucket) {
		for key, v := range of {
			if key.tier == tier && from <= key.start && key.start < until {
				list = append(list, v)
			}
		}
	}
	if agent != "" {
		add(b.fresh[agent])
	} else {
		for _, of := range b.fresh {
			add(of)
		}
	}
	slices.SortFunc(list, func(x, y sla.Bucket) int { return int(x.Start - y.Start) })
	return list, nil
}

// ofAgent appends what is to be stored of an agent.
func (b *buckets) ofAgent(to []sla.Bucket, agent string) []sla.Bucket {
	for _, v := range b.fresh[agent] {
		to = append(to, v)
	}
	return to
}

// takeExpired returns what the store may forget by now.
func (b *buckets) takeExpired() map[sla.Tier]sla.Instant {
	expire := b.expire
	b.expire = map[sla.Tier]sla.Instant{}
	return expire
}

// expireAgain takes back takeExpired.
func (b *buckets) expireAgain(expire map[sla.Tier]sla.Instant) {
	for tier, before := range expire {
		b.expire[tier] = max(b.expire[tier], before)
	}
}

// stored forgets what has been stored and not changed since.
func (b *buckets) stored(list []sla.Bucket) {
	for i := range list {
		v := &list[i]
		of, key := b.fresh[v.Agent], bucketKey{v.Tier, v.Start}
		if now, ok := of[key]; ok && now.Counts == v.Counts && now.SLAVersion == v.SLAVersion && now.Registered == v.Registered {
			if delete(of, key); len(of) == 0 {
				delete(b.fresh, v.Agent)
			}
		}
	}
}
