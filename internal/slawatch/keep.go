package slawatch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go/internal/sla"
)

// keep stores the state, unless something is still to be recorded: that would be
// forgotten with the journal.
func (w *Watch) keep(ctx context.Context) error {
	began := time.Now()
	w.mu.Lock()
	if w.broken != nil || len(w.pending) > 0 || w.ceiling > 0 {
		w.mu.Unlock()
		return nil
	}
	snapshot := w.engine.Snapshot()
	c := &Checkpoint{Position: Position{At: snapshot.Now, Input: w.seq, Records: w.records}}
	c.Buckets, c.Expire = w.buckets.dirty()
	w.mu.Unlock()
	written := map[string]string{}
	changed := func(key string, v any) (bool, error) {
		text, err := json.Marshal(v)
		if err != nil {
			return false, err
		}
		sum := sha256.Sum256(text)
		if w.written[key] == string(sum[:]) {
			return false, nil
		}
		written[key] = string(sum[:])
		return true, nil
	}
	for i := range snapshot.Agents {
		a := &snapshot.Agents[i]
		differs, err := changed(a.Agent, a)
		if err != nil {
			return fmt.Errorf("state of %s: %w", a.Agent, err)
		}
		if differs {
			c.Agents = append(c.Agents, *a)
		}
	}
	for _, seen := range snapshot.Seen {
		if c.SeenSince == 0 {
			c.SeenSince = seen.Hour
		}
		// Hours only grow.
		key, size := "hour "+seen.Hour.String(), strconv.Itoa(len(seen.Keys))
		if w.written[key] != size {
			c.Seen, written[key] = append(c.Seen, seen), size
		}
	}
	if err := w.store.CheckpointSLA(ctx, c); err != nil {
		return fmt.Errorf("store service levels: %w", err)
	}
	for key, sum := range written {
		w.written[key] = sum
	}
	w.stored = c.Position
	w.mu.Lock()
	w.buckets.stored(c.Buckets)
	w.mu.Unlock()
	w.checkpoint = time.Now().Add(max(checkpointEvery, 20*time.Since(began)))
	return nil
}

// buckets is what the engine keeps its buckets in: the store, and before it those
// that are not stored yet. Nothing is stored between two checkpoints, so that the
// store always holds what belongs to its state.
type buckets struct {
	store  Store
	fresh  map[bucketKey]sla.Bucket
	expire map[sla.Tier]sla.Instant
}

type bucketKey struct {
	tier  sla.Tier
	start sla.Instant
	agent string
}

func newBuckets(store Store) *buckets {
	return &buckets{store, map[bucketKey]sla.Bucket{}, map[sla.Tier]sla.Instant{}}
}

// Put implements sla.Buckets.
func (b *buckets) Put(v sla.Bucket) error {
	b.fresh[bucketKey{v.Tier, v.Start, v.Agent}] = v
	return nil
}

// Get implements sla.Buckets.
func (b *buckets) Get(tier sla.Tier, start sla.Instant, agent string) (sla.Bucket, bool, error) {
	if v, ok := b.fresh[bucketKey{tier, start, agent}]; ok {
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
		_, newer := b.fresh[bucketKey{v.Tier, v.Start, v.Agent}]
		return newer
	})
	for key, v := range b.fresh {
		if key.tier == tier && (agent == "" || key.agent == agent) && from <= key.start && key.start < until {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(x, y sla.Bucket) int { return int(x.Start - y.Start) })
	return list, nil
}

// dirty returns what is to be stored.
func (b *buckets) dirty() ([]sla.Bucket, map[sla.Tier]sla.Instant) {
	list := make([]sla.Bucket, 0, len(b.fresh))
	for _, v := range b.fresh {
		list = append(list, v)
	}
	expire := b.expire
	b.expire = map[sla.Tier]sla.Instant{}
	return list, expire
}

// stored forgets what has been stored and not changed since.
func (b *buckets) stored(list []sla.Bucket) {
	for i := range list {
		key := bucketKey{list[i].Tier, list[i].Start, list[i].Agent}
		if now, ok := b.fresh[key]; ok && now.Counts == list[i].Counts && now.SLAVersion == list[i].SLAVersion && now.Registered == list[i].Registered {
			delete(b.fresh, key)
		}
	}
}
